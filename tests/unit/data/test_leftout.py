from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.data import batches
from pipelines.data.batches import Batch, BatchInfo
from pipelines.data.folding import fold
from pipelines.data.leftout import LeftOut, left_out, remaining
from pipelines.data.quarantine import Quarantined
from pipelines.events.lines import Lines
from pipelines.events.parsing import parse_lines

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def watch(second: int, user: int = 1, minute: int = 0) -> bytes:
    return f"{stamp(second)},{user},GET /data/m/heat+1995/{minute}.mpg".encode()


def rating(second: int, user: int = 1) -> bytes:
    return f"{stamp(second)},{user},GET /rate/heat+1995=4".encode()


def stamp(second: int) -> str:
    return f"{NOON + timedelta(seconds=second):%Y-%m-%dT%H:%M:%S}"


def written(folder: Path, lines: Sequence[bytes], offsets: Sequence[int]) -> Batch:
    folded = fold(parse_lines([Lines.of(offsets, lines)]))
    batch = Batch("movielog4", 1, 0, offsets[0], offsets[-1], folder)
    info = BatchInfo(identity="a", collected_at=NOON, **folded.figures)
    batches.write(batch, folded.kinds, info)
    return batch


def entry(first: int, last: int) -> Quarantined:
    return Quarantined("movielog4", 1, 0, first, last, "a stuck client", "ann", NOON)


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    """Ten lines: 0-3 a viewing and a rating, 4-6 garbage, 7-9 a viewing, a rating and its repeat."""
    good = [watch(0), watch(60, minute=1), rating(61), watch(120, minute=2)]
    garbage = [b"x", b"x", f"{stamp(200)},1,GET /rate/heat+1995=9".encode()]
    return written(tmp_path, [*good, *garbage, watch(300, user=2), rating(301), rating(301)], range(10))


class TestLeftOut:
    def test_a_viewing_that_reaches_into_the_range_is_out_with_all_its_lines(self, batch: Batch) -> None:
        assert left_out(batch.folder, entry(1, 2)) == LeftOut(
            batches=1, lines=2, rows={"watch": 1, "rating": 1, "request": 0, "reject": 0}
        )

    def test_a_range_over_several_batches_counts_them_all(self, batch: Batch) -> None:
        written(batch.folder, [rating(400), rating(401)], range(10, 12))
        found = left_out(batch.folder, entry(8, 100))
        assert (found.batches, found.lines, found.rows["rating"]) == (2, 2 + 2, 1 + 2)

    def test_where_no_batch_is_nothing_is_out(self, batch: Batch) -> None:
        assert left_out(batch.folder, entry(10, 99)).batches == 0


class TestRemaining:
    def test_without_a_range_a_batch_says_what_it_says(self, batch: Batch) -> None:
        assert remaining(batch, []) == batch.info()

    def test_what_is_out_no_longer_counts(self, batch: Batch) -> None:
        assert batch.info().counts == {"watch": 4, "rating": 3, "request": 0, "reject": 3}
        left = remaining(batch, [(4, 6)])
        assert (left.lines, left.rejects) == (7, {})
        # The rating's repeat has left no row: it passes for a watched minute.
        assert left.counts == {"watch": 5, "rating": 2, "request": 0, "reject": 0}
        assert left.duplicates == 0

    def test_rejects_that_stay_keep_their_reasons(self, batch: Batch) -> None:
        assert batch.info().rejects == {"bad-rating": 1, "bad-time": 2}
        assert remaining(batch, [(0, 4)]).rejects == {"bad-rating": 1}

    def test_times_are_those_of_the_rows_that_stay(self, batch: Batch) -> None:
        assert batch.info().last_time == NOON + timedelta(seconds=301)
        left = remaining(batch, [(8, 9)])
        assert (left.first_time, left.last_time) == (NOON, NOON + timedelta(seconds=300))

    def test_of_a_batch_that_is_wholly_out_nothing_stays(self, batch: Batch) -> None:
        left = remaining(batch, [(0, 9)])
        assert (left.lines, sum(left.counts.values()), left.first_time) == (0, 0, None)

    def test_kinds_add_up_to_the_lines_also_where_offsets_have_gaps(self, tmp_path: Path) -> None:
        batch = written(tmp_path, [rating(0), rating(1), rating(100)], [0, 1, 1_000])
        left = remaining(batch, [(1, 900)])
        assert (left.lines, left.counts["rating"], left.counts["watch"]) == (2, 2, 0)
