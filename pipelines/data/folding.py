"""Folding: the lines of one batch become its rows.

A (user, movie) that was watched leaves one row. A line that says exactly what another line of the batch said
is a duplicate and leaves none.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypedDict

import numpy as np
import pyarrow as pa

from pipelines.data import viewings
from pipelines.data.batches import COLUMNS, LATE_S, SCHEMA
from pipelines.data.viewings import Viewings
from pipelines.events.grammar import Rating, Reject, Request
from pipelines.events.parsing import Integers, Parsed, since_1970_us, time_at

_HOUR_US: Final = 3_600_000_000

_KINDS: Final = {Rating: "rating", Request: "request", Reject: "reject"}

_TAKEN: Final[dict[str, list[str]]] = {
    "rating": ["user_id", "movie_id", "rating"],
    "request": ["user_id", "status", "response_ms", "error", "host"],
    "reject": ["reason", "line"],
}
"""Columns that are attributes of the events as they are."""


class Figures(TypedDict):
    """What ``BatchInfo`` says about the lines of a batch."""

    lines: int
    counts: dict[str, int]
    rejects: dict[str, int]
    duplicates: int
    first_time: datetime | None
    last_time: datetime | None
    hours: dict[str, dict[str, int]]
    late: int
    latest_s: float


@dataclass(frozen=True, slots=True)
class Folded:
    """The rows of a batch and what they were folded from."""

    kinds: list[pa.Table]
    """One table in the schema of batches for each kind, in the order of the file."""
    figures: Figures


def fold(parsed: Parsed) -> Folded:
    """Fold the events of a batch."""
    watched = parsed.watched
    rows = viewings.fold(watched)
    # The other 1.4 % are few: a dictionary folds them exactly, keeping the first offset of each.
    others: dict[Rating | Request | Reject, int] = {}
    for offset, event in parsed.others:
        others.setdefault(event, offset)
    counts = Counter(_KINDS[type(event)] for _, event in parsed.others)
    rejects = Counter(event.reason.value for _, event in parsed.others if isinstance(event, Reject))
    times = {"watch": watched.time} | {kind: _times(parsed, kind) for kind in ("rating", "request")}
    every = np.concatenate(list(times.values()))
    late_us = _late_us(parsed)
    figures = Figures(
        lines=parsed.lines,
        counts={kind: counts[kind] for kind in COLUMNS} | {"watch": len(watched.offset)},
        rejects=dict(sorted(rejects.items())),
        duplicates=rows.duplicates + len(parsed.others) - len(others),
        first_time=time_at(int(every.min())) if len(every) else None,
        last_time=time_at(int(every.max())) if len(every) else None,
        hours=_hours(times),
        late=int(np.count_nonzero(late_us > LATE_S * 1_000_000)),
        latest_s=int(late_us.max(initial=0)) / 1_000_000,
    )
    return Folded([_watches(rows, watched.movie_ids), *(_others(kind, others) for kind in _TAKEN)], figures)


def _times(parsed: Parsed, kind: str) -> Integers:
    """Return the times of ratings or requests, in the order of their offsets."""
    times = [
        since_1970_us(event.time)
        for _, event in parsed.others
        if not isinstance(event, Reject) and _KINDS[type(event)] == kind
    ]
    return np.array(times, dtype=np.int64)


def _late_us(parsed: Parsed) -> Integers:
    """Return of each event, in the order of offsets, how much older it is than the newest one before."""
    timed = [(offset, event) for offset, event in parsed.others if not isinstance(event, Reject)]
    offsets = np.array([offset for offset, _ in timed], dtype=np.int64)
    times = np.array([since_1970_us(event.time) for _, event in timed], dtype=np.int64)
    order = np.argsort(np.concatenate([parsed.watched.offset, offsets]), kind="stable")
    in_order = np.concatenate([parsed.watched.time, times])[order]
    late_us: Integers = np.maximum.accumulate(in_order) - in_order
    return late_us


def _hours(times: Mapping[str, Integers]) -> dict[str, dict[str, int]]:
    """Count the lines of each kind in each hour that has any."""
    counted: dict[int, dict[str, int]] = {}
    for kind, microseconds in times.items():
        hours, lines = np.unique(microseconds // _HOUR_US, return_counts=True)
        for hour, count in zip(hours.tolist(), lines.tolist(), strict=True):
            counted.setdefault(hour, {})[kind] = count
    return {time_at(hour * _HOUR_US).isoformat()[:13]: counted[hour] for hour in sorted(counted)}


def _watches(rows: Viewings, movie_ids: list[str]) -> pa.Table:
    movies = pa.DictionaryArray.from_arrays(
        pa.array(rows.movie, pa.int32()), pa.array(movie_ids, pa.string())
    )
    columns = {
        name: getattr(rows, name)
        for name in ("offset", "last_offset", "time", "last_time", "minutes", "first_minute", "seen")
    }
    return _table("watch", columns | {"user_id": rows.user, "movie_id": movies})


def _others(kind: str, offsets: Mapping[Rating | Request | Reject, int]) -> pa.Table:
    """Return the different ratings, requests or rejects, in the order of their offsets."""
    events: list[Any] = [event for event in offsets if _KINDS[type(event)] == kind]
    columns: dict[str, Any] = {
        "offset": [offsets[event] for event in events],
        **{name: [getattr(event, name) for event in events] for name in _TAKEN[kind]},
    }
    if kind == "request":
        columns["movie_ids"] = [",".join(event.movie_ids) for event in events]
    if kind != "reject":
        columns["time"] = columns["last_time"] = [since_1970_us(event.time) for event in events]
    return _table(kind, columns)


def _table(kind: str, columns: Mapping[str, Any]) -> pa.Table:
    """Complete the columns of one kind to the schema of batches."""
    rows = len(columns["offset"])
    full = {**columns, "kind": pa.array([kind] * rows, pa.string()).dictionary_encode()}
    arrays = [
        pa.array(full[field.name], field.type) if field.name in full else pa.nulls(rows, field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
