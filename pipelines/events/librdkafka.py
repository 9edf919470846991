"""A Kafka topic read by librdkafka (confluent-kafka): the same source, at a third of the CPU."""

import logging
import time
from collections.abc import Iterator
from functools import cached_property
from typing import Final

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pipelines.errors import SourceError
from pipelines.events.lines import Lines
from pipelines.events.sources import GROUP, KafkaSource

_MOST_RECORDS: Final = 20_000
_FETCHED_AHEAD_KIB: Final = 16 * 1024

_SYSLOG_CRITICAL: Final = 2

_AWAY: Final = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE)

log = logging.getLogger(__name__)


class LibrdkafkaSource(KafkaSource):
    """Reads values by librdkafka; identity, bounds and commits are those of ``KafkaSource``."""

    def read(self, partition: int, start: int, stop: int) -> Iterator[Lines]:
        """Yield the values, without what was compacted away or belongs to no committed transaction.

        Raises:
            SourceError: when nothing arrives for ``timeout_s``, or ``start`` is no longer held.
        """
        try:
            self._reader.assign([TopicPartition(self.name, partition, start)])
            position = start
            while position < stop:
                # No more than there are: it would wait for them.
                records, position = self._next(partition, position, min(_MOST_RECORDS, stop - position))
                values = [record.value() or b"" for record in records]
                lines = Lines.of([record.offset() or 0 for record in records], values)
                yield lines[: int(np.searchsorted(lines.offsets, stop))]
        except KafkaException as error:
            raise SourceError(
                f"could not read partition {partition} from offset {start}: topic {self.name}, Kafka at "
                f"{self._servers}: {error}; see whether the broker runs and MARQUEE_KAFKA_SERVERS is right, "
                "then try again"
            ) from error

    @cached_property
    def _reader(self) -> Consumer:
        reader = Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": GROUP,
                "enable.auto.commit": False,
                # An offset that is gone must be an error here, never a silent jump.
                "auto.offset.reset": "error",
                "allow.auto.create.topics": False,
                "isolation.level": "read_committed",
                # Tells where a partition ends, also behind what is no record.
                "enable.partition.eof": True,
                "queued.max.messages.kbytes": _FETCHED_AHEAD_KIB,
                # By default it sleeps for a second when so much lies ready.
                "fetch.queue.backoff.ms": 5,
                # Twenty times a second it would say that it cannot connect; what comes of it is raised here.
                "log_level": _SYSLOG_CRITICAL,
            },
            logger=log,
        )
        self._clients.append(reader)
        return reader

    def _next(self, partition: int, position: int, most: int) -> tuple[list[Message], int]:
        """Return the next records and the position behind them; over a gap the position moves alone."""
        patience_ends = time.monotonic() + self._timeout_s
        while time.monotonic() < patience_ends:
            records = []
            reached = position
            for message in self._reader.consume(most, timeout=min(0.5, self._timeout_s)):
                if (error := message.error()) is None:
                    records.append(message)
                    reached = (message.offset() or 0) + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    reached = message.offset() or 0
                # It goes on trying by itself while brokers are away.
                elif not error.retriable() and error.code() not in _AWAY:
                    raise KafkaException(error)
            if reached > position:
                return records, reached
        raise self._silent(partition, position)
