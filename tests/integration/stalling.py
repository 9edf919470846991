"""Collect from Kafka in a process that stands still at a chosen point, so that it can be met there.

    python -c "from tests.integration.stalling import main; main()" SERVERS TOPIC CLIENT OUT PROCESSES POINT

Each process stands still when it passes the point for the second time, a batch being complete by then. It
leaves a file named by its pid in ``OUT.stalled``, and goes on once there is one named ``go``.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.data import collect
from pipelines.events.librdkafka import LibrdkafkaSource
from pipelines.events.lines import Lines
from pipelines.events.sources import KafkaSource

BATCH_LINES = 10

SERVERS, TOPIC, CLIENT, OUT, PROCESSES, POINT = sys.argv[1:]
SIGNS = Path(f"{OUT}.stalled")


def stand_still() -> None:
    (SIGNS / str(os.getpid())).touch()
    while not (SIGNS / "go").exists():
        time.sleep(0.02)


def at_the_second_pass(owner: Any, name: str, *, after: bool) -> None:
    """Stand still before or after the second call of a function."""
    original: Callable[..., Any] = getattr(owner, name)
    passed: list[bool] = []

    def point(*args: Any, **options: Any) -> Any:
        passed.append(True)
        if after:
            result = original(*args, **options)
        if len(passed) == 2:
            stand_still()
        return result if after else original(*args, **options)

    setattr(owner, name, point)


class Stalling:
    """A source that stands still with a batch and a half read, if that is the point."""

    def read(self, partition: int, start: int, stop: int) -> Iterator[Lines]:
        for lines in super().read(partition, start, stop):  # type: ignore[misc]
            yield lines[: BATCH_LINES * 3 // 2]
            if POINT == "reading":
                stand_still()
            yield lines[BATCH_LINES * 3 // 2 :]


class Python(Stalling, KafkaSource): ...


class Confluent(Stalling, LibrdkafkaSource): ...


# Here and not in main: the processes that collect starts import this file for its sources.
match POINT:
    case "writing rows":
        at_the_second_pass(pq.ParquetWriter, "write_table", after=True)
    case "before the rename":
        at_the_second_pass(Path, "replace", after=False)
    case "after the rename":
        at_the_second_pass(Path, "replace", after=True)


def main() -> None:
    collect._WORTH_A_PROCESS = 1
    source = {"python": Python, "confluent": Confluent}[CLIENT](SERVERS, TOPIC)
    collect.collect(source, Path(OUT), batch_lines=BATCH_LINES, processes=int(PROCESSES))
