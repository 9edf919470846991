"""Quarantine: ranges of offsets that nothing is trained on, each with who took it out and why.

``quarantine.json`` lies beside the batches, which stay as they are: what is taken back is simply read again.
An entry that was lifted stays in the file, with who lifted it, when and why.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.durable import sync
from pipelines.errors import DataError, Locked

FILE: Final = "quarantine.json"

COLUMNS: Final = ("kind", "offset", "last_offset")
"""What :func:`keeps` looks at."""

_LOCK_TIMEOUT_S: Final = 30.0
_LIFTED: Final = "lifted"
_DECISION: Final = ("why", "who", "at")


class Offsets(Protocol):
    """Offsets of one partition without a hole, such as a batch."""

    @property
    def topic(self) -> str:
        """Name of the stream."""

    @property
    def generation(self) -> int:
        """Which stream of this name, from 1."""

    @property
    def partition(self) -> int:
        """Number of the partition."""

    @property
    def first(self) -> int:
        """First offset."""

    @property
    def last(self) -> int:
        """Last offset, inclusive."""


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets as somebody names them; ``last`` is inclusive."""

    topic: str
    generation: int
    partition: int
    first: int
    last: int


@dataclass(frozen=True)
class Quarantined:
    """A range that somebody took out, or back; ``last`` is inclusive."""

    topic: str
    generation: int
    partition: int
    first: int
    last: int
    why: str
    who: str
    at: datetime
    """With a zone."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields for JSON: the time as ISO text."""
        return asdict(self) | {"at": self.at.isoformat()}

    @classmethod
    def of_json(cls, kept: dict[str, Any]) -> "Quarantined":
        """Read back what :meth:`as_json` gave."""
        return cls(**{**kept, "at": datetime.fromisoformat(kept["at"])})


def read(folder: Path) -> list[Quarantined]:
    """Return what is out among the batches of ``folder``, in the order in which it was taken out.

    Raises:
        DataError: the file is not what was written.
    """
    return [entry for entry, lifted in history(folder) if lifted is None]


def history(folder: Path) -> list[tuple[Quarantined, Quarantined | None]]:
    """Return everything that was ever out; the second of a pair says who took it back (None: it is out).

    Raises:
        DataError: the file is not what was written.
    """
    path = folder / FILE
    try:
        return [_entry(kept) for kept in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path} is not a readable quarantine: {error!r}; put it back from a backup or mend it: without "
            "it nobody knows which events are to be left out"
        ) from error


def add(folder: Path, entry: Quarantined) -> bool:
    """Take a range out; False, and nothing changes, when just this range is out already.

    Raises:
        Locked: somebody else has been writing for long.
        DataError: the file is damaged, or the disk does not take it.
    """
    with _only_writer(folder):
        entries = history(folder)
        if any(lifted is None and _key(known) == _key(entry) for known, lifted in entries):
            return False
        _write(folder, [*entries, (entry, None)])
    return True


def lift(folder: Path, lifting: Quarantined) -> Quarantined:
    """Take back the range that ``lifting`` names, for its reason; return the entry that was in force.

    Raises:
        Locked: somebody else has been writing for long.
        DataError: just this range is not out, the file is damaged, or the disk does not take it.
    """
    with _only_writer(folder):
        entries = history(folder)
        for place, (entry, lifted) in enumerate(entries):
            if lifted is None and _key(entry) == _key(lifting):
                entries[place] = entry, lifting
                _write(folder, entries)
                return entry
    out = "; ".join(in_words(entry) for entry, lifted in entries if lifted is None)
    raise DataError(
        f"{in_words(lifting)} is not in quarantine; in quarantine is: {out or 'nothing'}. An entry is taken "
        "back as a whole: name its range as it stands there"
    )


def write(folder: Path, entries: Iterable[Quarantined]) -> None:
    """Make ``entries`` all that is out among the batches of ``folder``, and was ever out.

    Raises:
        DataError: the disk does not take it.
    """
    _write(folder, [(entry, None) for entry in entries])


def of(batch: Offsets, entries: Iterable[Offsets]) -> list[tuple[int, int]]:
    """Return the offsets of ``batch`` that are out: ascending ranges (first, last) with gaps between."""
    cut = sorted(
        (max(entry.first, batch.first), min(entry.last, batch.last))
        for entry in entries
        if overlaps(entry, batch)
    )
    merged: list[tuple[int, int]] = []
    for first, last in cut:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return merged


def wholly(batch: Offsets, entries: Iterable[Offsets]) -> bool:
    """Whether nothing of ``batch`` is left."""
    return of(batch, entries) == [(batch.first, batch.last)]


def keeps(table: pa.Table, ranges: Sequence[tuple[int, int]], end: int) -> pa.BooleanArray:
    """Return for each row of a batch whether it stays: none of its lines, first to last, is in a range.

    Args:
        table: rows with ``COLUMNS``. A viewing that older code wrote does not know its last line.
        ranges: as :func:`of` returns them.
        end: last offset of the batch; a viewing that does not know better may reach to it.
    """
    first = table["offset"].to_numpy()
    otherwise = pc.if_else(pc.equal(table["kind"].cast(pa.string()), "watch"), end, table["offset"])
    last = pc.coalesce(table["last_offset"], otherwise).to_numpy()
    # Of the ranges that begin at or before a row's end, the last one reaches furthest; one lies before all.
    firsts, lasts = np.array([(-1, -1), *ranges]).T
    return pa.array(lasts[np.searchsorted(firsts, last, side="right") - 1] < first)


def overlaps(one: Offsets, other: Offsets) -> bool:
    """Whether two spans have an offset in common."""
    return _partition(one) == _partition(other) and one.first <= other.last and other.first <= one.last


def in_words(span: Offsets) -> str:
    """Name a span for people."""
    again = f", generation {span.generation}" if span.generation > 1 else ""
    return f"{span.topic}, partition {span.partition}, offsets {span.first:,} to {span.last:,}{again}"


def _partition(span: Offsets) -> tuple[str, int, int]:
    return span.topic, span.generation, span.partition


def _key(span: Offsets) -> tuple[str, int, int, int, int]:
    return (*_partition(span), span.first, span.last)


def _entry(kept: dict[str, Any]) -> tuple[Quarantined, Quarantined | None]:
    taken_back = kept.pop(_LIFTED)
    entry = Quarantined.of_json(kept)
    numbers = entry.generation, entry.partition, entry.first, entry.last
    if not all(isinstance(number, int) for number in numbers) or not 0 <= entry.first <= entry.last:
        raise ValueError(f"{kept} names no range")
    return entry, None if taken_back is None else Quarantined.of_json(kept | taken_back)


def _write(folder: Path, entries: Iterable[tuple[Quarantined, Quarantined | None]]) -> None:
    """Replace the file so that it is there completely or not at all, whatever dies when."""
    kept = [entry.as_json() | {_LIFTED: lifted and _decision(lifted)} for entry, lifted in entries]
    path = folder / FILE
    temporary = folder / f".{FILE}.tmp"
    try:
        temporary.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        sync(temporary)
        temporary.replace(path)
        sync(folder)
    except OSError as error:
        raise DataError(
            f"could not write {path}: {error}; make room or mend the permissions, then try again"
        ) from error


def _decision(lifting: Quarantined) -> dict[str, str]:
    return {name: value for name, value in lifting.as_json().items() if name in _DECISION}


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    lock = filelock.FileLock(folder / ".quarantine.lock", timeout=_LOCK_TIMEOUT_S)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise Locked(
            f"somebody has been writing {folder / FILE} for {_LOCK_TIMEOUT_S:g} s; wait, then try again"
        ) from error
    except OSError as error:
        raise DataError(
            f"could not write to {folder}: {error}; mend the path or its permissions, then try again"
        ) from error
    try:
        yield
    finally:
        lock.release()
