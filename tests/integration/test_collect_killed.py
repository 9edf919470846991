"""``kill -9`` before every line of collect: the next run goes on without gap, duplicate or half a batch."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.alerts import Alert
from pipelines.data.batches import Batch, list_batches, read_kind
from pipelines.data.collect import collect
from pipelines.events.sources import FileSource
from pipelines.settings import PROJECT_DIR

LINES = 25
BATCH_LINES = 10
LOST = range(10, 15)

# Forks a collect for each line that the rooms which write execute, and kills it right before that line.
PROGRAM = """
import os, shutil, signal, sys
from itertools import count
from pathlib import Path

from pipelines import durable
from pipelines.data import batches, collect, news, parallel
from tests.integration.test_collect_killed import BATCH_LINES, HeldFrom, tell

ROOMS = {room.__file__ for room in (batches, collect, durable, news, parallel)}


def die_before(line):
    passed = count()

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in ROOMS:
            return None
        if event == "line" and next(passed) == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


log, held_from, before, folder = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
for line in count():
    out = folder / f"{line:04d}"
    shutil.copytree(before, out)
    child = os.fork()
    if child == 0:
        sys.settrace(die_before(line))
        collect.collect(HeldFrom(log, held_from), out, batch_lines=BATCH_LINES, announce=tell(out))
        os._exit(0)
    if (code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) != -signal.SIGKILL:
        shutil.rmtree(out)
        sys.exit(code)
"""


class HeldFrom(FileSource):
    """A log that has let go of its first lines, as a broker does."""

    def __init__(self, path: Path, first: int) -> None:
        super().__init__(path)
        self._first = first

    def bounds(self, partition: int) -> tuple[int, int]:
        return self._first, super().bounds(partition)[1]


def tell(out: Path) -> Callable[[Alert], None]:
    """Announce into a file beside the batches."""

    def announce(alert: Alert) -> None:
        with (out / "alerts").open("a") as alerts:
            alerts.write(f"{alert.title}\n")

    return announce


def line(number: int) -> str:
    return f"2022-11-14T12:24,{number + 1},GET /rate/heat+1995={1 + number % 5}\n"


def killed_before_each_line(log: Path, held_from: int, before: Path, folder: Path) -> list[Path]:
    """The folders that collects left which were killed before their first, second, … last line."""
    arguments = [sys.executable, "-c", PROGRAM, str(log), str(held_from), str(before), str(folder)]
    subprocess.run(arguments, cwd=PROJECT_DIR, check=True, timeout=240)
    left = sorted(folder.iterdir())
    assert len(left) > 100, "every line on the way to a batch was to be a point"
    return left


def ranges(batches: list[Batch]) -> list[tuple[int, int]]:
    return [(batch.first, batch.last) for batch in batches]


def assert_whole(out: Path) -> None:
    """Each batch that is there holds what it says."""
    for batch in list_batches(out):
        assert pq.read_table(batch.path).num_rows == batch.info().lines == batch.last - batch.first + 1


def test_a_run_that_is_killed_before_any_line_leaves_whole_batches_and_the_next_goes_on(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    log, empty, folder = tmp_path / "day.log", tmp_path / "empty", tmp_path / "killed"
    log.write_text("".join(map(line, range(LINES))))
    empty.mkdir()
    left = killed_before_each_line(log, 0, empty, folder)
    record_property("kill points", len(left))
    for out in left:
        assert_whole(out)
        kept = sum(batch.info().lines for batch in list_batches(out))
        assert collect(FileSource(log), out, batch_lines=BATCH_LINES).lines == LINES - kept
        assert ranges(list_batches(out)) == [(0, 9), (10, 19), (20, 24)]
        assert read_kind(out, "rating")["user_id"].tolist() == [number + 1 for number in range(LINES)]
        assert list(out.glob(".*.tmp")) == []


def test_a_gap_is_told_and_kept_on_record_wherever_the_run_that_found_it_was_killed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    log, before, folder = tmp_path / "day.log", tmp_path / "before", tmp_path / "killed"
    log.write_text("".join(map(line, range(LOST.start))))
    collect(FileSource(log), before, batch_lines=BATCH_LINES)
    log.write_text("".join(map(line, range(LINES))))
    left = killed_before_each_line(log, LOST.stop, before, folder)
    record_property("kill points", len(left))
    for out in left:
        assert_whole(out)
        for _ in range(2):
            collect(HeldFrom(log, LOST.stop), out, batch_lines=BATCH_LINES, announce=tell(out))
        assert ranges(list_batches(out)) == [(0, 9), (15, 24)]
        assert [batch.info().lost for batch in list_batches(out)] == [None, (LOST[0], LOST[-1])]
        told = (out / "alerts").read_text().splitlines()
        assert set(told) == {"Marquee: up to 5 line(s) of day lost"}
        assert len(told) <= 2, "once, or once more when it was killed right after"
        assert list(out.glob(".*.tmp")) == []
