"""Checking the batches of two days: time and peak memory, also with five times the rows that the stream has.

Each run is a process of its own, so that its memory is its own.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.checks import profile
from pipelines.checks.validate import validate
from pipelines.data.batches import SCHEMA, Batch, BatchInfo, list_batches, write
from pipelines.model.ids import IdTable, id_table
from pipelines.settings import PROJECT_DIR
from tests.benchmarks.report import Report

SECTION = "Checking data"
BATCHES, LINES = 172, 500_000
"""86 million lines, which is two days of the stream."""
USERS, MOVIES = 1_000_000, 27_000
CASES = {"as in the stream": 29_000, "the harder case": 150_000}
"""Viewings in each batch."""
WATCHED, RATED, ASKED, REJECTED = 492_550, 2_650, 4_250, 550
"""Lines of each kind in each batch."""
MIB = 2**20

_BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
_BATCH_S = 1_005
_REASONS = ("bad-movie", "bad-minute", "bad-rating", "bad-time", "bad-user", "unknown-action")
_STARS = (0.008, 0.032, 0.30, 0.48, 0.18)
_POPULARITY = np.cumsum((np.arange(MOVIES) + 4.0) ** -1.2)
"""Of 27,000 movies the twenty most popular have 38 %, as in the stream, and the first 6 %."""


def run(report: Report) -> None:
    """Describe two days as a training does, then check them against that, in either case."""
    for case, viewings in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            two_days(Path(folder), viewings)
            described, checked = (measure(what, folder) for what in ("describe", "check"))
        size = f"{case}, {checked['rows'] / 1e6:.1f} million rows"
        figures = (
            ("validate two days", checked["seconds"], "s", "< 120"),
            ("its peak memory", checked["peak"], "MiB", "< 4,096"),
            ("the profile that a training keeps", described["seconds"], "s", ""),
            ("its peak memory", described["peak"], "MiB", "< 4,096"),
        )
        for what, ours, unit, wanted in figures:
            report.add(SECTION, f"{what}, {size}", ours, unit=unit, better="less", wanted=wanted)


def measure(what: str, folder: str) -> dict[str, float]:
    """Do one thing in a process of its own and return its figures."""
    command = [sys.executable, "-m", "tests.benchmarks.validating", what, folder]
    done = subprocess.run(command, cwd=PROJECT_DIR, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def two_days(folder: Path, viewings: int, batches: int = BATCHES) -> None:
    """Write the batches of two days into ``folder`` as collecting leaves them, each with so many viewings."""
    draw = np.random.default_rng(1)
    movie_ids = pa.array([f"a+movie+of+the+catalogue+{row:05}+{1950 + row % 70}" for row in range(MOVIES)])
    for number in range(batches):
        begin = _BEGIN + timedelta(seconds=number * _BATCH_S)
        batch = Batch("movielog", 1, 0, number * LINES, (number + 1) * LINES - 1, folder)
        kinds = [
            _watches(draw, viewings, begin, movie_ids),
            _ratings(draw, begin, movie_ids),
            _table(
                "request",
                _others(draw, ASKED, begin) | {"status": [200] * ASKED, "response_ms": [90] * ASKED},
            ),
            _table(
                "reject", {"offset": range(REJECTED), "reason": [_REASONS[n % 6] for n in range(REJECTED)]}
            ),
        ]
        write(batch, kinds, _info(begin))


def _watches(draw: np.random.Generator, rows: int, begin: datetime, movie_ids: pa.Array) -> pa.Table:
    minutes = draw.multinomial(WATCHED - rows, np.full(rows, 1 / rows)) + 1
    lengths = (minutes + 7) // 8
    seen = pa.BinaryArray.from_buffers(
        pa.binary(),
        rows,
        [
            None,
            pa.py_buffer(np.append(0, np.cumsum(lengths)).astype(np.int32)),
            pa.py_buffer(np.full(int(lengths.sum()), 255, dtype=np.uint8)),
        ],
    )
    columns = _others(draw, rows, begin)
    return _table(
        "watch",
        columns
        | {
            "last_offset": columns["offset"] + minutes,
            "movie_id": _movies(draw, rows, movie_ids),
            "minutes": minutes,
            "first_minute": draw.integers(0, 90, rows),
            "seen": seen,
        },
    )


def _ratings(draw: np.random.Generator, begin: datetime, movie_ids: pa.Array) -> pa.Table:
    more = {"movie_id": _movies(draw, RATED, movie_ids), "rating": draw.choice(5, RATED, p=_STARS) + 1}
    return _table("rating", _others(draw, RATED, begin) | more)


def _others(draw: np.random.Generator, rows: int, begin: datetime) -> dict[str, np.ndarray]:
    """Return what all events have: offset, times and user."""
    since_us = np.sort(draw.integers(0, _BATCH_S * 1_000_000, rows))
    times = np.datetime64(begin.replace(tzinfo=None), "us") + since_us.astype("timedelta64[us]")
    return {
        "offset": np.arange(rows),
        "time": times,
        "last_time": times,
        "user_id": draw.integers(1, USERS, rows, endpoint=True),
    }


def _movies(draw: np.random.Generator, rows: int, movie_ids: pa.Array) -> pa.DictionaryArray:
    """Draw movies as the stream does; each batch has a dictionary of its own."""
    drawn = np.searchsorted(_POPULARITY, _POPULARITY[-1] * draw.random(rows))
    numbers, codes = np.unique(drawn, return_inverse=True)
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), movie_ids.take(pa.array(numbers)))


def _table(kind: str, columns: dict) -> pa.Table:
    rows = len(columns["offset"])
    full = columns | {"kind": pa.array([kind] * rows, pa.string()).dictionary_encode()}
    arrays = [
        pa.array(full[field.name]).cast(field.type) if field.name in full else pa.nulls(rows, field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _info(begin: datetime) -> BatchInfo:
    end = begin + timedelta(seconds=_BATCH_S - 1)
    counts = {"watch": WATCHED, "rating": RATED, "request": ASKED, "reject": REJECTED}
    whole_hour = begin.replace(minute=0, second=0)
    there = [hour for n in range(2) if (hour := whole_hour + timedelta(hours=n)) <= end]
    return BatchInfo(
        lines=LINES,
        counts=counts,
        rejects=dict.fromkeys(_REASONS, REJECTED // 6),
        duplicates=60,
        identity="benchmark",
        collected_at=end,
        first_time=begin,
        last_time=end,
        hours={
            hour.isoformat()[:13]: {
                kind: lines // len(there) for kind, lines in counts.items() if kind != "reject"
            }
            for hour in there
        },
    )


def describe(folder: Path) -> int:
    """Leave the profile beside the batches; returns how many batches it is of."""
    names = [batch.name for batch in list_batches(folder)]
    (folder / "profile.json").write_text(json.dumps(profile.describe(folder, names).as_json()))
    return len(names)


def check(folder: Path) -> int:
    """Check the batches against their profile and a model that knows half of the users; returns the rows."""
    kept = profile.Profile.of_json(json.loads((folder / "profile.json").read_text()))
    users = IdTable(*id_table(map(str, range(1, USERS // 2))))
    report = validate(
        folder,
        [batch.name for batch in list_batches(folder)],
        PROJECT_DIR / "expectations",
        folder / "report.json",
        now=_BEGIN + timedelta(days=2),
        reference=profile.Reference(
            1, kept, lambda ids: users.rows(ids) >= 0, lambda ids: np.ones(len(ids), dtype=bool)
        ),
    )
    return sum(report.rows[suite] for suite in ("watches", "ratings", "requests"))


def main() -> None:
    """Do what the arguments say, ``describe`` or ``check`` and a folder; print the figures as JSON."""
    what, folder = sys.argv[1:]
    started = time.perf_counter()
    rows = {"describe": describe, "check": check}[what](Path(folder))
    figures = {
        "seconds": time.perf_counter() - started,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rows": rows,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
