from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipelines.data import batches
from pipelines.data.batches import Batch, BatchInfo, list_batches, read_kind, read_ratings, read_viewings
from pipelines.data.folding import fold
from pipelines.errors import DataError
from pipelines.events.grammar import Event, Rating, Request, Watch
from pipelines.events.lines import Lines
from pipelines.events.parsing import parse_lines

NOON = datetime(2022, 11, 14, 12, 0, tzinfo=UTC)
NOON_S = int(NOON.timestamp())


def at(second: float) -> datetime:
    return NOON + timedelta(seconds=second)


def written(folder: Path, events: Sequence[Event | bytes], first: int = 0, partition: int = 0) -> Batch:
    values = [event if isinstance(event, bytes) else event.line().encode() for event in events]
    folded = fold(parse_lines([Lines.of(range(first, first + len(values)), values)]))
    info = BatchInfo(identity="topic-uuid", collected_at=NOON, **folded.figures)
    batch = Batch("movielog4", 1, partition, first, first + len(events) - 1, folder)
    batches.write(batch, folded.kinds, info)
    return batch


class TestNames:
    def test_a_name_says_topic_generation_partition_and_range(self, tmp_path: Path) -> None:
        batch = Batch("my-topic.v2", 3, 11, 5, 1_234_567_890_123, tmp_path)
        assert batch.name == "my-topic.v2~3-11-000000000005-1234567890123.parquet"
        batch.path.touch()
        assert list_batches(tmp_path) == [batch]

    def test_batches_are_sorted_by_number_not_by_text(self, tmp_path: Path) -> None:
        sorted_batches = [
            Batch("a", 2, 0, 0, 9, tmp_path),
            Batch("a", 10, 0, 0, 9, tmp_path),
            Batch("a", 10, 2, 0, 9, tmp_path),
            Batch("a", 10, 10, 0, 9, tmp_path),
            Batch("b", 1, 0, 10**12, 10**12 + 9, tmp_path),
            Batch("b", 1, 0, 10**13, 10**13 + 9, tmp_path),
        ]
        for batch in reversed(sorted_batches):
            batch.path.touch()
        assert list_batches(tmp_path) == sorted_batches

    @pytest.mark.parametrize(
        "name",
        [
            ".movielog4~1-0-000000000000-000000000009.parquet.tmp",
            "movielog4~1-0-000000000000-000000000009.parquet.dvc",
            "movielog4~1-0-0-9.parquet",
            "movielog4-1-0-000000000000-000000000009.parquet",
            "report.json",
            ".collect.lock",
        ],
    )
    def test_other_files_are_passed_over(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).touch()
        assert list_batches(tmp_path) == []

    def test_a_folder_that_is_not_there_has_no_batches(self, tmp_path: Path) -> None:
        assert list_batches(tmp_path / "nothing") == []


class TestWriting:
    def test_a_batch_tells_what_it_was_made_of(self, tmp_path: Path) -> None:
        rating = Rating(at(30), 7, "heat+1995", 5)
        info = written(tmp_path, [Watch(at(0), 7, "heat+1995", 1), rating, rating, b"garbage"]).info()
        assert info == BatchInfo(
            lines=4,
            counts={"watch": 1, "rating": 2, "request": 0, "reject": 1},
            rejects={"bad-time": 1},
            duplicates=1,
            identity="topic-uuid",
            collected_at=NOON,
            first_time=at(0),
            last_time=at(30),
            hours={"2022-11-14T12": {"watch": 1, "rating": 2}},
        )

    def test_a_batch_of_rejects_has_no_times(self, tmp_path: Path) -> None:
        info = written(tmp_path, [b"garbage"]).info()
        assert (info.first_time, info.last_time) == (None, None)

    def test_each_kind_is_a_row_group_so_that_readers_skip_the_others(self, tmp_path: Path) -> None:
        batch = written(tmp_path, [Watch(at(0), 7, "heat+1995", 1), b"", Rating(at(1), 7, "heat+1995", 5)])
        groups = pq.read_metadata(batch.path)
        kinds = [groups.row_group(index).column(0).statistics for index in range(groups.num_row_groups)]
        assert [(kind.min, kind.max) for kind in kinds] == [(k, k) for k in ("watch", "rating", "reject")]

    def test_nothing_unfinished_stays(self, tmp_path: Path) -> None:
        batch = written(tmp_path, [b"garbage"])
        assert list(tmp_path.iterdir()) == [batch.path]

    def test_a_disk_that_refuses_is_a_data_error(self, tmp_path: Path) -> None:
        batch = written(tmp_path, [b"garbage"])
        with pytest.raises(DataError, match=r"could not write .*then collect again"):
            batches.write(replace(batch, folder=tmp_path / "missing"), [], batch.info())


class TestRatings:
    def test_every_rating_is_returned_in_the_order_of_time_across_batches(self, tmp_path: Path) -> None:
        written(tmp_path, [Rating(at(9), 7, "heat+1995", 1), Rating(at(1), 8, "heat+1995", 2)])
        written(tmp_path, [Rating(at(3), 7, "heat+1995", 5), Rating(at(4), 8, "heat+1995", 3)], first=2)
        ratings = read_ratings(tmp_path)
        assert ratings.values.tolist() == [
            ["8", "heat+1995", 2.0, NOON_S + 1],
            ["7", "heat+1995", 5.0, NOON_S + 3],
            ["8", "heat+1995", 3.0, NOON_S + 4],
            ["7", "heat+1995", 1.0, NOON_S + 9],
        ]
        assert {name: str(kind) for name, kind in ratings.dtypes.items()} == {
            "user_id": "str",
            "movie_id": "str",
            "rating": "float32",
            "timestamp": "int64",
        }

    def test_within_a_second_the_fraction_decides(self, tmp_path: Path) -> None:
        written(tmp_path, [Rating(at(0.9), 7, "heat+1995", 4), Rating(at(0.1), 7, "heat+1995", 2)])
        assert read_ratings(tmp_path)["rating"].tolist() == [2.0, 4.0]

    def test_at_the_same_moment_the_later_line_comes_last(self, tmp_path: Path) -> None:
        written(tmp_path, [Rating(NOON, 7, "heat+1995", 4), Rating(NOON, 7, "heat+1995", 2)])
        written(tmp_path, [Rating(NOON, 8, "heat+1995", 1)], first=2)
        written(tmp_path, [Rating(NOON, 8, "heat+1995", 3)], first=3)
        ratings = read_ratings(tmp_path)[["user_id", "rating"]].values.tolist()
        assert ratings == [["7", 4.0], ["7", 2.0], ["8", 1.0], ["8", 3.0]]

    def test_ratings_are_sorted_by_time_then_user_then_movie(self, tmp_path: Path) -> None:
        events = [(5, "b+2001"), (10, "a+2001"), (5, "a+2001"), (4, "z+2001")]
        written(tmp_path, [Rating(NOON, user, movie, 3) for user, movie in events])
        ordered = read_ratings(tmp_path)[["user_id", "movie_id"]].values.tolist()
        assert ordered == sorted([str(user), movie] for user, movie in events)

    def test_only_named_batches_are_read(self, tmp_path: Path) -> None:
        first = written(tmp_path, [Rating(NOON, 7, "heat+1995", 4)])
        written(tmp_path, [Rating(NOON, 8, "heat+1995", 4)], first=1)
        assert read_ratings(tmp_path, [first.name])["user_id"].tolist() == ["7"]
        assert len(read_ratings(tmp_path)) == 2
        assert len(read_ratings(tmp_path, [])) == 0

    def test_no_ratings_are_an_empty_table_with_the_same_columns(self, tmp_path: Path) -> None:
        ratings = read_ratings(tmp_path)
        assert ratings.empty
        assert [str(kind) for kind in ratings.dtypes] == ["str", "str", "float32", "int64"]


class TestViewings:
    def test_a_viewing_over_two_batches_is_one_row(self, tmp_path: Path) -> None:
        written(tmp_path, [Watch(at(0), 7, "heat+1995", 1), Watch(at(60), 7, "heat+1995", 2)])
        written(tmp_path, [Watch(at(120), 7, "heat+1995", 3), Watch(at(30), 8, "big+1988", 1)], first=2)
        viewings = read_viewings(tmp_path)
        assert viewings.values.tolist() == [
            ["8", "big+1988", 1, NOON_S + 30],
            ["7", "heat+1995", 2 + 1, NOON_S + 120],
        ]
        assert [str(kind) for kind in viewings.dtypes] == ["str", "str", "int64", "int64"]

    def test_no_viewings_are_an_empty_table_with_the_same_columns(self, tmp_path: Path) -> None:
        written(tmp_path, [b"garbage"])
        viewings = read_viewings(tmp_path)
        assert viewings.empty
        assert list(viewings) == ["user_id", "movie_id", "minutes", "timestamp"]


class TestKinds:
    def test_rows_of_a_kind_have_the_columns_that_it_fills(self, tmp_path: Path) -> None:
        answered = Request(at(1), 7, "host", 8082, 200, ("heat+1995", "big+1988"), "", 40)
        written(tmp_path, [Watch(at(0), 7, "heat+1995", 1), answered, b"\xff"])
        requests = read_kind(tmp_path, "request")
        assert list(requests) == batches.COLUMNS["request"]
        assert requests["movie_ids"].tolist() == ["heat+1995,big+1988"]
        assert requests["time"].tolist() == [pd.Timestamp(at(1))]
        assert read_kind(tmp_path, "reject")["line"].tolist() == [b"\xff"]

    def test_text_is_plain_and_rows_follow_partition_and_offset(self, tmp_path: Path) -> None:
        written(tmp_path, [Watch(at(0), 3, "c+2001", 1)], partition=1)
        written(tmp_path, [Watch(at(9), 2, "b+2001", 1)], first=10)
        written(tmp_path, [Watch(at(5), 1, "a+2001", 1)])
        watches = read_kind(tmp_path, "watch")
        assert watches["movie_id"].tolist() == ["a+2001", "b+2001", "c+2001"]
        assert str(watches["movie_id"].dtype) == "str"


class TestDamage:
    def test_a_name_that_is_not_there_is_a_data_error(self, tmp_path: Path) -> None:
        batch = written(tmp_path, [b"garbage"])
        with pytest.raises(DataError, match=r"1 wanted batch\(es\) are not in .* for example gone\.parquet"):
            read_ratings(tmp_path, [batch.name, "gone.parquet"])

    def test_a_torn_file_is_a_data_error_that_names_it(self, tmp_path: Path) -> None:
        batch = written(tmp_path, [Rating(NOON, 7, "heat+1995", 4)])
        batch.path.write_bytes(batch.path.read_bytes()[:-100])
        for read in (batch.info, lambda: read_ratings(tmp_path)):
            with pytest.raises(DataError, match=batch.name):
                read()

    def test_a_foreign_parquet_file_of_that_name_is_a_data_error(self, tmp_path: Path) -> None:
        batch = Batch("movielog4", 1, 0, 0, 9, tmp_path)
        pd.DataFrame({"a": [1]}).to_parquet(batch.path)
        for read in (batch.info, lambda: read_ratings(tmp_path)):
            with pytest.raises(DataError, match="not a readable batch"):
                read()
