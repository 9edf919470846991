"""``kill -9`` at set points of collecting: the next run goes on without gap, duplicate or half a batch."""

import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.data.batches import list_batches, read_kind
from pipelines.data.collect import collect
from pipelines.events.sources import FileSource
from pipelines.settings import PROJECT_DIR

LINES = 35
BATCH_LINES = 10

# Runs collect and dies on the third passing of the point: two batches are through it by then.
PROGRAM = """
import os, signal, sys
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.data import batches
from pipelines.data.collect import collect
from pipelines.events.sources import FileSource


def die_third_time(owner, name, after):
    original, passed = getattr(owner, name), []

    def point(*args, **options):
        passed.append(True)
        if after:
            result = original(*args, **options)
        if len(passed) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return result if after else original(*args, **options)

    setattr(owner, name, point)


where, log, out, batch_lines = sys.argv[1:]
match where:
    case "reading":
        every, kill = FileSource.read, lambda: os.kill(os.getpid(), signal.SIGKILL)
        FileSource.read = lambda *args: (each for each in every(*args) if each[0] != 29 or kill())
    case "writing rows":
        die_third_time(pq.ParquetWriter, "write_table", after=True)
    case "before the rename":
        die_third_time(Path, "replace", after=False)
    case "after the rename":
        die_third_time(Path, "replace", after=True)
    case "before the commit":
        FileSource.commit = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
collect(FileSource(Path(log)), Path(out), batch_lines=int(batch_lines))
"""


def line(number: int) -> str:
    return f"2022-11-14T12:24,{number + 1},GET /rate/heat+1995={1 + number % 5}\n"


@pytest.mark.parametrize(
    ("where", "complete"),
    [
        ("reading", 2),
        ("writing rows", 2),
        ("before the rename", 2),
        ("after the rename", 3),
        ("before the commit", 4),
    ],
)
def test_a_killed_run_leaves_whole_batches_and_the_next_goes_on(
    tmp_path: Path, where: str, complete: int
) -> None:
    log, out = tmp_path / "day.log", tmp_path / "batches"
    log.write_text("".join(map(line, range(LINES))))

    arguments = [sys.executable, "-c", PROGRAM, where, str(log), str(out), str(BATCH_LINES)]
    killed = subprocess.run(arguments, cwd=PROJECT_DIR, check=False, timeout=120)

    assert killed.returncode == -signal.SIGKILL
    left = list_batches(out)
    assert len(left) == complete
    assert [pq.read_table(batch.path).num_rows for batch in left] == [batch.info().lines for batch in left]

    collected = collect(FileSource(log), out, batch_lines=BATCH_LINES)

    assert collected.lines == max(LINES - complete * BATCH_LINES, 0)
    assert read_kind(out, "rating")["user_id"].tolist() == [number + 1 for number in range(LINES)]
    assert list(out.glob(".*.tmp")) == []
