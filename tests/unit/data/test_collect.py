import gzip
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from time import sleep

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.alerts import Alert
from pipelines.data.batches import Batch, list_batches, read_kind
from pipelines.data.collect import Collected, collect
from pipelines.errors import DataError, Locked, SourceError
from pipelines.events.grammar import Rating, Watch
from pipelines.events.lines import Lines
from pipelines.events.sources import FileSource

NOON = datetime(2022, 11, 14, 12, 0, tzinfo=UTC)


def line(number: int) -> bytes:
    """A rating that no other number has: its user is the number."""
    return Rating(NOON + timedelta(seconds=number), number + 1, "heat+1995", 1 + number % 5).line().encode()


@dataclass
class ListSource:
    """A stream in memory: per partition the lines by offset."""

    lines: dict[int, dict[int, bytes]]
    identity: str = "first"
    name: str = "movielog4"
    held_from: int = 0
    dies_at: int | None = None
    """Offset at which the stream breaks off."""
    becomes: str = ""
    """Identity of the stream that takes its place while it is read."""
    ends: dict[int, int] = field(default_factory=dict)
    """Ends that lie behind the last line: markers of transactions have offsets too."""
    committed: list[Mapping[int, int]] = field(default_factory=list)
    refuses_commits: bool = False

    def partitions(self) -> list[int]:
        return sorted(self.lines)

    def bounds(self, partition: int) -> tuple[int, int]:
        return self.held_from, self.ends.get(partition, max(self.lines[partition], default=-1) + 1)

    def read(self, partition: int, start: int, stop: int) -> Iterator[Lines]:
        self.identity = self.becomes or self.identity
        for offset in range(start, stop):
            if offset == self.dies_at:
                raise SourceError(f"the stream died at {offset}")
            if offset in self.lines[partition]:
                yield Lines.of([offset], [self.lines[partition][offset]])

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        if self.refuses_commits:
            raise SourceError("no coordinator")
        self.committed.append(next_offsets)

    def close(self) -> None: ...


def stream(count: int, **about: int) -> ListSource:
    return ListSource({0: {offset: line(offset) for offset in range(count)}}, **about)  # type: ignore[arg-type]


def users(folder: Path) -> list[int]:
    """The numbers of the lines in the batches, less the one that made a user of it."""
    return [int(user) - 1 for user in read_kind(folder, "rating")["user_id"]]


def ranges(folder: Path) -> list[tuple[int, int]]:
    return [(batch.first, batch.last) for batch in list_batches(folder)]


class TestOneRun:
    def test_everything_comes_into_batches_of_the_wanted_size(self, tmp_path: Path) -> None:
        collected = collect(stream(25), tmp_path, batch_lines=10)
        assert ranges(tmp_path) == [(0, 9), (10, 19), (20, 24)]
        assert users(tmp_path) == list(range(25))
        assert collected.batches == [batch.name for batch in list_batches(tmp_path)]

    def test_the_counts_add_up_to_the_lines(self, tmp_path: Path) -> None:
        lines = [line(1), line(1), b"garbage", b"", Watch(NOON, 5, "big+1988", 3).line().encode()]
        collected = collect(ListSource({0: dict(enumerate(lines))}), tmp_path)
        assert collected.lines == 5
        assert collected.counts == {"watch": 1, "rating": 2, "request": 0, "reject": 2}
        assert collected.rejects == {"bad-time": 1, "empty": 1}
        assert collected.duplicates == 1

    def test_an_empty_stream_is_nothing_new(self, tmp_path: Path) -> None:
        collected = collect(stream(0), tmp_path)
        assert collected == Collected()
        assert list_batches(tmp_path) == []
        assert (collected.as_json()["first_offset"], collected.as_json()["last_offset"]) == (None, None)

    def test_the_answer_for_machines_names_offsets_and_batches(self, tmp_path: Path) -> None:
        collect(stream(3), tmp_path)
        answer = collect(stream(10), tmp_path).as_json()
        assert answer == {
            "lines": 7,
            "counts": {"watch": 0, "rating": 7, "request": 0, "reject": 0},
            "rejects": {},
            "duplicates": 0,
            "first_offset": 3,
            "last_offset": 9,
            "partitions": {"0": {"first_offset": 3, "last_offset": 9, "lines": 7}},
            "batches": ["movielog4~1-0-000000000003-000000000009.parquet"],
            "notes": [],
        }

    def test_partitions_are_told_apart(self, tmp_path: Path) -> None:
        source = ListSource({0: {0: line(0)}, 1: {}, 2: {0: line(1), 1: line(2)}})
        collected = collect(source, tmp_path)
        assert collected.first_offsets == {0: 0, 2: 0}
        assert collected.last_offsets == {0: 0, 2: 1}
        assert collected.partition_lines == {0: 1, 2: 2}
        assert collected.as_json()["first_offset"] is None

    def test_ranges_leave_no_hole_where_offsets_have_gaps(self, tmp_path: Path) -> None:
        offsets = [2, 3, 7, 20, 21]
        source = ListSource({0: {offset: line(offset) for offset in offsets}}, ends={0: 30})
        collected = collect(source, tmp_path, batch_lines=2)
        assert ranges(tmp_path) == [(0, 3), (4, 20), (21, 29)]
        assert users(tmp_path) == offsets
        assert (collected.first_offsets, collected.last_offsets) == ({0: 0}, {0: 29})
        assert collect(source, tmp_path).lines == 0

    def test_offsets_without_lines_make_no_batch(self, tmp_path: Path) -> None:
        assert collect(ListSource({0: {}}, ends={0: 5}), tmp_path).batches == []

    def test_the_end_is_the_one_at_the_start(self, tmp_path: Path) -> None:
        source = stream(10)

        def grow(done: int, total: int) -> None:
            source.lines[0][10] = line(10)

        assert collect(source, tmp_path, progress=grow).lines == 10
        assert collect(source, tmp_path).first_offsets == {0: 10}

    def test_progress_counts_offsets_of_all_partitions(self, tmp_path: Path) -> None:
        source = ListSource({0: {0: line(0)}, 1: {offset: line(offset) for offset in range(3)}}, ends={1: 9})
        seen: list[tuple[int, int]] = []
        collect(source, tmp_path, progress=lambda done, total: seen.append((done, total)))
        assert seen == [(done, 1 + 9) for done in (0, 1, 1, 1 + 1, 1 + 2, 1 + 3, 1 + 9)]

    def test_a_folder_that_cannot_be_made_is_a_data_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="mend the path"):
            collect(stream(1), tmp_path / "file" / "batches")


class TestGoingOn:
    def test_what_an_orphan_wrote_after_the_plan_is_not_collected_twice(self, tmp_path: Path) -> None:
        """A process that a killed collect left behind finishes a batch while the next one begins."""
        orphan, out = tmp_path / "orphan", tmp_path / "batches"
        collect(stream(10), orphan)

        def finish(done: int, total: int) -> None:
            shutil.copytree(orphan, out, dirs_exist_ok=True)

        with pytest.raises(Locked, match="meanwhile; collect again"):
            collect(stream(10), out, progress=finish)
        assert collect(stream(12), out).lines == 2
        assert users(out) == list(range(12))

    def test_the_next_run_begins_behind_the_last(self, tmp_path: Path) -> None:
        assert collect(stream(10), tmp_path).last_offsets == {0: 9}
        assert collect(stream(17), tmp_path).first_offsets == {0: 10}
        assert collect(stream(17), tmp_path).lines == 0
        assert users(tmp_path) == list(range(17))

    def test_the_stream_learns_the_next_offsets_once_the_batches_are_there(self, tmp_path: Path) -> None:
        source = stream(10)
        collect(source, tmp_path, batch_lines=4)
        assert source.committed == [{0: 10}]

    def test_a_stream_that_takes_no_commit_loses_nothing(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        source = stream(10)
        source.refuses_commits = True
        with caplog.at_level(logging.WARNING):
            assert collect(source, tmp_path).lines == 10
        assert "no coordinator" in caplog.text

    def test_batches_of_another_topic_do_not_count(self, tmp_path: Path) -> None:
        collect(stream(10), tmp_path)
        other = stream(5)
        other.name = "movielog4-test"
        assert collect(other, tmp_path).first_offsets == {0: 0}

    def test_a_leftover_of_a_killed_run_is_removed(self, tmp_path: Path) -> None:
        leftover = tmp_path / ".movielog4~1-0-000000000000-000000000009.parquet.tmp"
        leftover.write_bytes(b"half")
        collect(stream(10), tmp_path)
        assert not leftover.exists()

    def test_a_broken_stream_keeps_what_is_complete_and_says_how_far_it_came(self, tmp_path: Path) -> None:
        source = stream(25, dies_at=17)
        with pytest.raises(
            SourceError, match=r"died at 17\nCollected .* 10 lines in 1 batch.* offset 9 of partition 0"
        ):
            collect(source, tmp_path, batch_lines=10)
        assert ranges(tmp_path) == [(0, 9)]
        assert source.committed == []
        source.dies_at = None
        assert collect(source, tmp_path, batch_lines=10).first_offsets == {0: 10}
        assert users(tmp_path) == list(range(25))

    def test_a_stream_that_breaks_at_once_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="nothing new"):
            collect(stream(5, dies_at=0), tmp_path)


class TestGenerations:
    def test_a_topic_created_again_is_collected_from_its_start_and_the_old_stays(
        self, tmp_path: Path
    ) -> None:
        collect(stream(10), tmp_path)
        again = stream(20)
        again.identity = "second"
        collected = collect(again, tmp_path)
        assert collected.lines == 20
        assert [batch.generation for batch in list_batches(tmp_path)] == [1, 2]
        assert len(collected.notes) == 1
        again.lines[0][20] = line(20)
        assert collect(again, tmp_path).first_offsets == {0: 20}

    def test_a_topic_created_again_while_it_is_read_leaves_no_batch(self, tmp_path: Path) -> None:
        source = stream(10)
        source.becomes = "second"
        with pytest.raises(SourceError, match="became another stream"):
            collect(source, tmp_path)
        assert list_batches(tmp_path) == []

    def test_a_stream_that_ends_too_early_is_a_new_generation(self, tmp_path: Path) -> None:
        collect(stream(10), tmp_path)
        collected = collect(stream(4), tmp_path)
        assert collected.first_offsets == {0: 0}
        assert "ends at 4 but was read to 10" in collected.notes[0]

    def test_retention_that_was_faster_leaves_a_note_with_the_lost_range(self, tmp_path: Path) -> None:
        collect(stream(10), tmp_path)
        collected = collect(stream(30, held_from=15), tmp_path)
        assert collected.first_offsets == {0: 15}
        assert "lost the offsets 10 to 14" in collected.notes[0]
        assert collect(stream(30, held_from=15), tmp_path).notes == []

    def test_a_gap_is_told_before_anything_is_written_and_only_once(self, tmp_path: Path) -> None:
        told: list[str] = []

        def announce(alert: Alert) -> None:
            told.append(f"{len(list_batches(tmp_path))} batch: {alert.title}")

        collect(stream(10), tmp_path, announce=announce)
        nothing_behind = ListSource({0: {}}, held_from=15, ends={0: 15})
        for source in (nothing_behind, nothing_behind, stream(30, held_from=15), stream(31, held_from=15)):
            collect(source, tmp_path, announce=announce)
        assert told == ["1 batch: Marquee: up to 5 line(s) of movielog4 lost"]
        assert [batch.info().lost for batch in list_batches(tmp_path)] == [None, (10, 14), None]


class TestOneWriter:
    def test_a_second_writer_is_told_who_the_first_is(self, tmp_path: Path) -> None:
        def second(done: int, total: int) -> None:
            collect(stream(5), tmp_path)

        with pytest.raises(Locked, match=f"process {os.getpid()} is collecting into"):
            collect(stream(5), tmp_path, progress=second)

    def test_a_patient_writer_says_that_it_waits_for_the_first(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        begun, second = Event(), ThreadPoolExecutor(1)

        def wait_until_the_second_waits(done: int, total: int) -> None:
            begun.set()
            while "waiting for it up to 60 s" not in caplog.text:
                sleep(0.01)

        def collect_after() -> Collected:
            begun.wait()
            return collect(stream(8), tmp_path, patience_s=60.0)

        with second:
            waiting = second.submit(collect_after)
            assert collect(stream(5), tmp_path, progress=wait_until_the_second_waits).lines == 5
            assert waiting.result().first_offsets == {0: 5}
        assert f"process {os.getpid()} is collecting; waiting for it" in caplog.text

    def test_other_folders_are_free(self, tmp_path: Path) -> None:
        def second(done: int, total: int) -> None:
            collect(stream(5), tmp_path / "other")

        assert collect(stream(5), tmp_path / "one", progress=second).lines == 5

    def test_the_folder_is_free_again_after_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError):
            collect(stream(5, dies_at=2), tmp_path)
        assert collect(stream(5), tmp_path).lines == 5


class TestFile:
    def test_a_grown_file_is_collected_from_where_it_ended(self, tmp_path: Path) -> None:
        path = tmp_path / "day.log"
        path.write_bytes(b"".join(line(number) + b"\r\n" for number in range(10)))
        assert collect(FileSource(path), tmp_path / "out").lines == 10
        with path.open("ab") as log:
            log.write(b"".join(line(number) + b"\n" for number in range(10, 15)))
        collected = collect(FileSource(path), tmp_path / "out")
        assert (collected.first_offsets, collected.last_offsets) == ({0: 10}, {0: 14})
        assert users(tmp_path / "out") == list(range(15))

    def test_a_half_written_line_comes_whole_in_the_next_run(self, tmp_path: Path) -> None:
        path = tmp_path / "day.log"
        path.write_bytes(line(0) + b"\n" + line(1)[:30])
        assert collect(FileSource(path), tmp_path / "out").lines == 1
        path.write_bytes(line(0) + b"\n" + line(1) + b"\n")
        assert collect(FileSource(path), tmp_path / "out").counts["rating"] == 1
        assert users(tmp_path / "out") == [0, 1]

    def test_a_log_that_is_packed_later_is_not_collected_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "day.log"
        path.write_bytes(line(0) + b"\n")
        collect(FileSource(path), tmp_path / "out")
        packed = tmp_path / "day.log.gz"
        packed.write_bytes(gzip.compress(path.read_bytes() + line(1) + b"\n"))
        assert collect(FileSource(packed), tmp_path / "out").first_offsets == {0: 1}

    def test_a_rotated_log_is_a_new_generation(self, tmp_path: Path) -> None:
        path = tmp_path / "day.log"
        for number in range(2):
            path.write_bytes(line(number) + b"\n")
            collect(FileSource(path), tmp_path / "out")
        assert [batch.generation for batch in list_batches(tmp_path / "out")] == [1, 2]


@settings(max_examples=25, deadline=None)
@given(
    st.sets(st.integers(0, 60), max_size=40),
    st.lists(st.tuples(st.integers(0, 70), st.integers(1, 15), st.none() | st.integers(0, 60)), max_size=6),
)
def test_whatever_breaks_off_when_each_line_is_collected_once(
    offsets: set[int], runs: list[tuple[int, int, int | None]]
) -> None:
    """In each run the stream grows to an end, is read in batches of a size, and may die at an offset."""
    with TemporaryDirectory() as name:
        out, end = Path(name), 0
        for reached, batch_lines, dies_at in [*runs, (70, 7, None)]:
            end = max(end, reached)
            lines = {offset: line(offset) for offset in offsets if offset < end}
            source = ListSource({0: lines}, dies_at=dies_at, ends={0: end})
            try:
                collect(source, out, batch_lines=batch_lines)
            except SourceError:
                assert dies_at is not None
        assert users(out) == sorted(offsets)
        made: list[Batch] = list_batches(out)
        assert [batch.first for batch in made[1:]] == [batch.last + 1 for batch in made[:-1]]
        assert sum(batch.info().lines for batch in made) == len(offsets)
