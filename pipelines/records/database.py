"""The one door to the records database: connect to it, bring its tables up to date, write by key.

SQLite keeps the records of one machine, MySQL (or MariaDB) those of the containers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from filelock import FileLock, Timeout
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pipelines.errors import MarqueeError, SettingsError
from pipelines.records.tables import metadata

BUSY_TIMEOUT_S = 30
"""How long a writer waits for another one before it is told that the database is locked."""

_MIGRATE_TIMEOUT_S = 60
_MIGRATIONS_DIR = Path(__file__).resolve().parent / "migrations"
# Of MySQL: access to a database, a command on a table, any command at all.
_DENIED = (1044, 1142, 1227)
# A table, a column, an index, a primary key is there already; what is to be dropped is not.
_DONE = (1050, 1060, 1061, 1068, 1091)
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

    The folder of a SQLite file is made when it is missing. On SQLite the upgrade happens whole or not at all;
    on MySQL each statement does, and what an upgrade that was killed has done is not done again. Where the
    tables are up to date, a user will do who may not change them.

    Raises:
        SettingsError: as `connect`.
        MarqueeError: the database cannot be reached, holds foreign tables, is newer than this code, or its
            tables are out of date and not this user's to change.
    """
    engine = connect(url)
    done_before: list[str] = []
    if engine.dialect.name != "sqlite":
        event.listen(engine, "do_execute", partial(_unless_done, done_before))
    try:
        with _one_at_a_time(engine), engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                # sqlite3 commits every CREATE by itself unless a transaction was begun by hand.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            command.upgrade(_alembic(connection), "head")
            if done_before:
                _see_that_all_is_ours(connection)
    except (SQLAlchemyError, CommandError, OSError, Timeout) as error:
        raise MarqueeError(
            f"the tables of {engine.url!r} could not be brought up to date: {brief(error)}; {_advice(error)}"
        ) from error
    finally:
        engine.dispose()


def revision(url: str) -> str | None:
    """Return the migration that the tables behind ``url`` are at; None: there are none of ours.

    Raises:
        SettingsError: as `connect`.
        MarqueeError: the database cannot be reached.
    """
    engine = connect(url)
    try:
        if engine.dialect.name == "sqlite" and not Path(str(engine.url.database)).exists():
            return None
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except SQLAlchemyError as error:
        raise MarqueeError(
            f"{engine.url!r} does not answer: {brief(error)}; "
            "see that the database is up and takes this user (MARQUEE_RECORDS_URL)"
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


def _advice(error: Exception) -> str:
    code = next(iter(getattr(getattr(error, "orig", None), "args", ())), None)
    if code in _DENIED:
        newest = ScriptDirectory(str(_MIGRATIONS_DIR)).get_current_head()
        return (
            f"this code wants them at {newest}, and this user may not change tables: run "
            "`python -m pipelines migrate` as one who may (of the containers: the service records-init)"
        )
    return "see that the database is up, is ours and is not newer than this code (MARQUEE_RECORDS_URL)"


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


def _unless_done(done_before: list[str], cursor: Any, statement: str, parameters: Any, _context: Any) -> bool:
    """Execute ``statement`` in SQLAlchemy's place; one that was executed before is remembered instead."""
    try:
        cursor.execute(statement, parameters)
    except Exception as error:
        if next(iter(error.args), None) not in _DONE:
            raise
        done_before.append(statement)
    return True


def _see_that_all_is_ours(connection: Connection) -> None:
    # What was there already may have been somebody else's.
    options = {"include_name": lambda name, kind, _: kind != "table" or name in metadata.tables}
    found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    if found:
        raise CommandError(f"there were tables of other shapes: {str(found)[:500]}")


def _alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS_DIR).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
