"""Viewings: the minutes of a movie that a user watched, as bits; whole again where a batch cut them in two.

A viewing is a line a minute, so most lines of a (user, movie) differ only in time and minute. A batch keeps
one row of them with the minutes that were seen. The rows of one (user, movie) in several batches become one
when they are read, and a minute that two of them saw counts once.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.events.parsing import Flags, Integers, Watched

_MINUTE_BITS: Final = 14
"""A minute has up to four digits, which is below 2^14."""
_MINUTE: Final = (1 << _MINUTE_BITS) - 1


@dataclass(frozen=True, slots=True)
class Viewings:
    """One row for each (user, movie), in the order of their first lines; columns as in a batch."""

    offset: Integers
    last_offset: Integers
    time: Integers
    last_time: Integers
    user: Integers
    movie: Integers
    minutes: Integers
    first_minute: Integers
    seen: pa.BinaryArray
    duplicates: int
    """Lines that say exactly what another line says."""


def fold(lines: Watched) -> Viewings:
    """Fold watched minutes into one row for each (user, movie)."""
    movies = int(lines.movie.max(initial=0)) + 1
    # One number holds all three (20, up to 29 and 14 bits): sorting it is the whole of the grouping.
    key = ((lines.user * movies + lines.movie) << _MINUTE_BITS) | lines.minute
    order = np.argsort(key)
    key, offset, time = key[order], lines.offset[order], lines.time[order]
    is_new = _begins(key)
    starts = np.flatnonzero(_begins(key >> _MINUTE_BITS))
    first_offset = _reduced(np.minimum, offset, starts)
    by_offset = np.argsort(first_offset)
    viewing = key[starts] >> _MINUTE_BITS
    first_minute, minutes, seen = _bits(key[is_new])
    return Viewings(
        offset=first_offset[by_offset],
        last_offset=_reduced(np.maximum, offset, starts)[by_offset],
        time=_reduced(np.minimum, time, starts)[by_offset],
        last_time=_reduced(np.maximum, time, starts)[by_offset],
        user=(viewing // movies)[by_offset],
        movie=(viewing % movies)[by_offset],
        minutes=minutes[by_offset],
        first_minute=first_minute[by_offset],
        seen=seen.take(pa.array(by_offset)),
        duplicates=_duplicates(key, time, is_new),
    )


def merge(rows: pa.Table) -> pa.Table:
    """Make one row of all rows of a (user, movie).

    Args:
        rows: columns ``last_time``, ``user_id``, ``movie_id`` (a dictionary), ``minutes``, ``first_minute``
            and ``seen`` of batches; the last two are null where only the number of minutes is known, and
            then the numbers add up.

    Returns:
        Columns ``user_id``, ``movie_id``, ``minutes`` and ``time``, the newest; ordered by user and movie.
    """
    table = rows.combine_chunks()
    user = _numbers(table["user_id"])
    movie_ids = table["movie_id"].combine_chunks()
    movie = np.asarray(movie_ids.indices, dtype=np.int64)
    movies = len(movie_ids.dictionary) + 1
    key = ((user * movies + movie) << _MINUTE_BITS) | _numbers(pc.fill_null(table["first_minute"], 0))
    order = np.argsort(key)
    viewing = key[order] >> _MINUTE_BITS
    starts = np.flatnonzero(_begins(viewing))
    minutes = _reduced(np.add, _numbers(table["minutes"])[order], starts)
    again = np.flatnonzero(_overlapping(table, key, order, starts))
    if len(again):
        members = order[np.isin(np.cumsum(_begins(viewing)) - 1, again)]
        minutes[again] = _distinct(table.take(pa.array(members)), key[members])
    viewing = viewing[starts]
    return pa.table(
        {
            "user_id": pa.array(viewing // movies, pa.int32()),
            "movie_id": pa.DictionaryArray.from_arrays(
                pa.array(viewing % movies, pa.int32()), movie_ids.dictionary
            ),
            "minutes": minutes,
            "time": pc.cast(
                pa.array(_reduced(np.maximum, _numbers(table["last_time"])[order], starts)),
                rows.schema.field("last_time").type,
            ),
        }
    )


def _overlapping(table: pa.Table, key: Integers, order: Integers, starts: Integers) -> Flags:
    """Tell for each (user, movie) whether two of its rows may have seen the same minute.

    ``order`` sorts the rows by (user, movie) and first minute, ``starts`` is where a (user, movie) begins.
    """
    # The last byte may end before its last bit: too many are looked at closely, never too few.
    bits = 8 * _numbers(pc.fill_null(pc.binary_length(table["seen"]), 0))[order]
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
    first = (group << _MINUTE_BITS + 1) + (key[order] & _MINUTE)
    reached = np.maximum.accumulate(first + bits)
    overlaps = np.append(False, first[1:] < reached[:-1])[: len(first)]
    flags = np.zeros(len(starts), dtype=np.bool_)
    flags[group[overlaps]] = True
    return flags


def _distinct(rows: pa.Table, key: Integers) -> Integers:
    """Count the different minutes of each (user, movie) of ``rows``, which lie in the order of their keys."""
    seen = rows["seen"].combine_chunks()
    lengths = _numbers(pc.fill_null(pc.binary_length(seen), 0))
    data = np.frombuffer(b"".join(seen.drop_null().to_pylist()), dtype=np.uint8)
    bit = np.flatnonzero(np.unpackbits(data, bitorder="little"))
    ends = np.cumsum(8 * lengths)
    row = np.searchsorted(ends, bit, side="right")
    minutes = np.unique(key[row] + bit - (ends - 8 * lengths)[row]) >> _MINUTE_BITS
    viewing = key >> _MINUTE_BITS
    groups = viewing[_begins(viewing)]
    unknown = np.bincount(
        np.searchsorted(groups, viewing), np.where(lengths == 0, _numbers(rows["minutes"]), 0), len(groups)
    )
    counted = np.bincount(np.searchsorted(groups, minutes), minlength=len(groups))
    return (counted + unknown).astype(np.int64)


def _bits(key: Integers) -> tuple[Integers, Integers, pa.BinaryArray]:
    """Return first minute, number of minutes and the bits of each viewing; ``key`` ascends, each one once."""
    starts = np.flatnonzero(_begins(key >> _MINUTE_BITS))
    counts = np.diff(starts, append=len(key))
    minute = key & _MINUTE
    first = minute[starts]
    lengths = (minute[starts + counts - 1] - first) // 8 + 1
    ends = np.cumsum(lengths)
    bit = minute - np.repeat(first, counts)
    byte = np.repeat(ends - lengths, counts) + bit // 8
    # Every bit is there once, so that adding them is setting them.
    data = np.bincount(byte, 1 << (bit % 8), int(lengths.sum())).astype(np.uint8)
    offsets = np.append(0, ends).astype(np.int32)
    seen = pa.BinaryArray.from_buffers(
        pa.binary(), len(starts), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    return first, counts, seen


def _duplicates(key: Integers, time: Integers, is_new: Flags) -> int:
    """Count the lines of one viewing, minute and time but the first; ``key`` ascends."""
    repeated = ~is_new
    suspects = np.flatnonzero(repeated | np.append(repeated[1:], False))
    order = np.lexsort((time[suspects], key[suspects]))
    key, time = key[suspects][order], time[suspects][order]
    return int(np.count_nonzero((key[1:] == key[:-1]) & (time[1:] == time[:-1])))


def _begins(ascending: Integers) -> Flags:
    """Tell of each value whether it is another one than the value before."""
    return np.append(True, ascending[1:] != ascending[:-1])[: len(ascending)]


def _reduced(how: np.ufunc, values: Integers, starts: Integers) -> Integers:
    return how.reduceat(values, starts) if len(starts) else values


def _numbers(column: pa.ChunkedArray | pa.Array) -> Integers:
    """Return a column without nulls as 64-bit integers; times as microseconds."""
    numbers: Integers = column.cast(pa.int64()).to_numpy()
    return numbers
