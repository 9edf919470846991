import codecs
import gc
import gzip
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from pipelines.errors import SourceError
from pipelines.events import sources
from pipelines.events.lines import Lines
from pipelines.events.sources import FileSource, KafkaSource, Source

WATCH = b"2022-11-14T12:23:12,596363,GET /data/m/snowpiercer+2013/16.mpg"
RATE = b"2023-09-28T20:20:23,65458,GET /rate/inception+2010=5"


def everything(source: Source) -> list[tuple[int, bytes]]:
    return pairs(source.read(0, *source.bounds(0)))


def pairs(chunks: Iterable[Lines]) -> list[tuple[int, bytes]]:
    return [
        pair
        for lines in chunks
        for pair in zip(lines.offsets.tolist(), lines.values.to_pylist(), strict=True)
    ]


@pytest.fixture
def log(tmp_path: Path) -> Callable[[bytes], FileSource]:
    def write(content: bytes) -> FileSource:
        path = tmp_path / "movielog4.log"
        path.write_bytes(content)
        return FileSource(path)

    return write


class TestFile:
    def test_lines_are_numbered_from_zero_and_keep_their_end(
        self, log: Callable[[bytes], FileSource]
    ) -> None:
        source = log(WATCH + b"\n" + RATE + b"\r\n" + b"garbage\n")
        assert everything(source) == [(0, WATCH + b"\n"), (1, RATE + b"\r\n"), (2, b"garbage\n")]

    def test_a_range_is_read_up_to_its_stop(self, log: Callable[[bytes], FileSource]) -> None:
        source = log(b"".join(b"%d\n" % number for number in range(10)))
        assert pairs(source.read(0, 3, 5)) == [(3, b"3\n"), (4, b"4\n")]

    def test_blank_lines_and_carriage_returns_within_are_lines_too(
        self, log: Callable[[bytes], FileSource]
    ) -> None:
        assert everything(log(b"\n\ra\r\r\n\n")) == [(0, b"\n"), (1, b"\ra\r\r\n"), (2, b"\n")]

    @pytest.mark.parametrize("rest", [WATCH + b"\n" + RATE + b"\n", WATCH, b""])
    def test_a_byte_order_mark_is_no_part_of_the_first_line(
        self, log: Callable[[bytes], FileSource], rest: bytes
    ) -> None:
        plain = log(rest)
        lines, identity = everything(plain), plain.identity
        marked = log(codecs.BOM_UTF8 + rest)
        assert (everything(marked), marked.identity) == (lines, identity)

    def test_an_empty_file_has_nothing(self, log: Callable[[bytes], FileSource]) -> None:
        assert log(b"").bounds(0) == (0, 0)

    def test_a_last_event_without_line_end_counts(self, log: Callable[[bytes], FileSource]) -> None:
        assert everything(log(WATCH + b"\n" + RATE)) == [(0, WATCH + b"\n"), (1, RATE)]

    @pytest.mark.parametrize("length", range(1, len(RATE)))
    def test_a_last_line_still_being_written_waits(
        self, log: Callable[[bytes], FileSource], length: int
    ) -> None:
        assert log(WATCH + b"\n" + RATE[:length]).bounds(0) == (0, 1)

    def test_a_packed_log_is_read_like_a_plain_one(self, tmp_path: Path) -> None:
        plain, packed = tmp_path / "movielog4.log", tmp_path / "movielog4.log.gz"
        plain.write_bytes(WATCH + b"\n" + RATE + b"\n")
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        assert everything(FileSource(packed)) == everything(FileSource(plain))
        assert FileSource(packed).name == FileSource(plain).name == "movielog4"
        assert FileSource(packed).identity == FileSource(plain).identity

    def test_the_identity_stays_while_the_file_grows(self, log: Callable[[bytes], FileSource]) -> None:
        small = log(WATCH + b"\n").identity
        assert log(WATCH + b"\n" + RATE + b"\n").identity == small
        assert log(WATCH).identity == small
        assert log(RATE + b"\n" + WATCH + b"\n").identity != small

    @pytest.mark.parametrize("head", [b"time,user_id,action\n", b"\n\n", b"\xff\xfe\n"])
    def test_logs_that_begin_with_the_same_header_are_told_apart_by_their_events(
        self, log: Callable[[bytes], FileSource], head: bytes
    ) -> None:
        small = log(head + WATCH + b"\n").identity
        assert log(head + WATCH + b"\n" + RATE + b"\n").identity == small
        assert log(head + RATE + b"\n" + WATCH + b"\n").identity != small

    def test_a_log_without_any_event_is_known_by_its_first_line(
        self, log: Callable[[bytes], FileSource]
    ) -> None:
        small = log(b"1\n").identity
        assert log(b"1\n2\n" * 200).identity == small
        assert log(b"2\n1\n").identity != small

    def test_a_last_line_that_is_left_is_said_once(
        self, log: Callable[[bytes], FileSource], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        source = log(WATCH + b"\n" + RATE[:-1])
        assert source.bounds(0) == source.bounds(0) == (0, 1)
        (said,) = caplog.messages
        assert "movielog4.log: its last line, number 1 (51 bytes), has no line end and is no event" in said
        log(WATCH + b"\n" + RATE)
        assert source.bounds(0) == (0, 2)
        assert caplog.messages == [said]

    @pytest.mark.parametrize(
        ("file", "name"),
        [("a b~c.log", "a-b-c"), ("day.2.log.gz", "day.2"), ("plain", "plain"), ("übung.txt", "-bung")],
    )
    def test_the_name_is_cleaned_like_a_topic(self, file: str, name: str) -> None:
        assert FileSource(Path(file)).name == name

    def test_a_missing_file_is_a_source_error(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"nothing\.log.*see whether it exists"):
            FileSource(tmp_path / "nothing.log").bounds(0)

    @pytest.mark.parametrize("keep", [5, 40, -4])
    def test_a_torn_archive_is_a_source_error(self, tmp_path: Path, keep: int) -> None:
        path = tmp_path / "log.gz"
        path.write_bytes(gzip.compress(b"".join(b"line %d\n" % number for number in range(1_000)))[:keep])
        with pytest.raises(SourceError, match="gzip -t"):
            FileSource(path).bounds(0)

    def test_a_file_that_was_cut_meanwhile_is_a_source_error(
        self, log: Callable[[bytes], FileSource]
    ) -> None:
        source = log(b"1\n2\n3\n")
        _, stop = source.bounds(0)
        reading = log(b"1\n").read(0, 0, stop)
        assert pairs([next(reading)]) == [(0, b"1\n")]
        with pytest.raises(SourceError, match="had 3 lines and now ends after 1"):
            next(reading)

    def test_a_reader_that_goes_on_remembers_where_blocks_began(
        self, log: Callable[[bytes], FileSource], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sources, "_BLOCK_BYTES", 10)
        lines = [b"%d\n" % number for number in range(100)]
        source = log(b"".join(lines[:60]))
        assert everything(source) == list(enumerate(lines[:60]))
        log(b"".join(lines))
        assert source.bounds(0) == (0, 100)
        for start, stop in [(97, 100), (0, 3), (45, 77)]:
            assert pairs(source.read(0, start, stop)) == list(enumerate(lines))[start:stop]

    def test_a_reader_notices_that_its_file_was_cut(
        self, log: Callable[[bytes], FileSource], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sources, "_BLOCK_BYTES", 10)
        source = log(b"".join(b"%d\n" % number for number in range(100)))
        assert source.bounds(0) == (0, 100)
        log(b"0\n1\n")
        assert source.bounds(0) == (0, 2)
        assert everything(source) == [(0, b"0\n"), (1, b"1\n")]

    def test_a_reader_notices_that_its_file_became_another(
        self, log: Callable[[bytes], FileSource], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sources, "_BLOCK_BYTES", 10)
        source = log(b"".join(b"%d\n" % number for number in range(100)))
        assert source.bounds(0) == (0, 100)
        longer = [b"another line %d\n" % number for number in range(100)]
        log(b"".join(longer))
        assert everything(source) == list(enumerate(longer))

    def test_committing_and_closing_do_nothing(self, log: Callable[[bytes], FileSource]) -> None:
        source = log(WATCH + b"\n")
        source.commit({0: 1})
        source.close()
        assert everything(source) == [(0, WATCH + b"\n")]


# kafka-python forgets to close the socket of a refused connection.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
class TestKafkaAway:
    @pytest.fixture(autouse=True)
    def sockets_are_gone_before_the_filter_is(self, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        # Captured log records would keep the exceptions, and those the sockets.
        caplog.set_level(logging.CRITICAL, logger="kafka")
        yield
        gc.collect()

    def test_making_a_source_asks_nothing(self) -> None:
        assert KafkaSource("127.0.0.1:1", "movielog4").name == "movielog4"

    @pytest.mark.parametrize(
        "ask",
        [
            lambda source: source.identity,
            lambda source: source.partitions(),
            lambda source: source.bounds(0),
            lambda source: next(source.read(0, 0, 1)),
            lambda source: source.commit({0: 1}),
        ],
    )
    def test_every_question_is_a_source_error_that_says_what_to_do(
        self, ask: Callable[[KafkaSource], object]
    ) -> None:
        source = KafkaSource("127.0.0.1:1", "movielog4", timeout_s=0.2)
        wanted = r"topic movielog4, Kafka at 127\.0\.0\.1:1: .*see whether the broker runs"
        with pytest.raises(SourceError, match=wanted):
            ask(source)

    def test_unreadable_servers_are_a_source_error(self) -> None:
        with pytest.raises(SourceError, match="MARQUEE_KAFKA_SERVERS"):
            KafkaSource("broker:port", "movielog4", timeout_s=0.2).partitions()

    def test_no_thread_is_left_behind(self) -> None:
        before = threading.active_count()
        with pytest.raises(SourceError):
            KafkaSource("127.0.0.1:1", "movielog4", timeout_s=0.2).partitions()
        assert threading.active_count() == before

    def test_committing_nothing_asks_nobody(self) -> None:
        KafkaSource("127.0.0.1:1", "movielog4").commit({})
