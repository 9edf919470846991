"""Where lines come from: a Kafka topic or a file. Both are numbered streams that only grow at their end."""

import gzip
import hashlib
import logging
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, Protocol, cast

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient
from kafka.structs import OffsetAndMetadata, TopicPartition

from pipelines.errors import SourceError
from pipelines.events.grammar import Reject, parse

log = logging.getLogger(__name__)

GROUP: Final = "marquee"
"""Consumer group whose offsets show on dashboards how far Marquee has come."""


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

    def read(self, partition: int, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, line without its end) from ``start`` up to, not including, ``stop``.

        Offsets ascend and may have gaps.

        Raises:
            SourceError: when the stream cannot be read to ``stop``.
        """

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Tell the stream, per partition, which offset will be read next; nobody here reads this back."""

    def close(self) -> None:
        """Let go of connections."""


class KafkaSource:
    """A Kafka topic, read by explicit offsets: no group membership, nothing committed before it is safe."""

    def __init__(
        self, servers: str, topic: str, partitions: Sequence[int] = (), timeout_s: float = 30.0
    ) -> None:
        """Connect.

        Args:
            servers: bootstrap servers, comma-separated host:port.
            topic: name of the topic, which must exist.
            partitions: the ones to read; empty means all.
            timeout_s: how long a silent broker is waited for.

        Raises:
            SourceError: when no broker answers in time.
        """
        self.name = topic
        self._servers = servers
        self._wanted = tuple(partitions)
        self._timeout_s = timeout_s
        with self._translated("connect"):
            self._admin = self._client(KafkaAdminClient)
            self._consumer = self._client(
                KafkaConsumer,
                enable_auto_commit=False,
                # An offset that is gone must be an error here, never a silent jump.
                auto_offset_reset="none",
                # Looking at a topic must not make it.
                allow_auto_create_topics=False,
                isolation_level="read_committed",
                max_poll_records=5_000,
                max_partition_fetch_bytes=8 * 2**20,
                metrics_enabled=False,
            )

    @property
    def identity(self) -> str:
        """UUID of the topic; a topic that is deleted and created again has another one."""
        return str(self._describe()["topic_id"])

    def partitions(self) -> list[int]:
        """Return the partitions that were asked for, or all; ``SourceError`` when one does not exist."""
        existing = sorted(part["partition_index"] for part in self._describe()["partitions"])
        missing = sorted(set(self._wanted) - set(existing))
        if missing:
            raise SourceError(
                f"topic {self.name} at {self._servers} has the partitions {existing}, not {missing}; "
                "correct MARQUEE_KAFKA_PARTITIONS, or leave it empty to read all"
            )
        return sorted(set(self._wanted)) or existing

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset that retention has left and one past the last committed record."""
        where = TopicPartition(self.name, partition)
        with self._translated(f"ask for the offsets of partition {partition}"):
            first = self._consumer.beginning_offsets([where], timeout_ms=self._timeout_ms)[where]
            end = self._consumer.end_offsets([where], timeout_ms=self._timeout_ms)[where]
        return int(first), int(end)

    def read(self, partition: int, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, value); offsets skip what was compacted away or belongs to no committed transaction.

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
            for record in records:
                if record.offset >= stop:
                    return
                yield record.offset, record.value or b""

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Commit to the group ``marquee``; ``SourceError`` when the broker does not take it in time."""
        offsets = {
            TopicPartition(self.name, partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in next_offsets.items()
        }
        # A client of its own: a consumer with a group cannot even read while the coordinator is away.
        with self._translated("commit offsets"):
            committer = self._client(KafkaConsumer, group_id=GROUP, enable_auto_commit=False)
            try:
                committer.commit(offsets, timeout_ms=self._timeout_ms)
            finally:
                committer.close(autocommit=False, timeout_ms=self._timeout_ms)

    def close(self) -> None:
        """Close the connections."""
        with self._translated("close"):
            self._consumer.close(autocommit=False, timeout_ms=self._timeout_ms)
            self._admin.close()

    @property
    def _timeout_ms(self) -> int:
        return round(self._timeout_s * 1000)

    def _poll(self, where: TopicPartition, position: int) -> tuple[list[Any], int]:
        """Return the next records and the position behind them; the position alone moves over gaps."""
        patience_ends = time.monotonic() + self._timeout_s
        with self._translated(f"read partition {where.partition} at offset {position}"):
            while time.monotonic() < patience_ends:
                records = self._consumer.poll(timeout_ms=min(500, self._timeout_ms)).get(where, [])
                reached = self._consumer.position(where, timeout_ms=self._timeout_ms)
                if reached > position:
                    return records, reached
        raise SourceError(
            f"Kafka at {self._servers} sent nothing of topic {self.name}, partition {where.partition}, "
            f"offset {position} for {self._timeout_s:g} s, although it holds more; "
            "see whether the broker runs, then collect again"
        )

    def _describe(self) -> dict[str, Any]:
        with self._translated("describe the topic"):
            topic = cast("dict[str, Any]", self._admin.describe_topics([self.name])[0])
        if topic["error_code"]:
            raise SourceError(
                f"Kafka at {self._servers} has no readable topic {self.name} (error {topic['error_code']}); "
                "correct MARQUEE_KAFKA_TOPIC, or create the topic"
            )
        return topic

    def _client(self, make: Callable[..., Any], **options: Any) -> Any:
        """Make a client of Kafka that leaves no thread behind when no broker answers."""
        networks: list[Any] = []

        def network(**config: Any) -> Any:
            networks.append(KafkaNetClient(**config))
            return networks[-1]

        try:
            return make(
                bootstrap_servers=self._servers.split(","),
                bootstrap_timeout_ms=self._timeout_ms,
                request_timeout_ms=max(self._timeout_ms, 1_000),
                kafka_client=network,
                **options,
            )
        except BaseException:
            for opened in networks:
                opened.close()
            raise

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        # ValueError: what kafka-python says of servers that it cannot read as host:port.
        try:
            yield
        except (KafkaError, OSError, ValueError) as error:
            raise SourceError(
                f"could not {doing}: topic {self.name}, Kafka at {self._servers}: {error}; "
                "see whether the broker runs and MARQUEE_KAFKA_SERVERS is right, then try again"
            ) from error


class FileSource:
    """An event log, plain or ``.gz``, one line each; the offset is the line number from 0.

    The file may grow at its end while it is read. A last line without a line end counts as soon as it is an
    event: no beginning of an event line is itself one, so it is complete. Otherwise it is still being written
    (or torn) and is left for the next time; read now, its second half would be lost.
    """

    def __init__(self, path: Path) -> None:
        """Keep the path; the file is opened when it is needed."""
        self._path = path
        # The same log before and after it is packed is one stream.
        stem = Path(path.name.removesuffix(".gz")).stem
        self.name = re.sub(r"[^a-zA-Z0-9._-]+", "-", stem)

    @property
    def identity(self) -> str:
        """Hash of the first line, which stays the same while the file grows."""
        with self._opened() as lines:
            return hashlib.sha256(lines.readline().rstrip(b"\r\n")).hexdigest()[:32]

    def partitions(self) -> list[int]:
        """Return the one partition that a file has."""
        return [0]

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return 0 and the number of complete lines."""
        count, last = 0, b""
        with self._opened() as lines:
            for last in lines:
                count += 1
        return 0, count - (not _is_complete(last))

    def read(self, partition: int, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """Yield (line number, line without its end).

        Raises:
            SourceError: when the file cannot be read or is damaged.
        """
        with self._opened() as lines:
            for number, line in enumerate(islice(lines, start, stop), start):
                yield number, line.removesuffix(b"\n").removesuffix(b"\r")

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Do nothing: a file keeps no offsets."""

    def close(self) -> None:
        """Do nothing: the file is open only while it is read."""

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


def _is_complete(line: bytes) -> bool:
    """Tell whether the last line of a file can be taken: it has its end, or is an event without one."""
    return not line or line.endswith(b"\n") or not isinstance(parse(line), Reject)
