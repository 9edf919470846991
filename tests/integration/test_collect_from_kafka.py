"""Collecting from a real broker: topics that vanish, shrink and come back, a broker that goes away."""

import gc
import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from pipelines.data.batches import list_batches, read_kind
from pipelines.data.collect import collect
from pipelines.errors import SourceError
from pipelines.events import librdkafka
from pipelines.events.grammar import Rating
from pipelines.events.librdkafka import LibrdkafkaSource
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


@pytest.fixture(params=[KafkaSource, LibrdkafkaSource])
def client(request: pytest.FixtureRequest) -> type[KafkaSource]:
    """What reads: every test here holds for both."""
    return request.param


@pytest.fixture
def topic(kafka: Any, client: type[KafkaSource], request: pytest.FixtureRequest) -> str:
    """An empty topic of the test's own."""
    name = re.sub(r"[^a-zA-Z0-9._-]", "-", request.node.name.removeprefix("test_"))[-200:]
    kafka.create_topic(name)
    return name


@pytest.fixture
def source_of(kafka: Any, client: type[KafkaSource]) -> Iterator[Callable[..., KafkaSource]]:
    opened: list[KafkaSource] = []

    def open_source(topic: str, partitions: tuple[int, ...] = (), timeout_s: float = 30.0) -> KafkaSource:
        opened.append(client(kafka.servers, topic, partitions, timeout_s))
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


def at(when: datetime, number: int) -> str:
    """A rating that tells its number, given at ``when``."""
    return Rating(when, number + 1, "heat+1995", 1 + number % 5).line()


def clock_off_by(jump: timedelta) -> type[datetime]:
    """This machine's clock, wrong by so much."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + jump

    return Clock


# Some 20 MB, where one answer of the broker carries 8: most of it is still there when it stops after a batch.
LONG_LINES = 80_000
LONG_MOVIE = "x" * 250 + "+1995"


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


def test_only_the_wanted_partitions_are_read(kafka: Any, source_of: Any, topic: str, tmp_path: Path) -> None:
    kafka.raise_partitions(topic, 3)
    for partition in range(3):
        kafka.produce(topic, lines(partition * 10, partition * 10 + 5), partition=partition)
    some = collect(source_of(topic, partitions=(2, 0)), tmp_path)
    assert some.last_offsets == {0: 4, 2: 4}
    rest = collect(source_of(topic), tmp_path)
    assert rest.first_offsets == {1: 0}
    assert sorted(numbers(tmp_path)) == [*range(5), *range(10, 15), *range(20, 25)]
    with pytest.raises(SourceError, match=r"partitions \[0, 1, 2\], but not \[7\]"):
        collect(source_of(topic, partitions=(1, 7)), tmp_path)


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


def test_a_range_that_retention_took_first_is_told_once_and_kept_on_record(
    kafka: Any, source_of: Any, topic: str, tmp_path: Path
) -> None:
    told: list[str] = []
    kafka.produce(topic, lines(0, 10))
    collect(source_of(topic), tmp_path)
    kafka.produce(topic, lines(10, 15))
    kafka.forget(topic, before=15)
    for _ in range(2):
        assert collect(source_of(topic), tmp_path, announce=lambda alert: told.append(alert.body)).lines == 0
    kafka.produce(topic, lines(15, 30))
    collected = collect(source_of(topic), tmp_path, announce=lambda alert: told.append(alert.body))
    assert collected.first_offsets == {0: 15}
    assert [batch.info().lost for batch in list_batches(tmp_path)] == [None, (10, 14)]
    assert numbers(tmp_path) == [*range(10), *range(15, 30)]
    (alert,) = told
    assert "partition 0: offsets 10 to 14, 5 lines at most" in alert


def test_partitions_that_come_meanwhile_are_collected_from_their_start(
    kafka: Any, source_of: Any, topic: str, tmp_path: Path
) -> None:
    kafka.produce(topic, lines(0, 10))
    assert collect(source_of(topic), tmp_path).last_offsets == {0: 9}
    kafka.raise_partitions(topic, 2)
    kafka.produce(topic, lines(10, 20))
    kafka.produce(topic, lines(20, 30), partition=1)

    def raise_at_the_start(done: int, total: int) -> None:
        if done == 0:
            kafka.raise_partitions(topic, 3)
            kafka.produce(topic, lines(30, 40), partition=2)

    during = collect(source_of(topic), tmp_path, progress=raise_at_the_start)
    assert (during.first_offsets, during.last_offsets, during.notes) == ({0: 10, 1: 0}, {0: 19, 1: 9}, [])
    after = collect(source_of(topic), tmp_path)
    assert (after.first_offsets, after.last_offsets, after.notes) == ({2: 0}, {2: 9}, [])
    assert sorted(numbers(tmp_path)) == list(range(40))
    assert {batch.generation for batch in list_batches(tmp_path)} == {1}


def test_late_lines_and_lines_out_of_order_come_in_the_order_of_the_topic_and_are_counted(
    kafka: Any, source_of: Any, topic: str, tmp_path: Path
) -> None:
    # Minute by minute, but for 3, which comes two minutes after 5, and 8 and 7, which are swapped.
    order = [0, 1, 2, 4, 5, 3, 6, 8, 7, 9]
    kafka.produce(topic, [at(NOON + timedelta(minutes=number), number) for number in order])
    collect(source_of(topic), tmp_path)
    assert numbers(tmp_path) == order
    (info,) = (batch.info() for batch in list_batches(tmp_path))
    assert (info.first_time, info.last_time) == (NOON, NOON + timedelta(minutes=9))
    # 7 is one minute behind 8: within what is no delay.
    assert (info.late, info.latest_s) == (1, 2 * 60.0)


@pytest.mark.parametrize("jump", [timedelta(days=365), timedelta(days=-365)], ids=["ahead", "back"])
def test_clocks_that_jump_by_a_year_neither_lose_nor_double_a_line(
    kafka: Any, source_of: Any, topic: str, tmp_path: Path, jump: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    def produce(first: int, end: int, by: timedelta) -> None:
        """The clocks of the viewers' machines and of the broker's clients jump together."""
        with KafkaProducer(bootstrap_servers=kafka.servers) as producer:
            for number in range(first, end):
                when = NOON + by + timedelta(seconds=number)
                stamp_ms = round(when.timestamp() * 1_000)
                producer.send(topic, at(when, number).encode(), partition=0, timestamp_ms=stamp_ms)

    produce(0, 10, timedelta())
    collect(source_of(topic), tmp_path)
    produce(10, 20, jump)
    produce(20, 30, timedelta())
    with monkeypatch.context() as ours:
        ours.setattr("pipelines.data.collect.datetime", clock_off_by(jump))
        assert collect(source_of(topic), tmp_path).first_offsets == {0: 10}
    produce(30, 40, timedelta())
    assert collect(source_of(topic), tmp_path).first_offsets == {0: 30}
    assert numbers(tmp_path) == list(range(40))
    _, jumped, _ = (batch.info() for batch in list_batches(tmp_path))
    hours = {f"{when:%Y-%m-%dT%H}": {"rating": 10} for when in (NOON, NOON + jump)}
    assert jumped.hours == hours
    # What follows a jump ahead is a year late; what was before one back is as it was.
    late = 10 if jump > timedelta() else 0
    assert (jumped.late, jumped.latest_s) == (late, late and (jump - timedelta(seconds=1)).total_seconds())


@pytest.mark.parametrize(("start", "stop"), [(0, 6), (2, 5), (5, 8), (0, 11)])
def test_what_comes_behind_the_stop_is_left_to_the_next_run(
    kafka: Any, source_of: Any, topic: str, start: int, stop: int
) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka.servers, transactional_id=topic)
    producer.init_transactions()
    for part in (lines(0, 5), lines(5, 10)):
        producer.begin_transaction()
        for line in part:
            producer.send(topic, line.encode(), partition=0)
        producer.commit_transaction()
    producer.close()
    read = [offset for chunk in source_of(topic).read(0, start, stop) for offset in chunk.offsets.tolist()]
    # A mark of the transaction has the offset 5.
    assert read == [offset for offset in range(start, stop) if offset != 5]


def test_retention_that_takes_lines_while_they_are_read_is_an_error_and_no_silent_jump(
    kafka: Any, source_of: Any, topic: str, tmp_path: Path
) -> None:
    kafka.produce(topic, lines(0, 10))
    source = source_of(topic, timeout_s=5.0)
    first, end = source.bounds(0)
    kafka.forget(topic, before=5)
    with pytest.raises(SourceError, match=r"(?i)offset ?out ?of ?range"):
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
    kafka: Any, source_of: Any, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(librdkafka, "_MOST_RECORDS", 1_000)
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
