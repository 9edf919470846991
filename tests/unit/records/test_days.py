from datetime import UTC, date, datetime, timedelta

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.errors import DataError
from pipelines.records import days
from pipelines.records.tables import reccom
from tests.receipts import row

DAY = date(2026, 3, 2)


@pytest.fixture
def file(tmp_path):
    return days.day_file(tmp_path / "archive", DAY)


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(days, "GROUP_ROWS", 10)


def test_columns_are_those_of_the_table():
    assert set(days.SCHEMA.names) == set(reccom.columns.keys())
    assert {column.name for column in reccom.primary_key} == set(days.KEY)


def test_rows_come_back_as_they_were(file):
    written = [row("a", canary_percent=None, watched=""), row("b", latency_ms=0.125)]
    days.write(file, written)
    assert list(days.read(file)) == written


def test_times_say_that_they_are_utc(file):
    days.write(file, [row()])
    assert pq.read_table(file)["served_at"].to_pylist() == [datetime(2026, 3, 2, 10, 0, 0, 250_000, UTC)]


def test_days_are_known_by_the_names_of_their_files(file):
    assert days.days(file.parent) == []
    days.write(file, [row()])
    for name in ("2026-03-01.parquet", ".2026-03-03.parquet.tmp", "notes.parquet"):
        (file.parent / name).touch()
    assert days.days(file.parent) == [DAY - timedelta(days=1), DAY]


def test_file_that_was_not_finished_does_not_show(file):
    def torn():
        yield row()
        raise OSError("No space left on device")

    with pytest.raises(
        DataError, match=r"could not write .*2026-03-02.parquet: No space left.*stay in the da"
    ):
        days.write(file, torn())
    assert days.days(file.parent) == []


@pytest.mark.usefixtures("small_groups")
def test_look_up_by_id_reads_one_group(file, monkeypatch):
    days.write(file, (row(f"{number:03d}") for number in range(100)))
    read = []

    def spied(self, number, columns=None, *, really=pq.ParquetFile.read_row_group):
        read.append((number, columns))
        return really(self, number, columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spied)
    assert days.rows(days.select(file, "request_id", "042")) == [row("042")]
    assert read == [(42 // 10, ["request_id"]), (42 // 10, None)]


@pytest.mark.usefixtures("small_groups")
def test_look_up_by_user_finds_all_over_the_file(file):
    written = [row(f"{number:03d}", user_id=str(number % 7)) for number in range(100)]
    days.write(file, written)
    assert days.rows(days.select(file, "user_id", "3")) == written[3::7]
    assert days.rows(days.select(file, "user_id", "8")) == []


def test_scan_returns_the_columns_of_the_rows_that_are_wanted(file):
    days.write(file, [row("a", version_number=3), row("b", version_number=4)])
    found = days.scan(file, ["request_id"], pc.field("request_id") > "a")
    assert found.to_pylist() == [{"request_id": "b"}]


def test_damaged_file_is_named_with_what_to_do(file):
    file.parent.mkdir()
    file.write_bytes(b"PAR1, or not")
    with pytest.raises(DataError, match=r"2026-03-02.parquet is not a readable archive.*from a backup"):
        days.select(file, "request_id", "a")
