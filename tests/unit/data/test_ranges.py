from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.batches import Batch
from pipelines.data.ranges import following, ranges


def name(first, last, *, topic="movielog4", generation=1, partition=0):
    return Batch(topic, generation, partition, first, last, Path()).name


def spans(names):
    return [(each["generation"], each["partition"], each["first"], each["last"]) for each in ranges(names)]


def test_batches_that_follow_each_other_are_one_range():
    assert spans([name(100, 149), name(0, 99), name(150, 150)]) == [(1, 0, 0, 150)]


def test_partitions_and_generations_stay_apart():
    names = [name(0, 9), name(0, 9, partition=1), name(0, 9, generation=2), name(10, 19, partition=1)]
    assert spans(names) == [(1, 0, 0, 9), (1, 1, 0, 19), (2, 0, 0, 9)]


def test_a_hole_is_seen():
    assert spans([name(0, 9), name(11, 19)]) == [(1, 0, 0, 9), (1, 0, 11, 19)]


def test_a_file_of_ratings_covers_nothing():
    assert ranges(["ratings.csv"]) == []


def test_reading_goes_on_after_the_newest_generation_of_each_partition():
    covered = ranges(
        [name(0, 99), name(0, 9, generation=2), name(0, 4, partition=1), name(0, 7, topic="other")]
    )
    assert following(covered, "movielog4") == {0: 10, 1: 5}
    assert following([], "movielog4") == {}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.randoms())
def test_however_a_stream_was_cut_it_is_one_range(lengths, random):
    ends = [sum(lengths[: n + 1]) for n in range(len(lengths))]
    names = [name(end - length, end - 1) for end, length in zip(ends, lengths, strict=True)]
    random.shuffle(names)
    assert spans(names) == [(1, 0, 0, sum(lengths) - 1)]
