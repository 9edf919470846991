"""Where the audience's lines go: a Kafka topic or a file, in order."""

from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Protocol

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError

from pipelines.errors import StackError
from pipelines.local import broker

CONNECT_TIMEOUT_S = 1.0
KAFKA_PATIENCE_S = 10.0
"""How long a chunk of lines waits for a broker that is away before it is given up."""


class Sink(Protocol):
    """Takes lines in order."""

    def write(self, lines: Sequence[str]) -> int:
        """Store the lines and return how many were stored.

        Raises:
            MarqueeError: nothing can be stored at the moment.
        """

    def is_empty(self) -> bool:
        """Return whether nothing was ever written there, by anybody.

        Raises:
            MarqueeError: that cannot be seen at the moment.
        """

    def close(self) -> None:
        """Let go of whatever is held."""


class FileSink:
    """Appends to a file; every chunk is one write of whole lines, so that a reader sees no torn line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, lines: Sequence[str]) -> int:
        """Append the lines.

        Raises:
            StackError: the file cannot be written.
        """
        content = "".join(f"{line}\n" for line in lines).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                file.write(content)
        except OSError as error:
            raise StackError(
                f"events cannot be appended to {self.path}: {error}; is the disk full?"
            ) from error
        return len(lines)

    def is_empty(self) -> bool:
        """Return whether the file is missing or has no bytes."""
        return not self.path.exists() or self.path.stat().st_size == 0

    def close(self) -> None:
        """Do nothing: the file is closed after every write."""


class KafkaSink:
    """Sends each line as one message without a key; connects when first needed and again after an outage."""

    def __init__(self, servers: str, topic: str) -> None:
        self.servers = servers
        self.topic = topic
        self._producer: KafkaProducer | None = None

    def write(self, lines: Sequence[str]) -> int:
        """Send the lines and wait until the broker has them, ``KAFKA_PATIENCE_S`` at most.

        Raises:
            StackError: no broker answers, or it has no such topic.
        """
        producer = self._producer = self._producer or self._connected()
        try:
            sent = [producer.send(self.topic, line.encode()) for line in lines]
        except KafkaError as error:
            raise StackError(
                f"Kafka at {self.servers} does not take events for {self.topic}: {error}"
            ) from error
        with suppress(KafkaTimeoutError):
            producer.flush(timeout=2 * KAFKA_PATIENCE_S)
        return sum(future.succeeded() for future in sent)

    def is_empty(self) -> bool:
        """Return whether every partition of the topic ends where it begins numbering.

        Raises:
            StackError: no broker answers, or it has no such topic.
        """
        broker.wait_ready(self.servers, timeout_s=CONNECT_TIMEOUT_S)
        with closing(KafkaConsumer(bootstrap_servers=self.servers.split(","))) as consumer:
            try:
                numbers = consumer.partitions_for_topic(self.topic)
                ends = consumer.end_offsets([TopicPartition(self.topic, each) for each in numbers or ()])
            except KafkaError as error:
                raise StackError(
                    f"Kafka at {self.servers} does not say how far {self.topic} goes: {error}"
                ) from error
        if not ends:
            raise StackError(f"Kafka at {self.servers} has no topic {self.topic}; create it first")
        return not any(ends.values())

    def close(self) -> None:
        """Close the connection."""
        if self._producer is not None:
            self._producer.close(timeout=1)

    def _connected(self) -> KafkaProducer:
        # A producer that finds no broker leaves sockets behind, so it is made when there is one.
        broker.wait_ready(self.servers, timeout_s=CONNECT_TIMEOUT_S)
        patience_ms = int(KAFKA_PATIENCE_S * 1_000)
        return KafkaProducer(
            bootstrap_servers=self.servers.split(","),
            linger_ms=20,
            request_timeout_ms=patience_ms // 2,
            delivery_timeout_ms=patience_ms,
            max_block_ms=1_000,
            reconnect_backoff_max_ms=1_000,
        )
