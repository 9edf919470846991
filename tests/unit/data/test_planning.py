from pathlib import Path

from pipelines.data.batches import Batch
from pipelines.data.planning import Span, plan


def batch(first: int, last: int, generation: int = 1, partition: int = 0) -> Batch:
    return Batch("movielog4", generation, partition, first, last, Path("batches"))


def test_the_first_run_begins_with_what_is_held() -> None:
    assert plan(0, (40, 100), "a", [], {}) == Span(0, 1, 40, 100)


def test_the_next_run_begins_behind_the_last_batch() -> None:
    assert plan(0, (0, 100), "a", [batch(0, 49), batch(50, 79)], {1: "a"}) == Span(0, 1, 80, 100)


def test_nothing_new_is_an_empty_span_without_a_note() -> None:
    assert plan(0, (0, 80), "a", [batch(0, 79)], {1: "a"}) == Span(0, 1, 80, 80)


def test_partitions_go_on_by_themselves() -> None:
    batches = [batch(0, 49), batch(0, 9, partition=1)]
    assert plan(1, (0, 100), "a", batches, {1: "a"}) == Span(1, 1, 10, 100)
    assert plan(2, (5, 100), "a", batches, {1: "a"}) == Span(2, 1, 5, 100)


def test_a_topic_created_again_begins_a_new_generation_and_says_so() -> None:
    span = plan(0, (0, 100), "b", [batch(0, 79)], {1: "a"})
    assert (span.generation, span.start, span.stop) == (2, 0, 100)
    assert "another stream" in span.note
    assert "kept" in span.note


def test_a_topic_created_again_is_noticed_also_when_it_is_longer() -> None:
    assert plan(0, (0, 1_000_000), "b", [batch(0, 79)], {1: "a"}).start == 0


def test_a_partition_not_yet_read_joins_the_generation_of_its_topic() -> None:
    batches = [batch(0, 79), batch(0, 9, generation=2)]
    assert plan(1, (0, 100), "b", batches, {1: "a", 2: "b"}) == Span(1, 2, 0, 100)


def test_a_stream_that_comes_back_goes_on_where_it_was() -> None:
    batches = [batch(0, 79), batch(0, 9, generation=2)]
    assert plan(0, (0, 100), "a", batches, {1: "a", 2: "b"}) == Span(0, 1, 80, 100)


def test_a_partition_that_ends_too_early_is_read_again_as_a_new_generation() -> None:
    span = plan(0, (0, 70), "a", [batch(0, 79)], {1: "a"})
    assert (span.generation, span.start, span.stop) == (2, 0, 70)
    assert "ends at 70 but was read to 80" in span.note
    assert plan(1, (0, 70), "a", [batch(0, 79), batch(0, 9, partition=1)], {1: "a"}) == Span(1, 1, 10, 70)


def test_what_retention_took_is_named() -> None:
    span = plan(0, (95, 100), "a", [batch(0, 79)], {1: "a"})
    assert (span.generation, span.start, span.stop) == (1, 95, 100)
    assert "lost the offsets 80 to 94" in span.note
    assert span.lost == (80, 94)


def test_retention_that_took_everything_is_a_loss_and_no_new_generation() -> None:
    span = plan(0, (100, 100), "a", [batch(0, 79)], {1: "a"})
    assert (span.generation, span.start, span.stop) == (1, 100, 100)
    assert "lost the offsets 80 to 99" in span.note
    assert span.lost == (80, 99)
