"""Where lines come from: a Kafka topic or a file. Both are numbered streams that only grow at their end."""

import gzip
import hashlib
import logging
import re
import sys
import time
import zlib
from bisect import bisect_right
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Protocol, cast

import numpy as np
import pyarrow as pa
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import KafkaError, RetriableError, for_code
from kafka.net.compat import KafkaNetClient
from kafka.structs import OffsetAndMetadata, TopicPartition

from pipelines.errors import SourceError
from pipelines.events.grammar import Reject, parse
from pipelines.events.lines import Lines

GROUP: Final = "marquee"
"""Consumer group whose offsets show on dashboards how far Marquee has come."""

_BLOCK_BYTES: Final = 4 * 2**20
_HEAD_LINES: Final = 100

log = logging.getLogger(__name__)


class Source(Protocol):
    """A numbered stream of lines in one or more partitions."""

    @property
    def name(self) -> str:
        """Name of the stream, like a topic: ``[a-zA-Z0-9._-]+``."""

    @property
    def identity(self) -> str:
        """Looked up afresh each time; changes when a stream of the same name is another one."""

    def partitions(self) -> list[int]:
        """Return the partitions to read, ascending."""

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset that is still held and one past the last."""

    def read(self, partition: int, start: int, stop: int) -> Iterator[Lines]:
        """Yield the lines from ``start`` up to, not including, ``stop``, some ten thousand at a time.

        Offsets ascend and may have gaps.

        Raises:
            SourceError: when the stream cannot be read to ``stop``.
        """

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Tell the stream, per partition, which offset will be read next; nobody here reads this back."""

    def close(self) -> None:
        """Let go of connections."""


class KafkaSource:
    """A Kafka topic, read by explicit offsets: no group membership, nothing committed before it is safe.

    Connects when it is first asked something. Whatever Kafka says against it ends as ``SourceError``.
    """

    def __init__(
        self, servers: str, topic: str, partitions: Sequence[int] = (), timeout_s: float = 30.0
    ) -> None:
        """Keep where and what to read.

        Args:
            servers: bootstrap servers, comma-separated host:port.
            topic: name of the topic, which must exist.
            partitions: the ones to read; empty means all.
            timeout_s: how long a silent broker is waited for.
        """
        self.name = topic
        self._servers = servers
        self._wanted = sorted(set(partitions))
        self._timeout_s = timeout_s
        self._clients: list[Any] = []

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where and what to read, not the connections."""
        return type(self), (self._servers, self.name, self._wanted, self._timeout_s)

    @property
    def identity(self) -> str:
        """UUID of the topic; a topic that is deleted and created again has another one."""
        return str(self._describe()["topic_id"])

    def partitions(self) -> list[int]:
        """Return the partitions that were asked for, or all; ``SourceError`` when one does not exist."""
        existing = sorted(part["partition_index"] for part in self._describe()["partitions"])
        missing = [partition for partition in self._wanted if partition not in existing]
        if missing:
            raise SourceError(
                f"topic {self.name} at {self._servers} has the partitions {existing}, but not {missing}; "
                "correct MARQUEE_KAFKA_PARTITIONS, or leave it empty to read all"
            )
        return self._wanted or existing

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset that retention has left and one past the last committed record."""
        where = TopicPartition(self.name, partition)
        with self._translated(f"ask for the offsets of partition {partition}"):
            first = self._consumer.beginning_offsets([where], timeout_ms=self._timeout_ms)[where]
            end = self._consumer.end_offsets([where], timeout_ms=self._timeout_ms)[where]
        return int(first), int(end)

    def read(self, partition: int, start: int, stop: int) -> Iterator[Lines]:
        """Yield the values, without what was compacted away or belongs to no committed transaction.

        Raises:
            SourceError: when nothing arrives for ``timeout_s``, or ``start`` is no longer held.
        """
        where = TopicPartition(self.name, partition)
        with self._translated(f"read partition {partition} from offset {start}"):
            self._consumer.assign([where])
            self._consumer.seek(where, start)
        position = start
        while position < stop:
            records, position = self._poll(where, position)
            lines = Lines.of(
                [record.offset for record in records], [record.value or b"" for record in records]
            )
            yield lines[: int(np.searchsorted(lines.offsets, stop))]

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Commit to the group ``marquee``; ``SourceError`` when the broker does not take it in time."""
        if not next_offsets:
            return
        offsets = {
            TopicPartition(self.name, partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in next_offsets.items()
        }
        # A client of its own: a consumer in a group cannot even read while the group's coordinator is away.
        with self._translated("commit offsets"):
            committer = self._client(KafkaConsumer, group_id=GROUP, enable_auto_commit=False)
            committer.commit(offsets, timeout_ms=self._timeout_ms)

    def close(self) -> None:
        """Close all connections; a broker that is away is no reason to complain now."""
        while self._clients:
            with suppress(KafkaError, OSError):
                self._clients.pop().close()

    @cached_property
    def _admin(self) -> Any:
        return self._client(KafkaAdminClient)

    @cached_property
    def _consumer(self) -> Any:
        return self._client(
            KafkaConsumer,
            enable_auto_commit=False,
            # An offset that is gone must be an error here, never a silent jump.
            auto_offset_reset="none",
            # Looking at a topic must not make it.
            allow_auto_create_topics=False,
            isolation_level="read_committed",
            max_poll_records=1_000,
            max_partition_fetch_bytes=8 * 2**20,
            metrics_enabled=False,
        )

    @property
    def _timeout_ms(self) -> int:
        return round(self._timeout_s * 1000)

    def _poll(self, where: TopicPartition, position: int) -> tuple[list[Any], int]:
        """Return the next records and the position behind them; over a gap the position moves alone."""
        patience_ends = time.monotonic() + self._timeout_s
        with self._translated(f"read partition {where.partition} at offset {position}"):
            while time.monotonic() < patience_ends:
                records = self._consumer.poll(timeout_ms=min(500, self._timeout_ms)).get(where, [])
                reached = self._consumer.position(where, timeout_ms=self._timeout_ms)
                if reached > position:
                    return records, reached
        raise self._silent(where.partition, position)

    def _silent(self, partition: int, position: int) -> SourceError:
        return SourceError(
            f"Kafka at {self._servers} sent nothing of topic {self.name}, partition {partition}, from "
            f"offset {position} for {self._timeout_s:g} s; see whether the broker runs, then try again"
        )

    def _describe(self) -> dict[str, Any]:
        patience_ends = time.monotonic() + self._timeout_s
        with self._translated("describe the topic"):
            while True:
                try:
                    topic = cast("dict[str, Any]", self._admin.describe_topics([self.name])[0])
                    break
                except RetriableError:
                    if time.monotonic() > patience_ends:
                        raise
                    time.sleep(0.1)
        if topic["error_code"]:
            raise SourceError(
                f"Kafka at {self._servers} has no readable topic {self.name} "
                f"({for_code(topic['error_code']).__name__}); correct MARQUEE_KAFKA_TOPIC or create the topic"
            )
        return topic

    def _client(self, make: Callable[..., Any], **options: Any) -> Any:
        """Make a client; when no broker answers, end the network thread that it would leave behind."""
        networks: list[Any] = []

        def network(**config: Any) -> Any:
            networks.append(KafkaNetClient(**config))
            return networks[-1]

        try:
            client = make(
                bootstrap_servers=self._servers.split(","),
                bootstrap_timeout_ms=self._timeout_ms,
                # kafka-python wants it above fetch_max_wait_ms, 500.
                request_timeout_ms=max(self._timeout_ms, 1_000),
                reconnect_backoff_max_ms=1_000,
                kafka_client=network,
                **options,
            )
        except BaseException:
            for opened in networks:
                opened.close()
            raise
        self._clients.append(client)
        return client

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        # ValueError is what kafka-python says of servers that do not read as host:port.
        except (KafkaError, OSError, ValueError) as error:
            raise SourceError(
                f"could not {doing}: topic {self.name}, Kafka at {self._servers}: {error}; "
                "see whether the broker runs and MARQUEE_KAFKA_SERVERS is right, then try again"
            ) from error


class FileSource:
    """An event log, plain or ``.gz``, one line each; the offset is the line number from 0.

    The file may grow at its end while it is read. A last line without a line end counts as soon as it is an
    event: an archived log may end so, and no mere beginning of an event line is an event. Otherwise it is
    still being written, or torn, and is left for the next time: taken now, its second half would be lost.
    A byte order mark at its start is passed over.
    """

    def __init__(self, path: Path) -> None:
        """Keep the path; the file is opened when it is needed."""
        self._path = path
        # The same log before and after it is packed is one stream.
        stem = Path(path.name.removesuffix(".gz")).stem
        self.name = re.sub(r"[^a-zA-Z0-9._-]+", "-", stem)
        self._known = ""
        self._blocks = [_Block(0, 0)]
        self._unfinished = (0, 0)

    @property
    def identity(self) -> str:
        """Hash of the first event, which stays the same while the file grows.

        Logs of one name may begin with the same header or blank lines: only while there is no event among the
        first hundred lines does the first line stand for it.
        """
        with self._opened() as file:
            return self._identity(file)

    def partitions(self) -> list[int]:
        """Return the one partition that a file has."""
        return [0]

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return 0 and the number of complete lines."""
        end = 0
        with self._opened() as file:
            for number, values in self._numbered(file, sys.maxsize):
                end = number + len(values)
                if not _is_complete(last := values[-1].as_py()):
                    end -= 1
                    self._leave(end, len(last))
        return 0, end

    def read(self, partition: int, start: int, stop: int) -> Iterator[Lines]:
        """Yield the lines; the offset is the number of the line.

        Raises:
            SourceError: when the file cannot be read, is damaged, or has become shorter.
        """
        end = start
        with self._opened() as file:
            for number, values in self._numbered(file, start):
                end = number + len(values)
                part = slice(max(start - number, 0), stop - number)
                yield Lines(np.arange(number, end, dtype=np.int64), values)[part]
                if end >= stop:
                    return
        if end < stop:
            raise SourceError(
                f"{self._path} had {stop} lines and now ends after {end}: it was cut while it was read; "
                "try again"
            )

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Do nothing: a file keeps no offsets."""

    def close(self) -> None:
        """Do nothing: the file is open only while it is read."""

    def _numbered(self, file: IO[bytes], start: int) -> Iterator[tuple[int, pa.BinaryArray]]:
        """Yield blocks of lines and the number of their first, from the block that holds line ``start``.

        Where blocks begin is remembered: whoever reads on need not look through the file again.
        """
        if (identity := self._identity(file)) != self._known:
            self._known, self._blocks = identity, [_Block(0, 0)]
        number, position = self._blocks[bisect_right(self._blocks, start, key=attrgetter("number")) - 1]
        file.seek(position)
        if position and not file.read(1):  # the file has been cut since
            number, position = 0, 0
            self._blocks = [_Block(0, 0)]
        file.seek(position)
        for data in _whole_lines(file):
            if number > self._blocks[-1].number:
                self._blocks.append(_Block(number, position))
            values = _split(data if position else data.removeprefix(BOM_UTF8))
            yield number, values
            number, position = number + len(values), position + len(data)

    def _leave(self, number: int, length: int) -> None:
        """Say once of a last line that it is not taken."""
        if (number, length) != self._unfinished:
            log.info(
                "%s: its last line, number %d (%d bytes), has no line end and is no event; "
                "it is left until it has one",
                *(self._path, number, length),
            )
        self._unfinished = (number, length)

    def _identity(self, file: IO[bytes]) -> str:
        file.seek(0)
        head = islice(file, _HEAD_LINES)
        first = next(head, b"").removeprefix(BOM_UTF8)
        event = next((line for line in chain([first], head) if not isinstance(parse(line), Reject)), first)
        return hashlib.sha256(event.rstrip(b"\r\n")).hexdigest()[:32]

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        try:
            with gzip.open(self._path) if self._path.suffix == ".gz" else self._path.open("rb") as lines:
                yield cast("IO[bytes]", lines)
        except (OSError, EOFError, zlib.error) as error:
            raise SourceError(
                f"could not read {self._path}: {error}; "
                "see whether it exists, is readable and (if packed) passes gzip -t"
            ) from error


class _Block(NamedTuple):
    """Where a block of a file begins."""

    number: int
    """Of its first line."""
    position: int
    """Bytes from the start of the (unpacked) file."""


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what is left of a file in blocks that end with a line; the last one may lack its line end."""
    begun = b""
    while data := file.read(_BLOCK_BYTES):
        lines, newline, begun = (begun + data).rpartition(b"\n")
        if newline:
            yield lines + newline
    if begun:
        yield begun


def _split(data: bytes) -> pa.BinaryArray:
    """Return the lines of ``data``, with their ends, without copying them."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(data))
    offsets = pa.py_buffer(np.append(0, ends).astype(np.int32))
    return pa.BinaryArray.from_buffers(pa.binary(), len(ends), [None, offsets, pa.py_buffer(data)])


def _is_complete(line: bytes) -> bool:
    """Tell whether the last line of a file can be taken: it has its end, or is an event without one."""
    return line.endswith(b"\n") or not isinstance(parse(line), Reject)
