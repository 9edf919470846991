"""The one door to the records database: connect to it, bring its tables up to date, write by key.

SQLite keeps the records of one machine, MySQL (or MariaDB) those of the containers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from filelock import FileLock, Timeout
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pipelines.errors import MarqueeError, SettingsError

BUSY_TIMEOUT_S = 30
"""How long a writer waits for another one before it is told that the database is locked."""

_MIGRATE_TIMEOUT_S = 60
_MIGRATIONS_DIR = Path(__file__).resolve().parent / "migrations"
_SUPPORTED = ("sqlite", "mysql", "mariadb")


def connect(url: str) -> Engine:
    """Return an engine for ``url``; nothing is opened before the first use.

    Raises:
        SettingsError: the address is malformed, names another kind of database, or its driver is missing.
    """
    address = _address(url)
    try:
        if address.get_backend_name() != "sqlite":
            return create_engine(address, pool_pre_ping=True)
        wait = {} if "timeout" in address.query else {"timeout": BUSY_TIMEOUT_S}
        engine = create_engine(address, connect_args=wait)
    except (ImportError, SQLAlchemyError) as error:
        raise SettingsError(
            f"MARQUEE_RECORDS_URL={address!r} cannot be used: {error}; "
            "install that driver, or name one that is installed, as in mysql+pymysql://"
        ) from error
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def migrate(url: str) -> None:
    """Bring the tables behind ``url`` up to date; any number of processes may do so at once.

    The folder of a SQLite file is made when it is missing. On SQLite the upgrade happens whole or not at all.

    Raises:
        SettingsError: as `connect`.
        MarqueeError: the database cannot be reached, holds foreign tables, or is newer than this code.
    """
    engine = connect(url)
    try:
        with _one_at_a_time(engine), engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                # sqlite3 commits every CREATE by itself unless a transaction was begun by hand.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            command.upgrade(_alembic(connection), "head")
    except (SQLAlchemyError, CommandError, OSError, Timeout) as error:
        raise MarqueeError(
            f"the tables of {engine.url!r} could not be brought up to date: {brief(error)}; "
            "see that the database is up, is ours and is not newer than this code (MARQUEE_RECORDS_URL)"
        ) from error
    finally:
        engine.dispose()


def upsert(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Insert ``row``, or overwrite the row of ``table`` that has the same primary key."""
    if connection.dialect.name == "sqlite":
        key = list(table.primary_key)
        connection.execute(
            sqlite.insert(table).values(row).on_conflict_do_update(index_elements=key, set_=row)
        )
    else:
        connection.execute(mysql.insert(table).values(row).on_duplicate_key_update(row))


def naive_utc(moment: datetime) -> datetime:
    """Return ``moment`` as the tables store it: UTC without zone; without a zone it is UTC already."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def brief(error: Exception) -> str:
    """Return what the database said, without the statement and its rows."""
    return str(getattr(error, "orig", None) or error)


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise SettingsError(
            "MARQUEE_RECORDS_URL is not a database address; wanted is something like "
            "sqlite:////srv/marquee/records.db or mysql+pymysql://user:password@host/records"
        ) from error
    if address.get_backend_name() not in _SUPPORTED:
        raise SettingsError(
            f"MARQUEE_RECORDS_URL={address!r} names a database that the records cannot be kept in; "
            f"allowed are {', '.join(_SUPPORTED)}"
        )
    if address.get_backend_name() == "sqlite" and address.database in (None, "", ":memory:"):
        raise SettingsError(
            f"MARQUEE_RECORDS_URL={url!r} would keep the records in the memory of one process; "
            "name a file, as in sqlite:////srv/marquee/records.db"
        )
    return address


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # WAL lets the release read while the recorder writes. `synchronous` stays FULL: a receipt's spool file
    # is deleted after the commit, so a commit has to outlive a power cut.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")


@contextmanager
def _one_at_a_time(engine: Engine) -> Iterator[None]:
    if engine.dialect.name != "sqlite":
        with engine.connect() as connection:
            name = {"name": "marquee-migrate", "timeout_s": _MIGRATE_TIMEOUT_S}
            if connection.execute(text("SELECT GET_LOCK(:name, :timeout_s)"), name).scalar() != 1:
                raise Timeout(f"lock marquee-migrate of {engine.url!r}")
            # Held by this connection: gone with it, whatever happens.
            yield
            connection.execute(text("SELECT RELEASE_LOCK(:name)"), name)
    else:
        file = Path(str(engine.url.database)).resolve()
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.migrate.lock", timeout=_MIGRATE_TIMEOUT_S):
            yield


def _alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS_DIR).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
