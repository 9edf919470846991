import logging
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, inspect, select, text
from sqlalchemy.exc import IntegrityError

from pipelines.errors import MarqueeError, SettingsError
from pipelines.records import database
from pipelines.records.database import connect, migrate, naive_utc, revision, upsert
from pipelines.records.tables import looks, metadata, reccom, spools, tracking
from tests.receipts import row


def test_migrated_tables_are_the_tables_of_the_code(url, opened):
    migrate(url)
    with opened(url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_migrating_again_changes_nothing_and_keeps_the_rows(url, opened):
    migrate(url)
    engine = opened(url)
    with engine.begin() as connection:
        connection.execute(insert(spools).values(file="stable-1-7-1", shipped_bytes=10))
    migrate(url)
    with engine.connect() as connection:
        assert connection.execute(select(spools)).all() == [("stable-1-7-1", 10)]


def test_revision_is_that_of_the_tables(url, opened):
    assert revision(url) is None
    alembic_to(opened(url), "0002")
    assert revision(url) == "0002"
    migrate(url)
    assert revision(url) > "0002"


def alembic_to(engine, revision, run=command.upgrade):
    """Bring the tables of an SQLite database to a revision as `migrate` does."""
    with engine.begin() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        run(database._alembic(connection), revision)


@pytest.fixture
def of_first_revision(url, opened):
    """A database of the first revision with one receipt and one version."""
    engine = opened(url)
    alembic_to(engine, "0001")
    answered = row("a") | {"served_at": str(row("a")["served_at"])}
    del answered["watched"]
    columns = ", ".join(answered)
    values = ", ".join(f":{name}" for name in answered)
    version = "(3, '2026-03-01 08:00:00', '2026-03-01 09:00:00', 0.9, 'c', 'manual-3')"
    with engine.begin() as connection:
        connection.execute(text(f"insert into reccom ({columns}) values ({values})"), answered)
        connection.execute(text(f"insert into tracking values {version}"))
    return engine


def test_rows_of_the_first_tables_survive(url, of_first_revision):
    migrate(url)
    with of_first_revision.connect() as connection:
        assert connection.execute(select(reccom)).mappings().all() == [row("a", watched="")]
        assert connection.execute(select(tracking)).one()[-5:] == ("manual-3", None, None, None, None)


def test_going_back_keeps_of_each_request_the_answer_that_the_viewer_got(url, of_first_revision):
    before = tables_of(of_first_revision)
    migrate(url)
    later = row("a", served_at=datetime(2026, 3, 2, 11), replica="stable-2")
    with of_first_revision.begin() as connection:
        connection.execute(insert(reccom).values(later))
    alembic_to(of_first_revision, "0001", run=command.downgrade)
    with of_first_revision.connect() as connection:
        assert connection.execute(text("select replica from reccom")).all() == [("stable-2",)]
        assert connection.execute(text("select run_id from tracking")).all() == [("manual-3",)]
    assert tables_of(of_first_revision) == before


def tables_of(engine):
    """Columns, keys and indexes of each table."""
    seen = inspect(engine)
    return {
        name: (
            sorted(
                (column["name"], str(column["type"]), column["nullable"]) for column in seen.get_columns(name)
            ),
            seen.get_pk_constraint(name)["constrained_columns"],
            sorted((index["name"], index["column_names"]) for index in seen.get_indexes(name)),
        )
        for name in seen.get_table_names()
    }


def test_migrating_makes_the_missing_folder(tmp_path):
    migrate(f"sqlite:///{tmp_path}/new/folder/records.db")
    assert (tmp_path / "new/folder/records.db").is_file()


def test_migrating_works_from_any_folder_and_on_a_relative_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    migrate("sqlite:///records.db")
    assert (tmp_path / "records.db").is_file()


def test_migrating_leaves_logging_as_it_was(url):
    before = (logging.root.level, list(logging.root.handlers), logging.getLogger("pipelines").disabled)
    migrate(url)
    assert (
        logging.root.level,
        list(logging.root.handlers),
        logging.getLogger("pipelines").disabled,
    ) == before


def test_failed_migration_leaves_nothing_behind(tmp_path, url, opened):
    with closing(sqlite3.connect(tmp_path / "records.db")) as foreign:
        foreign.execute("create table looks (colour text)")
    with pytest.raises(MarqueeError, match=r"table looks already exists.*MARQUEE_RECORDS_URL"):
        migrate(url)
    assert inspect(opened(url)).get_table_names() == ["looks"]


def test_database_of_newer_code_is_refused(url, opened):
    migrate(url)
    with opened(url).begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(MarqueeError, match="9999"):
        migrate(url)


def test_sqlite_reads_beside_a_writer_and_waits_for_a_lock(url, opened):
    with opened(url).connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA busy_timeout")) == 30 * 1000
        full = 2
        assert connection.scalar(text("PRAGMA synchronous")) == full


def test_address_may_set_another_wait(url, opened):
    with opened(f"{url}?timeout=2").connect() as connection:
        assert connection.scalar(text("PRAGMA busy_timeout")) == 2 * 1000


def test_look_at_no_release_is_refused(url, opened):
    migrate(url)
    row = {"release_id": 5, "at": datetime(2026, 1, 1), "measurement": {}, "verdict": "x", "reason": ""}
    with opened(url).begin() as connection, pytest.raises(IntegrityError):
        connection.execute(insert(looks).values(row))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "is not a database address"),
        ("postgresql://me:secret@host/records", "allowed are sqlite, mysql, mariadb"),
        ("mysql+nodriver://me:secret@host/records", "install that driver"),
        ("sqlite://", "memory of one process"),
        ("sqlite:///:memory:", "memory of one process"),
    ],
)
def test_address_that_cannot_be_used_is_refused_without_its_password(address, said):
    with pytest.raises(SettingsError, match=said) as refusal:
        connect(address)
    assert "MARQUEE_RECORDS_URL" in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_upsert_overwrites_the_row_of_the_same_key(url, opened):
    migrate(url)
    with opened(url).begin() as connection:
        upsert(connection, spools, {"file": "a", "shipped_bytes": 1})
        upsert(connection, spools, {"file": "b", "shipped_bytes": 2})
        upsert(connection, spools, {"file": "a", "shipped_bytes": 3})
        assert connection.execute(select(spools).order_by(spools.c.file)).all() == [("a", 3), ("b", 2)]


def test_times_are_stored_in_utc_without_zone():
    in_montreal = datetime(2026, 3, 1, 9, 30, tzinfo=timezone(timedelta(hours=-5)))
    assert naive_utc(in_montreal) == datetime(2026, 3, 1, 9 + 5, 30)
    assert naive_utc(datetime(2026, 3, 1, tzinfo=UTC)) == datetime(2026, 3, 1)
    assert naive_utc(datetime(2026, 3, 1)) == datetime(2026, 3, 1)
