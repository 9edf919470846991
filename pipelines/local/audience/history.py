"""An archive log: what the first version is trained on, before anybody has asked this service anything."""

import heapq
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import MarqueeError
from pipelines.events.grammar import MAX_USER_ID, Event, Rating, Request, Watch
from pipelines.local.audience import tastes
from pipelines.local.audience.calls import PATIENCE_S
from pipelines.local.audience.faults import with_faults
from pipelines.local.audience.sinks import Sink
from pipelines.local.audience.tastes import Tastes
from pipelines.local.audience.viewers import REQUEST_SHARE

log = logging.getLogger(__name__)
T = TypeVar("T")

SPAN = timedelta(days=2)
_USERS = 610
_CHUNK_LINES = 5_000
_RETRY_S = 1.0

_MOST_MINUTES = 4
"""So many minutes, or fewer, are watched before a movie is rated: some 350,000 lines in all."""
_IS_RATING = -1
_LIST_LENGTH = 20
_MEDIAN_MS, _SPREAD_MS, _FASTEST_MS = 140.0, 0.45, 38.0
_HOST, _PORT = "archive.localhost", 8082


def history(
    path: Path,
    seed: int,
    users: int = _USERS,
    *,
    now: datetime | None = None,
    data_dir: Path = tastes.DATA_DIR,
) -> int:
    """Write the archive log to ``path``, complete or not at all; return its number of lines.

    Args:
        path: replaced if it is there.
        seed: of all randomness; the same seed and ``now`` give the same bytes.
        users: only the ratings of the MovieLens users 1 to this.
        now: the log ends in the minute before; default: the present.
        data_dir: folder of the MovieLens files.

    Raises:
        StackError: the MovieLens files cannot be read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    with scratch.open("w", encoding="utf-8", newline="\n") as file:
        for line in history_lines(tastes.load(data_dir), seed, users, now or datetime.now(UTC)):
            file.write(f"{line}\n")
            count += 1
    scratch.replace(path)
    return count


def play_history(
    sink: Sink,
    seed: int,
    stop: threading.Event,
    *,
    data_dir: Path = tastes.DATA_DIR,
    beat: Callable[[], None] = lambda: None,
) -> int:
    """Write the archive log to ``sink`` if nothing was ever written there; return the number of lines.

    A sink that is away is waited for until ``stop`` is set; ``beat`` is called with each chunk.

    Raises:
        StackError: the MovieLens files cannot be read.
    """
    if not _persistently(sink.is_empty, stop):
        return 0
    lines = history_lines(tastes.load(data_dir), seed, _USERS, datetime.now(UTC))
    count = 0
    while not stop.is_set() and (chunk := list(islice(lines, _CHUNK_LINES))):
        count += _persistently(partial(sink.write, chunk), stop) or 0
        beat()
    log.info("%d lines of archived events are written", count)
    return count


def _persistently(act: Callable[[], T], stop: threading.Event) -> T | None:
    while not stop.is_set():
        try:
            return act()
        except MarqueeError as error:
            log.warning("%s; trying again", error)
            stop.wait(_RETRY_S)
    return None


def history_lines(known: Tastes, seed: int, users: int, now: datetime) -> Iterator[str]:
    """Yield the lines in the order of time: each rating after a few watched minutes, and some requests."""
    rng = np.random.default_rng(seed)
    end_s = int(now.timestamp()) - 1
    viewed = list(_viewings_and_ratings(known, users, rng, end_s))
    asked = _requests(known, users, rng, end_s, int(len(viewed) * REQUEST_SHARE))
    in_order = heapq.merge(viewed, asked, key=lambda event: event.time)
    return with_faults((event.line() for event in in_order), random.Random(seed))


def _viewings_and_ratings(known: Tastes, users: int, rng: np.random.Generator, end_s: int) -> Iterator[Event]:
    rows = np.flatnonzero(known.persons <= users)
    rated_s = _when_rated(known, rows, rng, end_s)
    watched_min = rng.integers(1, _MOST_MINUTES, size=len(rows), endpoint=True)
    first_minute = (rng.random(len(rows)) * (known.lengths_min[known.movies[rows]] - watched_min)).astype(
        np.int64
    )
    # One entry for each watched minute: which viewing, and the how-manieth minute of it.
    viewing = np.repeat(np.arange(len(rows)), watched_min)
    nth = np.arange(len(viewing)) - np.repeat(np.cumsum(watched_min) - watched_min, watched_min)
    times_s = np.concatenate([rated_s[viewing] - 60 * (watched_min[viewing] - nth), rated_s])
    minutes = np.concatenate([first_minute[viewing] + nth, np.full(len(rows), _IS_RATING)])
    entry_rows = np.concatenate([rows[viewing], rows])
    order = np.argsort(times_s, kind="stable")
    for time_s, minute, row in zip(
        times_s[order].tolist(), minutes[order].tolist(), entry_rows[order].tolist(), strict=True
    ):
        time = datetime.fromtimestamp(time_s, UTC)
        user, movie = int(known.persons[row]), known.movie_ids[known.movies[row]]
        if minute == _IS_RATING:
            yield Rating(time, user, movie, int(known.stars[row]))
        else:
            yield Watch(time, user, movie, minute)


def _when_rated(
    known: Tastes, rows: NDArray[np.int64], rng: np.random.Generator, end_s: int
) -> NDArray[np.int64]:
    """Spread each person's ratings evenly over the span, in the order in which MovieLens saw them."""
    persons = known.persons[rows]
    earliest_s = end_s - int(SPAN.total_seconds()) + 60 * _MOST_MINUTES
    drawn_s = rng.integers(earliest_s, end_s, size=len(rows), endpoint=True)
    times_s = np.empty_like(drawn_s)
    times_s[np.lexsort((known.rated_at[rows], persons))] = drawn_s[np.lexsort((drawn_s, persons))]
    return times_s


def _requests(known: Tastes, users: int, rng: np.random.Generator, end_s: int, n: int) -> Iterator[Request]:
    """Yield requests that some earlier service answered with what is popular."""
    times_s = np.sort(rng.uniform(end_s - SPAN.total_seconds(), end_s, size=n))
    took_ms = np.maximum(_FASTEST_MS, rng.lognormal(np.log(_MEDIAN_MS), _SPREAD_MS, size=n))
    askers = np.where(
        rng.random(n) < 0.5, rng.integers(1, users + 1, size=n), rng.integers(1, MAX_USER_ID + 1, size=n)
    )
    for time_s, ms, user in zip(times_s.tolist(), took_ms.tolist(), askers.tolist(), strict=True):
        rows = known.watched_rows(rng, _LIST_LENGTH)
        movies = tuple(dict.fromkeys(known.movie_ids[movie] for movie in known.movies[rows]))
        status = 200 if ms <= PATIENCE_S * 1_000 else 0
        time = datetime.fromtimestamp(round(time_s, 3), UTC)
        yield Request(time, user, _HOST, _PORT, status, movies, "", round(ms))
