from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import batches
from pipelines.data.batches import Batch, BatchInfo
from pipelines.data.ranges import following, holes, lost, ranges, rests_on, seen


def name(first, last, *, topic="movielog4", generation=1, partition=0):
    return Batch(topic, generation, partition, first, last, Path()).name


def where(first, last):
    return {"topic": "movielog4", "generation": 1, "partition": 0, "first": first, "last": last}


def entry(first, last):
    decision = {"why": "a stuck client", "who": "ann", "at": "2026-11-22T12:00:30+00:00"}
    return where(first, last) | decision


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


def test_reading_goes_on_after_the_named_generation_of_each_partition():
    covered = ranges(
        [
            *(name(0, 99), name(100, 149), name(0, 4, partition=1)),
            *(name(0, 9, generation=2), name(0, 7, topic="other")),
        ]
    )
    assert following(covered, "movielog4", 1) == {0: 150, 1: 5}
    assert following(covered, "movielog4", 2) == {0: 10}
    assert following([], "movielog4", 1) == {}


def test_a_hole_is_told_with_what_is_known_of_it():
    covered = ranges([name(0, 99), name(150, 199), name(300, 399), name(0, 9, partition=1)])
    found = holes(covered, [entry(320, 329)], [where(100, 149)])
    assert [(each["first"], each["last"], each["without"]) for each in found] == [
        (100, 149, "lost"),
        (200, 299, "missing"),
        (320, 329, "quarantined"),
    ]
    assert found[2]["why"] == "by ann on 2026-11-22 12:00 UTC: a stuck client"


def test_a_batch_that_is_wholly_quarantined_is_no_missing_one():
    covered = ranges([name(0, 99), name(200, 299)])
    assert [each["without"] for each in holes(covered, [entry(100, 249)], [])] == ["quarantined"]
    assert [
        (each["first"], each["last"]) for each in holes(covered, [entry(120, 129), entry(190, 210)], [])
    ] == [(100, 119), (120, 129), (130, 189), (190, 210)]


def test_what_retention_took_is_read_from_the_batch_behind_it(tmp_path):
    def write(first, last, lost=None):
        batch = Batch("movielog4", 1, 0, first, last, tmp_path)
        nothing = dict.fromkeys(("watch", "rating", "request", "reject"), 0)
        info = BatchInfo(0, nothing, {}, 0, "a", datetime(2026, 11, 22, tzinfo=UTC), None, None, lost=lost)
        batches.write(batch, [], info)
        return batch

    collected = [write(0, 99), write(150, 199, lost=(100, 149)), write(200, 299)]
    # A file that somebody moved away is missing, not lost.
    collected[2:] = [write(300, 399)]
    assert lost(collected) == [where(100, 149)]
    found = seen({"batches": [batch.name for batch in collected], "lost": lost(collected)})
    assert [(each["first"], each["last"], each.get("without")) for each in found] == [
        *((0, 99, None), (150, 199, None), (300, 399, None)),
        *((100, 149, "lost"), (200, 299, "missing")),
    ]


def test_a_version_rests_on_what_it_has_seen_and_was_not_left_out():
    covered = ranges([name(0, 99), name(200, 299), name(0, 50, partition=1)])
    seen = [*covered, *holes(covered, [entry(10, 19), entry(15, 24)], [])]
    assert rests_on(seen, where(0, 9)) == 10
    assert rests_on(seen, where(10, 24)) == 0
    assert rests_on(seen, where(5, 204)) == 5 + 75 + 5
    assert rests_on(seen, where(100, 199)) == 0
    assert rests_on(seen, where(0, 9) | {"generation": 2}) == 0


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.randoms())
def test_however_a_stream_was_cut_it_is_one_range(lengths, random):
    ends = [sum(lengths[: n + 1]) for n in range(len(lengths))]
    names = [name(end - length, end - 1) for end, length in zip(ends, lengths, strict=True)]
    random.shuffle(names)
    assert spans(names) == [(1, 0, 0, sum(lengths) - 1)]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=5),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=5),
    st.tuples(st.integers(0, 30), st.integers(0, 9)),
)
def test_offsets_are_counted_as_one_by_one(batches, left_out, on):
    def offsets(pairs):
        return {offset for first, more in pairs for offset in range(first, first + more + 1)}

    covered = ranges([name(first, first + more) for first, more in batches])
    seen = [*covered, *holes(covered, [entry(first, first + more) for first, more in left_out], [])]
    wanted = offsets([on]) & offsets(batches) - offsets(left_out)
    assert rests_on(seen, where(on[0], sum(on))) == len(wanted)
