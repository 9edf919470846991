from datetime import UTC, date, datetime, timedelta

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select

from pipelines.errors import DataError, Locked
from pipelines.records import archive as archiving
from pipelines.records import days
from pipelines.records.archive import Archived, archive
from pipelines.records.tables import reccom
from tests.fakes import Killed
from tests.receipts import row

FIRST = datetime(2026, 3, 1)
SECOND, THIRD = FIRST + timedelta(days=1), FIRST + timedelta(days=2)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "receipts"


def store(engine, *rows):
    with engine.begin() as connection:
        connection.execute(insert(reccom), list(rows))


def stored(engine):
    with engine.connect() as connection:
        return [row._asdict() for row in connection.execute(select(reccom).order_by(reccom.c.request_id))]


def on(day, *request_ids):
    """Receipts of a day: hourly from its first microsecond on, the last one in its last."""
    rows = [row(name, served_at=day + timedelta(hours=hour)) for hour, name in enumerate(request_ids)]
    if len(rows) > 1:
        rows[-1]["served_at"] = day + timedelta(days=1, microseconds=-1)
    return rows


def archived(folder):
    return {str(day): list(days.read(days.day_file(folder, day))) for day in days.days(folder)}


def test_whole_days_leave_the_database_and_a_begun_one_stays(engine, folder):
    first, second, third = on(FIRST, "a", "c"), on(SECOND, "b", "d"), on(THIRD, "e", "f")
    store(engine, *third, *second, *first)
    done = archive(engine, folder, before=THIRD + timedelta(hours=12))
    assert done == [
        Archived(date(2026, 3, 1), 2, folder / "2026-03-01.parquet"),
        Archived(date(2026, 3, 2), 2, folder / "2026-03-02.parquet"),
    ]
    assert archived(folder) == {"2026-03-01": first, "2026-03-02": second}
    assert stored(engine) == third


def test_a_day_ends_when_it_ends_in_utc(engine, folder):
    store(engine, *on(FIRST, "a"))
    assert archive(engine, folder, before=datetime.fromisoformat("2026-03-02T00:30:00+01:00")) == []
    assert len(archive(engine, folder, before=SECOND.replace(tzinfo=UTC))) == 1


def test_nothing_old_is_nothing_to_do(engine, folder):
    assert archive(engine, folder, before=FIRST) == []
    store(engine, *on(SECOND, "a"))
    assert archive(engine, folder, before=SECOND) == []
    assert archived(folder) == {}


def test_rows_are_sorted_by_request_and_then_by_time(engine, folder):
    attempts = [
        row("a", served_at=FIRST + timedelta(hours=hour), replica=name) for hour, name in [(1, "b"), (2, "a")]
    ]
    store(engine, row("b", served_at=FIRST), *reversed(attempts))
    archive(engine, folder, before=SECOND)
    assert archived(folder)["2026-03-01"] == [*attempts, row("b", served_at=FIRST)]


def test_late_receipts_are_merged_into_their_day(engine, folder):
    store(engine, *on(FIRST, "a", "c"))
    archive(engine, folder, before=SECOND)
    late = row("b", served_at=FIRST)
    store(engine, late)
    assert [done.receipts for done in archive(engine, folder, before=SECOND)] == [1]
    assert archived(folder)["2026-03-01"] == sorted([*on(FIRST, "a", "c"), late], key=days.key)
    assert stored(engine) == []


def test_receipt_that_comes_while_its_day_is_archived_waits_for_the_next_run(engine, folder, monkeypatch):
    late = row("a", served_at=FIRST + timedelta(hours=1), replica="other")

    def write_and_then_comes_another(path, rows, *, really=days.write):
        really(path, rows)
        store(engine, late)

    store(engine, *on(FIRST, "a", "b"))
    with monkeypatch.context() as patched:
        patched.setattr(archiving, "write", write_and_then_comes_another)
        assert [done.receipts for done in archive(engine, folder, before=SECOND)] == [0]
    assert late in stored(engine)
    archive(engine, folder, before=SECOND)
    assert archived(folder)["2026-03-01"] == sorted([*on(FIRST, "a", "b"), late], key=days.key)
    assert stored(engine) == []


def test_receipts_of_the_same_moment_leave_together(engine, folder, monkeypatch):
    everything = [row(name, served_at=FIRST) for name in "abc"]
    store(engine, *everything, row("d", served_at=FIRST + timedelta(hours=1)))
    monkeypatch.setattr(archiving, "DELETE_ROWS", 2)
    assert [done.receipts for done in archive(engine, folder, before=SECOND)] == [4]
    assert stored(engine) == []


@pytest.mark.parametrize("portions", range(6))
def test_killed_between_any_two_steps_loses_and_doubles_nothing(engine, folder, monkeypatch, portions):
    """Killed before the deletion of the n-th portion of two rows: before all, in between, and after all."""
    everything = on(FIRST, *"abcde")
    store(engine, *everything)
    monkeypatch.setattr(archiving, "DELETE_ROWS", 2)
    left = iter(range(portions))

    def mortal(*arguments, really=archiving._delete):
        if next(left, None) is None:
            raise Killed
        return really(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(archiving, "_delete", mortal)
        try:
            archive(engine, folder, before=SECOND)
        except Killed:
            assert len(stored(engine)) == 5 - 2 * portions
    archive(engine, folder, before=SECOND)
    assert archived(folder)["2026-03-01"] == everything
    assert stored(engine) == []


def test_killed_while_writing_leaves_the_day_in_the_database(engine, folder, monkeypatch):
    def torn(path, rows):
        path.with_name(f".{path.name}.tmp").write_bytes(b"half")
        raise Killed

    store(engine, *on(FIRST, "a", "b"))
    with monkeypatch.context() as patched:
        patched.setattr(archiving, "write", torn)
        with pytest.raises(Killed):
            archive(engine, folder, before=SECOND)
    assert stored(engine) == on(FIRST, "a", "b")
    archive(engine, folder, before=SECOND)
    assert archived(folder)["2026-03-01"] == on(FIRST, "a", "b")
    assert {path.name for path in folder.iterdir()} == {".lock", "2026-03-01.parquet"}


def test_damaged_file_keeps_its_day_in_the_database(engine, folder):
    folder.mkdir()
    (folder / "2026-03-01.parquet").write_bytes(b"damaged")
    store(engine, *on(FIRST, "a"))
    with pytest.raises(DataError, match="put it back from a backup"):
        archive(engine, folder, before=SECOND)
    assert stored(engine) == on(FIRST, "a")
    assert (folder / "2026-03-01.parquet").read_bytes() == b"damaged"


def test_only_one_archives_at_a_time(engine, folder):
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(Locked, match="somebody else is archiving into"):
        archive(engine, folder, before=SECOND)


KEYS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from("xy")), unique=True)


@given(kept=KEYS, new=KEYS)
def test_merged_streams_are_sorted_and_hold_each_row_once(kept, new):
    def rows(keys):
        return [dict(zip(days.KEY, key, strict=True)) for key in sorted(keys)]

    merged = [days.key(row) for row in archiving._merged(rows(kept), rows(new))]
    assert merged == sorted({*kept, *new})
