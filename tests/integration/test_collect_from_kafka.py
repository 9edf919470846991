"""Collecting from a real broker: topics that vanish, shrink and come back, a broker that goes away."""

import gc
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from pipelines.data.batches import list_batches, read_kind
from pipelines.data.collect import collect
from pipelines.errors import SourceError
from pipelines.events.grammar import Rating
from pipelines.events.sources import GROUP, KafkaSource

# kafka-python forgets to close the socket of a refused connection.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

NOON = datetime(2022, 11, 14, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def sockets_are_gone_before_the_filter_is(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    # Captured log records would keep the exceptions, and those the sockets.
    caplog.set_level(logging.CRITICAL, logger="kafka")
    yield
    gc.collect()


@pytest.fixture
def topic(kafka: Any, request: pytest.FixtureRequest) -> str:
    """An empty topic of the test's own."""
    name = request.node.name.removeprefix("test_")[:200]
    kafka.create_topic(name)
    return str(name)


@pytest.fixture
def source_of(kafka: Any) -> Iterator[Callable[..., KafkaSource]]:
    opened: list[KafkaSource] = []

    def open_source(topic: str, partitions: tuple[int, ...] = (), timeout_s: float = 30.0) -> KafkaSource:
        opened.append(KafkaSource(kafka.servers, topic, partitions, timeout_s))
        return opened[-1]

    yield open_source
    while opened:
        opened.pop().close()


def lines(first: int, end: int, movie: str = "heat+1995") -> list[str]:
    """Ratings that tell their number: user ``number + 1``."""
    return [
        Rating(NOON + timedelta(seconds=number), number + 1, movie, 1 + number % 5).line()
        for number in range(first, end)
    ]


# 20 MB, where one answer of the broker carries 8: most of it is still there when it stops after a batch.
LONG_LINES = 20_000
LONG_MOVIE = "x" * 1_000 + "+1995"


def numbers(out: Path) -> list[int]:
    return [int(user) - 1 for user in read_kind(out, "rating")["user_id"]]


def test_an_empty_topic_has_nothing_new(source_of: Any, topic: str, tmp_path: Path) -> None:
    collected = collect(source_of(topic), tmp_path)
    assert (collected.lines, collected.batches, collected.notes) == (0, [], [])


def test_the_second_run_goes_on_behind_the_first(
    kafka: Any, source_of: Any, topic: str, tmp_path: Path
) -> None:
    kafka.produce(topic, lines(0, 2_500))
    first = collect(source_of(topic), tmp_path, batch_lines=1_000)
    kafka.produce(topic, lines(2_500, 3_000))
    second = collect(source_of(topic), tmp_path, batch_lines=1_000)
    assert (first.first_offsets, first.last_offsets) == ({0: 0}, {0: 2_499})
    assert (second.first_offsets, second.last_offsets) == ({0: 2_500}, {0: 2_999})
    assert numbers(tmp_path) == list(range(3_000))
    assert collect(source_of(topic), tmp_path).lines == 0


def test_the_group_of_the_dashboards_learns_the_next_offset(
    kafka: Any, source_of: Any, topic: str, tmp_path: Path
) -> None:
    kafka.produce(topic, lines(0, 10))
    collect(source_of(topic), tmp_path)
    with KafkaAdminClient(bootstrap_servers=kafka.servers) as admin:
        committed = admin.list_group_offsets({GROUP: [TopicPartition(topic, 0)]})[GROUP]
    assert committed[TopicPartition(topic, 0)].offset == 10


def test_values_without_text_are_rejects_and_not_the_end(
    kafka: Any, source_of: Any, topic: str, tmp_path: Path
) -> None:
    kafka.produce(topic, [b"\xff\xfe", b"", *lines(0, 2), "a line\nin two\n"])
    with KafkaProducer(bootstrap_servers=kafka.servers) as producer:
        producer.send(topic, None, key=b"gone", partition=0).get(timeout=30)
    collected = collect(source_of(topic), tmp_path)
    assert collected.lines == 6
    assert collected.counts == {"watch": 0, "rating": 2, "request": 0, "reject": 4}
    assert collected.rejects == {"not-utf8": 1, "empty": 2, "bad-time": 1}


def test_only_the_wanted_partitions_are_read(kafka: Any, source_of: Any, tmp_path: Path) -> None:
    kafka.create_topic("three", partitions=3)
    for partition in range(3):
        kafka.produce("three", lines(partition * 10, partition * 10 + 5), partition=partition)
    some = collect(source_of("three", partitions=(2, 0)), tmp_path)
    assert some.last_offsets == {0: 4, 2: 4}
    rest = collect(source_of("three"), tmp_path)
    assert rest.first_offsets == {1: 0}
    assert sorted(numbers(tmp_path)) == [*range(5), *range(10, 15), *range(20, 25)]
    with pytest.raises(SourceError, match=r"partitions \[0, 1, 2\], but not \[7\]"):
        collect(source_of("three", partitions=(1, 7)), tmp_path)


def test_a_topic_that_is_not_there_is_named_and_not_made(kafka: Any, source_of: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no readable topic nobody-made-this .*MARQUEE_KAFKA_TOPIC"):
        collect(source_of("nobody-made-this", timeout_s=5.0), tmp_path)
    with KafkaAdminClient(bootstrap_servers=kafka.servers) as admin:
        assert "nobody-made-this" not in admin.list_topics()


def test_markers_of_transactions_are_gaps_and_aborted_lines_are_not_read(
    kafka: Any, source_of: Any, topic: str, tmp_path: Path
) -> None:
    with KafkaProducer(bootstrap_servers=kafka.servers, transactional_id=topic) as producer:
        producer.init_transactions()
        for first, keep in ((0, True), (10, False), (20, True), (30, False)):
            producer.begin_transaction()
            for each in lines(first, first + 5):
                producer.send(topic, each.encode(), partition=0)
            producer.flush()
            if keep:
                producer.commit_transaction()
            else:
                producer.abort_transaction()
    collected = collect(source_of(topic), tmp_path, batch_lines=4)
    assert numbers(tmp_path) == [*range(5), *range(20, 25)]
    assert collected.last_offsets == {0: 4 * (5 + 1) - 1}
    assert collect(source_of(topic), tmp_path).lines == 0


def test_a_topic_created_again_is_a_new_generation_and_the_old_batches_stay(
    kafka: Any, source_of: Any, topic: str, tmp_path: Path
) -> None:
    kafka.produce(topic, lines(0, 10))
    collect(source_of(topic), tmp_path)
    kafka.delete_topic(topic)
    kafka.create_topic(topic)
    kafka.produce(topic, lines(100, 130))
    collected = collect(source_of(topic), tmp_path)
    assert collected.lines == 30
    assert "another stream" in collected.notes[0]
    assert [batch.generation for batch in list_batches(tmp_path)] == [1, 2]
    assert numbers(tmp_path) == [*range(10), *range(100, 130)]


def test_a_range_that_retention_took_first_is_noted(
    kafka: Any, source_of: Any, topic: str, tmp_path: Path
) -> None:
    kafka.produce(topic, lines(0, 10))
    collect(source_of(topic), tmp_path)
    kafka.produce(topic, lines(10, 30))
    with KafkaAdminClient(bootstrap_servers=kafka.servers) as admin:
        admin.delete_records({TopicPartition(topic, 0): 15})
    collected = collect(source_of(topic), tmp_path)
    assert "lost the offsets 10 to 14" in collected.notes[0]
    assert collected.first_offsets == {0: 15}
    assert numbers(tmp_path) == [*range(10), *range(15, 30)]


def test_retention_that_takes_lines_while_they_are_read_is_an_error_and_no_silent_jump(
    kafka: Any, source_of: Any, topic: str, tmp_path: Path
) -> None:
    kafka.produce(topic, lines(0, 10))
    source = source_of(topic, timeout_s=5.0)
    first, end = source.bounds(0)
    with KafkaAdminClient(bootstrap_servers=kafka.servers) as admin:
        admin.delete_records({TopicPartition(topic, 0): 5})
    with pytest.raises(SourceError, match="OffsetOutOfRange"):
        list(source.read(0, first, end))


def test_a_broker_that_is_away_is_an_error_within_the_timeout(
    kafka: Any, source_of: Any, topic: str, tmp_path: Path
) -> None:
    kafka.produce(topic, lines(0, 10))
    kafka.stop()
    try:
        with pytest.raises(SourceError, match="see whether the broker runs"):
            collect(source_of(topic, timeout_s=2.0), tmp_path)
    finally:
        kafka.start()
    assert collect(source_of(topic), tmp_path).lines == 10


def test_a_broker_that_stops_in_the_middle_leaves_what_is_complete_and_the_next_run_goes_on(
    kafka: Any, source_of: Any, topic: str, tmp_path: Path
) -> None:
    kafka.produce(topic, lines(0, LONG_LINES, LONG_MOVIE))

    def stop_after_the_first_batch(done: int, total: int) -> None:
        if list_batches(tmp_path):
            kafka.stop()

    source = source_of(topic, timeout_s=2.0)
    try:
        with pytest.raises(SourceError, match=r"Collected before that and kept: \d+ lines in \d+ batch"):
            collect(source, tmp_path, batch_lines=2_000, progress=stop_after_the_first_batch)
    finally:
        kafka.start()
    assert 0 < len(list_batches(tmp_path)) < LONG_LINES // 2_000
    collect(source_of(topic), tmp_path, batch_lines=2_000)
    assert numbers(tmp_path) == list(range(LONG_LINES))


def test_a_source_reads_on_over_a_restart_that_is_shorter_than_its_patience(
    kafka: Any, source_of: Any, topic: str, tmp_path: Path
) -> None:
    kafka.produce(topic, lines(0, LONG_LINES, LONG_MOVIE))
    restarted: list[bool] = []

    def restart_once(done: int, total: int) -> None:
        if list_batches(tmp_path) and not restarted:
            restarted.append(True)
            kafka.stop()
            kafka.start()

    assert collect(source_of(topic), tmp_path, batch_lines=2_000, progress=restart_once).lines == LONG_LINES
    assert restarted
    assert numbers(tmp_path) == list(range(LONG_LINES))
