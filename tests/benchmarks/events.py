"""The stream: parsing and collecting, beside a first attempt at both."""

import csv
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from pipelines.data.collect import collect
from pipelines.events.grammar import parse
from pipelines.events.sources import FileSource
from pipelines.local.audience.history import history
from tests.benchmarks.report import Report

SECTION = "Events"


def run(report: Report) -> None:
    """Read an archive log in both ways."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "history.log"
        history(log, seed=1)
        lines = log.read_bytes().splitlines()
        report.add(
            SECTION,
            "parse lines",
            len(lines) / seconds(lambda: [parse(line) for line in lines]),
            len(lines) / seconds(lambda: [naive(line) for line in lines]),
            unit="lines/s",
            rival_name="split and strptime, which lose one line in sixty",
        )
        report.add(
            SECTION,
            "collect a file into batches",
            len(lines) / seconds(lambda: collect(FileSource(log), folder / "batches")),
            len(lines) / seconds(lambda: to_csv(lines, folder / "naive.csv")),
            unit="lines/s",
            rival_name="the same parser into a CSV",
        )


def seconds(work: Callable[[], object]) -> float:
    """Return how long ``work`` took, wall time."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def naive(line: bytes) -> tuple | None:
    """Parse as a first attempt would: split at commas, one strict time format."""
    try:
        at, user, action, *_ = line.decode().split(",")
        return datetime.strptime(at, "%Y-%m-%dT%H:%M:%S"), int(user), action.split("/")
    except ValueError:
        return None


def to_csv(lines: list[bytes], path: Path) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(row for line in lines if (row := naive(line)))
