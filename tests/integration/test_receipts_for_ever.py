"""Receipts through migrations, archiving and look-ups, on SQLite and on MariaDB."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Engine, event, func, insert, inspect, select, text

from pipelines.records import archive as archiving
from pipelines.records import database, days
from pipelines.records.archive import archive
from pipelines.records.database import connect, migrate
from pipelines.records.lookup import Receipts
from pipelines.records.tables import reccom, tracking
from tests.fakes import Killed
from tests.receipts import row

DAY = datetime(2026, 3, 2, tzinfo=UTC)
NEXT_DAY = DAY + timedelta(days=1)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'records.db'}"


@pytest.fixture(params=["sqlite_url", "mysql_url"])
def url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = connect(url)
    yield engine
    engine.dispose()


def alembic_to(engine: Engine, revision: str, run: Callable[..., None] = command.upgrade) -> None:
    with engine.begin() as connection:
        run(database._alembic(connection), revision)


def store(engine: Engine, *rows: dict[str, object]) -> None:
    with engine.begin() as connection:
        connection.execute(insert(reccom), list(rows))


def stored(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(reccom))


def test_there_and_back_keeps_the_rows_and_the_tables(url: str, engine: Engine) -> None:
    alembic_to(engine, "0001")
    answered = row("a") | {"served_at": "2026-03-02 10:00:00.250000"}
    del answered["watched"]
    version = "(3, '2026-03-01 08:00:00', '2026-03-01 09:00:00', 0.9, 'c', 'manual-3')"
    with engine.begin() as connection:
        values = ", ".join(f":{name}" for name in answered)
        connection.execute(text(f"insert into reccom ({', '.join(answered)}) values ({values})"), answered)
        connection.execute(text(f"insert into tracking values {version}"))
    before = inspect(engine).get_indexes("reccom")

    migrate(url)
    with engine.connect() as connection:
        assert connection.execute(select(reccom)).mappings().one() == row("a", watched="")
        assert connection.execute(select(tracking)).one()[-5:] == ("manual-3", None, None, None, None)
    store(engine, row("a", served_at="2026-03-02T11:00:00+00:00", replica="stable-2"), row("A"))

    with engine.begin() as connection:
        connection.execute(reccom.delete().where(reccom.c.request_id == "A"))
    alembic_to(engine, "0001", command.downgrade)
    with engine.connect() as connection:
        assert connection.execute(text("select request_id, replica from reccom")).all() == [("a", "stable-2")]
    by_name = {index["name"]: index["column_names"] for index in inspect(engine).get_indexes("reccom")}
    assert by_name == {index["name"]: index["column_names"] for index in before}


@pytest.fixture
def migrated(url: str, engine: Engine) -> Engine:
    migrate(url)
    return engine


def test_archiver_killed_at_any_step_loses_and_doubles_nothing(
    migrated: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One life for each statement and commit there is, until a life is too short for its kill."""
    monkeypatch.setattr(archiving, "DELETE_ROWS", 2)
    alive, steps = 10**6, 0

    def step(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == alive:
            raise Killed

    event.listen(migrated, "before_cursor_execute", step)
    event.listen(migrated, "commit", step)
    wanted = []
    for last_step in range(1, 100):
        minutes = [DAY + timedelta(minutes=5 * last_step + each) for each in range(4)]
        new = [row(f"{last_step:02}-{at.minute}", served_at=at.isoformat()) for at in minutes]
        store(migrated, *new)
        wanted += new
        alive, steps = last_step, 0
        killed = False
        try:
            archive(migrated, tmp_path / "receipts", before=NEXT_DAY)
        except Killed:
            killed = True
        alive = 10**6
        receipts = Receipts(migrated, tmp_path / "receipts", tmp_path / "spool")
        assert receipts.of_version(3).answers == len(wanted), f"after a kill before step {last_step}"
        archive(migrated, tmp_path / "receipts", before=NEXT_DAY)
        assert list(days.read(tmp_path / "receipts/2026-03-02.parquet")) == sorted(wanted, key=days.key)
        assert stored(migrated) == 0
        if not killed:
            break
    assert not killed
    # The oldest row, the day, two portions with a commit each, the next oldest row.
    assert last_step > 2 + 2 * 2 + 1


def test_receipts_are_found_in_database_and_archive(migrated: Engine, tmp_path: Path) -> None:
    def tell() -> list[object]:
        spans = {"since": DAY, "until": NEXT_DAY}
        found = [*receipts.find("a"), *receipts.find("A"), *receipts.of_user("u", **spans, limit=3)]
        told = [(each.request_id, each.user_id, each.replica, each.served_at) for each in found]
        return [told, receipts.versions_between(DAY, NEXT_DAY), receipts.of_version(3)]

    receipts = Receipts(migrated, tmp_path / "receipts", tmp_path / "spool")
    store(
        migrated,
        row("a", user_id="u"),
        row("a", user_id="u", served_at="2026-03-02T10:00:00.250001+00:00", replica="canary"),
        row("A", user_id="U"),
        row("b", user_id="u", source="trending", canary_percent=None),
        row("c", user_id="u", version_number=4),
        row("d", user_id="u ", version_number=5),
    )
    from_database = tell()
    archive(migrated, tmp_path / "receipts", before=NEXT_DAY)
    assert stored(migrated) == 0
    assert tell() == from_database
    told, shares, use = from_database
    assert [each[0] for each in told] == ["a", "a", "A", "a", "c", "b"]
    counts = [(share.version, share.answers, share.users) for share in shares]
    assert counts == [(3, 1, 1), (3, 3, 2), (4, 1, 1), (5, 1, 1)]
    assert (use.answers, use.users, use.by_source) == (4, 2, {"personal": 3, "trending": 1})
