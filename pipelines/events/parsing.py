"""Many lines at once: what ``grammar.parse`` says of each, in a fraction of the time.

Nearly all lines are watched minutes, and many others ratings, of one form. A regular expression cuts them
into fields, all in one call; the grammar then judges each *distinct* time and movie id, of which there are
few. Whatever is not cut that way, or not confirmed, goes through the grammar line by line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.events.grammar import (
    LONGEST_TIME,
    MAX_USER_ID,
    MOVIE_ID,
    Rating,
    Reject,
    Request,
    Watch,
    parse,
    read_time,
)
from pipelines.events.lines import Lines

# For RE2, on bytes. Wider than the grammar in time and movie, which are judged afterwards, and nowhere else.
_BEGIN: Final = r"^(?P<time>[^,]*),(?P<user>[0-9]{1,7}),GET "
_WATCH: Final = _BEGIN + r"/data/m/(?P<movie>[^/]*)/(?P<number>[0-9]{1,4})\.mpg(?:\r?\n)?$"
_RATE: Final = _BEGIN + r"/rate/(?P<movie>[^=]*)=(?P<number>[1-5])(?:\r?\n)?$"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

Integers = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Watched:
    """Watched minutes, a line each; arrays of one length."""

    offset: Integers
    """Ascending."""
    time: Integers
    """UTC, microseconds since 1970."""
    user: Integers
    movie: Integers
    """Place of the movie in ``movie_ids``."""
    minute: Integers
    """0 to 9999."""
    movie_ids: list[str]
    """Each once."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """The events of some lines."""

    watched: Watched
    others: list[tuple[int, Rating | Request | Reject]]
    """Offset and event of every other line, in the order of the offsets."""

    @property
    def lines(self) -> int:
        """How many lines there were."""
        return len(self.watched.offset) + len(self.others)


def parse_lines(chunks: Sequence[Lines]) -> Parsed:
    """Parse all lines of ``chunks``, whose offsets ascend. Never raises."""
    offset = np.concatenate([np.empty(0, np.int64), *(chunk.offsets for chunk in chunks)])
    values = pa.chunked_array([chunk.values for chunk in chunks], pa.binary())
    watched, offset, values = _cut(_WATCH, offset, values)
    rated, offset, values = _cut(_RATE, offset, values)
    slow: list[tuple[int, Watch]] = []
    others: list[tuple[int, Rating | Request | Reject]] = _ratings(rated)
    for number, line in zip(offset.tolist(), values.to_pylist(), strict=True):
        event = parse(line)
        if isinstance(event, Watch):
            slow.append((number, event))
        else:
            others.append((number, event))
    others.sort(key=itemgetter(0))
    return Parsed(_joined(watched, slow) if slow else watched, others)


def _cut(
    pattern: str, offset: Integers, values: pa.ChunkedArray
) -> tuple[Watched, Integers, pa.ChunkedArray]:
    """Cut the lines of one form into columns; also return offsets and values of the lines that are left.

    ``minute`` is what the pattern calls a number.
    """
    cut = pc.extract_regex(values, pattern=pattern).combine_chunks()
    row = np.flatnonzero(cut.is_valid())
    texts = cut.drop_null()
    user, number = _whole_numbers(texts.field("user")), _whole_numbers(texts.field("number"))
    time, is_time = _times(texts.field("time"))
    movie, is_movie, movie_ids = _movies(texts.field("movie"))
    sure = is_time & is_movie & (user >= 1) & (user <= MAX_USER_ID)
    left = np.ones(len(offset), dtype=np.bool_)
    left[row[sure]] = False
    columns = Watched(offset[row][sure], time[sure], user[sure], movie[sure], number[sure], movie_ids)
    return columns, offset[left], values.filter(pa.array(left))


def _ratings(rated: Watched) -> list[tuple[int, Rating | Request | Reject]]:
    columns = (rated.offset, rated.time, rated.user, rated.movie, rated.minute)
    return [
        (offset, Rating(time_at(time), user, rated.movie_ids[movie], stars))
        for offset, time, user, movie, stars in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _joined(fast: Watched, slow: Sequence[tuple[int, Watch]]) -> Watched:
    numbers = {movie_id: number for number, movie_id in enumerate(fast.movie_ids)}
    rows = [
        (offset, since_1970_us(event.time), event.user_id, movie, event.minute)
        for offset, event in slow
        for movie in [numbers.setdefault(event.movie_id, len(numbers))]
    ]
    columns = (fast.offset, fast.time, fast.user, fast.movie, fast.minute)
    offset, time, user, movie, minute = (
        np.concatenate([column, np.array(more, np.int64)])
        for column, more in zip(columns, zip(*rows, strict=True), strict=True)
    )
    order = np.argsort(offset)
    return Watched(offset[order], time[order], user[order], movie[order], minute[order], list(numbers))


def _whole_numbers(digits: pa.BinaryArray) -> Integers:
    numbers: Integers = digits.cast(pa.string()).cast(pa.int64()).to_numpy()
    return numbers


def _times(texts: pa.BinaryArray) -> tuple[Integers, Flags]:
    """Return microseconds since 1970, and which texts are a time."""
    distinct = texts.dictionary_encode()
    # Cut, because read_time remembers what it is asked and garbage can be a megabyte long.
    times = [read_time(text[: LONGEST_TIME + 1]) for text in distinct.dictionary.to_pylist()]
    known = np.array([time is not None for time in times], dtype=np.bool_)
    microseconds = np.array([since_1970_us(time) if time else 0 for time in times], dtype=np.int64)
    which = distinct.indices.to_numpy()
    return microseconds[which], known[which]


def _movies(texts: pa.BinaryArray) -> tuple[Integers, Flags, list[str]]:
    """Return the place of each movie among the ids, which texts are ids, and the ids."""
    distinct = texts.dictionary_encode()
    found = distinct.dictionary.to_pylist()
    is_id = np.array([MOVIE_ID.fullmatch(text) is not None for text in found], dtype=np.bool_)
    place = np.cumsum(is_id) - 1
    which = distinct.indices.to_numpy()
    ids = [text.decode("ascii") for text, good in zip(found, is_id, strict=True) if good]
    return place[which], is_id[which], ids


def since_1970_us(time: datetime) -> int:
    """Return a UTC time as whole microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def time_at(microseconds: int) -> datetime:
    """Return the UTC time that is so many microseconds after 1970 began."""
    return _EPOCH + timedelta(microseconds=microseconds)
