"""Telemetry over a month of batches: seconds and peak memory beside pandas, for each kind of question.

Each run is a process of its own, so that its memory is its own.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pipelines.data.batches import SCHEMA, Batch, BatchInfo, list_batches, write
from pipelines.events.grammar import MAX_MOVIES, Reason
from pipelines.settings import PROJECT_DIR
from pipelines.telemetry.answering import ask
from pipelines.telemetry.questions import QUESTIONS, Asked, By
from tests.benchmarks.report import Report

SECTION = "Telemetry"
BATCHES, LINES = 120, 500_000
ROWS = {"watch": 150_000, "rating": 2_650, "request": 4_250, "reject": 550}
"""Rows of each kind in a batch; a row for every third line is more than the live stream has."""
LINES_OF_OTHERS = ROWS["rating"] + ROWS["request"] + ROWS["reject"]
USERS, MOVIES = 1_000_000, 27_000
GOING_ON = 0.1
"""Share of the viewings that go on in the next batch."""
LAST_DAYS = timedelta(days=2)

_FIRST = datetime(2026, 3, 1, tzinfo=UTC)
_SPAN = timedelta(days=30) / BATCHES
_STARS = (0.01, 0.03, 0.3, 0.48, 0.18)
_POPULARITY = np.cumsum((np.arange(MOVIES) + 4.0) ** -1.2)
"""Of 27,000 movies the twenty most popular have 38 %, as in the stream."""


def run(report: Report) -> None:
    """Write the month, ask every question of it, and some of pandas as well."""
    with tempfile.TemporaryDirectory() as name:
        month(Path(name))
        for asked, question in QUESTIONS.items():
            for by in question.keys:
                ours = measure(f"{asked}-{by}", name)
                way = f"pandas-{asked}-{by}"
                rival = measure(way, name) if way in WAYS else {}
                _add(report, f"{asked} by {by}", ours, rival)
        last = measure("last-days", name)
        _add(report, f"watched by movie, the last {LAST_DAYS.days} days of the month", last, {})


def _add(report: Report, what: str, ours: Mapping[str, float], rival: Mapping[str, float]) -> None:
    size = f"{BATCHES * LINES / 1e6:.0f} million lines, {BATCHES * sum(ROWS.values()) / 1e6:.0f} million rows"
    name = "pandas: read_parquet of the columns and kind, groupby" if rival else ""
    for figure, unit, of_what in (("seconds", "s", f"{what}; {size}"), ("peak", "MiB", "its peak memory")):
        report.add(
            SECTION, of_what, ours[figure], rival.get(figure), unit=unit, better="less", rival_name=name
        )


def measure(way: str, folder: str) -> dict[str, float]:
    """Ask in a process of its own and return ``seconds`` and ``peak`` (MiB)."""
    command = [sys.executable, "-m", "tests.benchmarks.telemetry", way, folder]
    done = subprocess.run(command, cwd=PROJECT_DIR, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


# --- a month ----------------------------------------------------------------------------------------------


def month(folder: Path) -> None:
    """Write the batches as collecting leaves them: rows in the order of offsets and times."""
    draw = np.random.default_rng(1)
    movie_ids = pa.array([f"a+movie+of+the+catalogue+{row:05}+{1950 + row % 70}" for row in range(MOVIES)])
    going_on = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for number in range(BATCHES):
        begin, first = _FIRST + number * _SPAN, number * LINES
        offsets = np.sort(draw.choice(LINES, sum(ROWS.values()), replace=False)) + first
        owners = draw.permutation(np.repeat(np.arange(len(ROWS)), list(ROWS.values())))
        watch, rating, request, reject = (_dated(offsets[owners == kind], begin, first) for kind in range(4))
        users, movies = draw.integers(1, USERS + 1, ROWS["watch"]), _movies(draw, ROWS["watch"])
        users[: len(going_on[0])], movies[: len(going_on[1])] = going_on
        going_on = tuple(each[-int(GOING_ON * len(each)) :] for each in (users, movies))
        kinds = [
            _table("watch", watch | _viewings(draw) | {"user_id": users, "movie_id": movie_ids.take(movies)}),
            _table("rating", rating | _ratings(draw, movie_ids)),
            _table("request", request | _requests(draw, movie_ids)),
            _table(
                "reject", {"offset": reject["offset"], "reason": draw.choice(list(Reason), ROWS["reject"])}
            ),
        ]
        write(Batch("movielog", 1, 0, first, first + LINES - 1, folder), kinds, _info(begin))


def _dated(offsets: np.ndarray, begin: datetime, first: int) -> dict[str, Any]:
    passed = (offsets - first) * (_SPAN / timedelta(microseconds=1) / LINES)
    times = np.datetime64(begin.replace(tzinfo=None), "us") + passed.astype("timedelta64[us]")
    return {"offset": offsets, "time": times, "last_time": times}


def _viewings(draw: np.random.Generator) -> dict[str, Any]:
    minutes = draw.integers(1, 30, ROWS["watch"])
    seen = pa.array([(2**number - 1).to_bytes((number + 7) // 8, "little") for number in range(30)])
    return {"minutes": minutes, "first_minute": np.zeros_like(minutes), "seen": seen.take(minutes)}


def _ratings(draw: np.random.Generator, movie_ids: pa.Array) -> dict[str, Any]:
    rows = ROWS["rating"]
    return {
        "user_id": draw.integers(1, USERS + 1, rows),
        "movie_id": movie_ids.take(_movies(draw, rows)),
        "rating": draw.choice(5, rows, p=_STARS) + 1,
    }


def _requests(draw: np.random.Generator, movie_ids: pa.Array) -> dict[str, Any]:
    rows = ROWS["request"]
    answered = draw.random(rows) < 0.97
    lists = movie_ids.take(_movies(draw, rows * MAX_MOVIES)).to_numpy(zero_copy_only=False)
    return {
        "user_id": draw.integers(1, USERS + 1, rows),
        "status": np.where(answered, 200, 0),
        "response_ms": np.where(answered, draw.lognormal(5, 0.6, rows), 815).astype(int),
        "movie_ids": [
            ",".join(each) if good else ""
            for each, good in zip(lists.reshape(rows, MAX_MOVIES), answered, strict=True)
        ],
        "error": np.where(answered, "", "java.util.concurrent.TimeoutException"),
    }


def _movies(draw: np.random.Generator, rows: int) -> np.ndarray:
    return np.searchsorted(_POPULARITY, draw.random(rows) * _POPULARITY[-1])


def _table(kind: str, columns: dict[str, Any]) -> pa.Table:
    rows = len(columns["offset"])
    columns |= {"kind": [kind] * rows}
    arrays = [
        pa.array(columns[field.name]).cast(field.type)
        if field.name in columns
        else pa.nulls(rows, field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _info(begin: datetime) -> BatchInfo:
    counts = ROWS | {"watch": LINES - LINES_OF_OTHERS}
    return BatchInfo(LINES, counts, {}, 0, "a month", begin + _SPAN, begin, begin + _SPAN)


# --- the ways -----------------------------------------------------------------------------------------------


def _pandas(folder: Path, kind: str, columns: list[str]) -> pd.DataFrame:
    paths = [batch.path for batch in list_batches(folder)]
    return pd.read_parquet(paths, columns=columns, filters=[("kind", "==", kind)], partitioning=None)


def pandas_watched_by_hour(folder: Path) -> object:
    """Return viewings, minutes and users of each hour."""
    rows = _pandas(folder, "watch", ["time", "user_id", "movie_id", "minutes"])
    rows["hour"] = rows.pop("time").dt.floor("h")
    pairs = rows.groupby(["hour", "user_id", "movie_id"], observed=True)["minutes"].sum().reset_index()
    return pairs.groupby("hour").agg({"movie_id": "count", "minutes": "sum", "user_id": "nunique"})


def pandas_watched_by_movie(folder: Path) -> object:
    """Return viewings and minutes of each movie."""
    rows = _pandas(folder, "watch", ["user_id", "movie_id", "minutes"])
    pairs = rows.groupby(["user_id", "movie_id"], observed=True)["minutes"].sum().reset_index()
    return pairs.groupby("movie_id", observed=True)["minutes"].agg(["count", "sum"]).nlargest(20, "count")


def pandas_ratings_by_movie(folder: Path) -> object:
    """Return count and mean of each movie."""
    rows = _pandas(folder, "rating", ["movie_id", "rating"])
    return rows.groupby("movie_id", observed=True)["rating"].agg(["count", "mean"]).nlargest(20, "count")


def pandas_requests_by_hour(folder: Path) -> object:
    """Return count, median, 95 % and maximum of the response time of each hour."""
    rows = _pandas(folder, "request", ["time", "status", "response_ms"])
    times = rows.groupby(rows["time"].dt.floor("h"))["response_ms"]
    return times.agg(["count", "max"]).join(times.quantile([0.5, 0.95]).unstack())


WAYS: dict[str, Callable[[Path], object]] = {
    **{
        f"{asked}-{by}": lambda folder, asked=asked, by=by: ask(folder, asked, by, top=20)
        for asked, question in QUESTIONS.items()
        for by in question.keys
    },
    "last-days": lambda folder: ask(folder, Asked.WATCHED, By.MOVIE, since=LAST_DAYS, top=20),
    "pandas-watched-hour": pandas_watched_by_hour,
    "pandas-watched-movie": pandas_watched_by_movie,
    "pandas-ratings-movie": pandas_ratings_by_movie,
    "pandas-requests-hour": pandas_requests_by_hour,
}

if __name__ == "__main__":
    start = time.perf_counter()
    WAYS[sys.argv[1]](Path(sys.argv[2]))
    seconds = time.perf_counter() - start
    # `ru_maxrss` would not do: it begins at what the parent had.
    status = Path("/proc/self/status").read_text().splitlines()
    (peak_kib,) = (line.split()[1] for line in status if line.startswith("VmHWM:"))
    print(json.dumps({"seconds": seconds, "peak": int(peak_kib) / 1024}))
