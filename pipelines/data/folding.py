"""Folding: the lines of one batch become its rows.

A viewing is a line a minute, so most lines of a (user, movie) differ only in time and minute; a batch keeps
one row of them. A line that says exactly what another line of the batch said is a duplicate and leaves none.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from pipelines.data.batches import COLUMNS, SCHEMA
from pipelines.events.grammar import Event, Rating, Reject, Request, Watch, parse

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Folded:
    """The rows of a batch and what they were folded from."""

    kinds: list[pa.Table]
    """One table in the schema of batches for each kind, in the order of the file."""
    lines: int
    counts: dict[str, int]
    rejects: dict[str, int]
    duplicates: int
    first_time: datetime | None
    last_time: datetime | None


class Fold:
    """Takes lines one by one and holds them, parsed and packed, until they are folded."""

    def __init__(self) -> None:
        self.lines = 0
        self._movies: dict[str, int] = {}
        self._offsets = array("q")
        self._times: list[datetime] = []
        self._users = array("i")
        self._movie_numbers = array("i")
        self._minutes = array("h")
        # The other 1.4 % are few: a dictionary folds them exactly, keeping the first offset of each.
        self._others: dict[Rating | Request | Reject, int] = {}
        self._other_lines: Counter[str] = Counter()
        self._rejects: Counter[str] = Counter()

    def add(self, offset: int, line: bytes) -> None:
        """Parse one line and keep it; any bytes."""
        self.lines += 1
        event = parse(line)
        if isinstance(event, Watch):
            self._offsets.append(offset)
            self._times.append(event.time)
            self._users.append(event.user_id)
            self._movie_numbers.append(self._movies.setdefault(event.movie_id, len(self._movies)))
            self._minutes.append(event.minute)
            return
        self._others.setdefault(event, offset)
        self._other_lines[_KINDS[type(event)]] += 1
        if isinstance(event, Reject):
            self._rejects[event.reason.value] += 1

    def result(self) -> Folded:
        """Fold what was added."""
        seen, watches = self._watches()
        kinds = [watches, *(self._rows(kind) for kind in COLUMNS if kind != "watch")]
        times = [event.time for event in self._others if not isinstance(event, Reject)]
        if self._times:
            times += [min(self._times), max(self._times)]
        return Folded(
            kinds=kinds,
            lines=self.lines,
            counts={kind: self._other_lines[kind] for kind in COLUMNS} | {"watch": len(self._times)},
            rejects=dict(sorted(self._rejects.items())),
            duplicates=self.lines - seen - len(self._others),
            first_time=min(times, default=None),
            last_time=max(times, default=None),
        )

    def _watches(self) -> tuple[int, pa.Table]:
        """Return how many different watch lines there are, and one row for each (user, movie) of them."""
        lines = pd.DataFrame(
            {
                "offset": np.asarray(self._offsets),
                "time": _microseconds(self._times),
                "user_id": np.asarray(self._users),
                "movie": np.asarray(self._movie_numbers),
                "minute": np.asarray(self._minutes),
            }
        ).drop_duplicates(["time", "user_id", "movie", "minute"])
        rows = lines.groupby(["movie", "user_id"], as_index=False).agg(
            offset=("offset", "min"),
            time=("time", "min"),
            last_time=("time", "max"),
            minutes=("minute", "nunique"),
        )
        rows = rows.sort_values("offset")
        movies = pa.DictionaryArray.from_arrays(
            pa.array(rows.pop("movie"), pa.int32()), pa.array(list(self._movies), pa.string())
        )
        columns: dict[str, Any] = {str(name): rows[name] for name in rows}
        return len(lines), _table("watch", columns | {"movie_id": movies})

    def _rows(self, kind: str) -> pa.Table:
        """Return the different ratings, requests or rejects, in the order of their offsets."""
        events: list[Any] = [event for event in self._others if _KINDS[type(event)] == kind]
        columns: dict[str, Any] = {
            "offset": [self._others[event] for event in events],
            **{name: [getattr(event, name) for event in events] for name in _TAKEN[kind]},
        }
        if kind == "request":
            columns["movie_ids"] = [",".join(event.movie_ids) for event in events]
        if kind != "reject":
            columns["time"] = columns["last_time"] = _microseconds([event.time for event in events])
        return _table(kind, columns)


_TAKEN: Final[dict[str, list[str]]] = {
    "rating": ["user_id", "movie_id", "rating"],
    "request": ["user_id", "status", "response_ms", "error", "host"],
    "reject": ["reason", "line"],
}
"""Columns that are attributes of the events as they are."""

_KINDS: Final[dict[type[Event | Reject], str]] = {
    Watch: "watch",
    Rating: "rating",
    Request: "request",
    Reject: "reject",
}


def _microseconds(times: Sequence[datetime]) -> np.ndarray[Any, np.dtype[np.datetime64]]:
    """Return UTC times as numpy ones; by differences, which is 10 times faster than handing them over."""
    since = np.array([time - _EPOCH for time in times], dtype="timedelta64[us]")
    return since + np.datetime64(0, "us")


def _table(kind: str, columns: dict[str, Any]) -> pa.Table:
    """Complete the columns of one kind to the schema of batches."""
    rows = len(columns["offset"])
    full = columns | {"kind": pa.array([kind] * rows, pa.string()).dictionary_encode()}
    arrays = [
        pa.array(full[field.name], field.type) if field.name in full else pa.nulls(rows, field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
