"""The event grammar: one line of the stream is a Watch, a Rating, a Request or a Reject with its reason.

    watch   = time "," user ",GET /data/m/" movie "/" minute ".mpg"
    rate    = time "," user ",GET /rate/" movie "=" rating
    recreq  = time "," user ",recommendation request " host ":" port
              ", status " code ", result: " body ", " ms " ms"
    time    = YYYY-MM-DD "T" hh ":" mm [ ":" ss [ "." 1*9DIGIT ] ]     UTC, seconds missing when they are 00
    user    = 1*7DIGIT                                                 1 .. 1,000,000
    movie   = slug "+" [ YYYY ]                                        slug: 1*255 of a-z 0-9 + . _ * - %XX
    minute  = 1*4DIGIT                                                 0-based, 1063 is real
    rating  = "1" .. "5"
    code    = "0" / "100" .. "599"
    body    = id *( ("," / ", ") id )                                  up to 20 ids, best first
            / error text                                               unless the code is 200

``parse`` never raises. Every event has ``line()``, which writes it back in this grammar. This is what counts:
``parsing.py`` reads many lines at once and is held to the same answers.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final

MAX_USER_ID: Final = 1_000_000
MAX_MOVIES: Final = 20


class Reason(StrEnum):
    """Why a line is not an event: the first field, from the left, that is wrong."""

    EMPTY = "empty"
    NOT_UTF8 = "not-utf8"
    BAD_TIME = "bad-time"
    BAD_USER = "bad-user"
    UNKNOWN_ACTION = "unknown-action"
    BAD_MOVIE = "bad-movie"
    BAD_MINUTE = "bad-minute"
    BAD_RATING = "bad-rating"
    BAD_REQUEST = "bad-request"
    """Host, port, status or response time of a recommendation request."""
    BAD_RESULT = "bad-result"
    """A recommendation request answered with 200, but not with 1 to 20 movie ids; or with nothing at all."""


@dataclass(frozen=True, slots=True)
class Watch:
    """One watched minute (0-based) of a movie; ``time`` is UTC."""

    time: datetime
    user_id: int
    movie_id: str
    minute: int

    def line(self) -> str:
        """Write the event as the stream carries it, without a line end."""
        return f"{_written(self.time)},{self.user_id},GET /data/m/{self.movie_id}/{self.minute}.mpg"


@dataclass(frozen=True, slots=True)
class Rating:
    """A rating of 1 to 5 stars; ``time`` is UTC."""

    time: datetime
    user_id: int
    movie_id: str
    rating: int

    def line(self) -> str:
        """Write the event as the stream carries it, without a line end."""
        return f"{_written(self.time)},{self.user_id},GET /rate/{self.movie_id}={self.rating}"


@dataclass(frozen=True, slots=True)
class Request:
    """One recommendation call as the caller saw it; ``time`` is UTC.

    ``status`` is 0 when the caller gave up. ``movie_ids`` are best first, also those of an answer that came
    too late; ``error`` holds what was said instead. Exactly one of the two is empty.
    """

    time: datetime
    user_id: int
    host: str
    port: int
    status: int
    movie_ids: tuple[str, ...]
    error: str
    response_ms: int

    def line(self) -> str:
        """Write the event as the stream carries it, without a line end."""
        return (
            f"{_written(self.time)},{self.user_id},recommendation request {self.host}:{self.port}, "
            f"status {self.status}, result: {', '.join(self.movie_ids) or self.error}, {self.response_ms} ms"
        )


@dataclass(frozen=True, slots=True)
class Reject:
    """A line that is no event: why, and the bytes as they arrived, without a line end."""

    reason: Reason
    line: bytes


Event = Watch | Rating | Request

_ID = rb"[a-z0-9+._*-]{1,255}\+(?:[0-9]{4})?"
# What most lines are, in one match; everything else is read field by field.
_PLAIN_WATCH = re.compile(
    rb"([^,]{16,29}),([0-9]{1,7}),GET /data/m/(" + _ID + rb")/([0-9]{1,4})\.mpg(?:\r?\n)?"
)
_TIME = re.compile(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?"
)
LONGEST_TIME: Final = len("2022-11-14T12:23:12.123456789")
_USER = re.compile(rb"[0-9]{1,7}")
# Bounded, so that no single line brings an id that a model cannot store (``MAX_ID_BYTES``).
MOVIE_ID: Final = re.compile(rb"(?:[a-z0-9+._*-]|%[0-9A-Fa-f]{2}){1,255}\+(?:[0-9]{4})?")
_MINUTE = re.compile(rb"([0-9]{1,4})\.mpg")
_RATING = re.compile(rb"[1-5]")
# The body is greedy, so the response time is the last ", N ms"; nine digits are eleven days and fit an int32.
_CALL = re.compile(
    rb"([A-Za-z0-9._-]+):([0-9]{1,5}), status (0|[1-5][0-9]{2}), result: (.*), ([0-9]{1,9}) ms"
)

_WATCH_ACTION = b"GET /data/m/"
_RATE_ACTION = b"GET /rate/"
_CALL_ACTION = b"recommendation request "


def parse(line: bytes) -> Event | Reject:
    r"""Read one line, of any bytes; one trailing ``\n`` or ``\r\n`` is accepted. Never raises."""
    match = _PLAIN_WATCH.fullmatch(line)
    if match is not None:
        raw_time, raw_user, movie, minute = match.groups()
        time = read_time(raw_time)
        user = int(raw_user)
        if time is not None and 1 <= user <= MAX_USER_ID:
            return Watch(time, user, movie.decode("ascii"), int(minute))
    return _parse_by_field(line.removesuffix(b"\n").removesuffix(b"\r") if line.endswith(b"\n") else line)


def _parse_by_field(line: bytes) -> Event | Reject:
    raw_time, _, rest = line.partition(b",")
    raw_user, _, action = rest.partition(b",")
    event: Event | Reason
    if not line:
        event = Reason.EMPTY
    elif not _is_utf8(line):
        event = Reason.NOT_UTF8
    # Cut, because read_time remembers what it is asked and garbage can be a megabyte long.
    elif (time := read_time(raw_time[: LONGEST_TIME + 1])) is None:
        event = Reason.BAD_TIME
    elif (user := _user(raw_user)) is None:
        event = Reason.BAD_USER
    elif action.startswith(_WATCH_ACTION):
        event = _watch(time, user, action.removeprefix(_WATCH_ACTION))
    elif action.startswith(_RATE_ACTION):
        event = _rate(time, user, action.removeprefix(_RATE_ACTION))
    elif action.startswith(_CALL_ACTION):
        event = _call(time, user, action.removeprefix(_CALL_ACTION))
    else:
        event = Reason.UNKNOWN_ACTION
    return Reject(event, line) if isinstance(event, Reason) else event


def _watch(time: datetime, user: int, rest: bytes) -> Watch | Reason:
    movie, _, file = rest.partition(b"/")
    minute = _MINUTE.fullmatch(file)
    if not MOVIE_ID.fullmatch(movie):
        return Reason.BAD_MOVIE
    if minute is None:
        return Reason.BAD_MINUTE
    return Watch(time, user, movie.decode("ascii"), int(minute[1]))


def _rate(time: datetime, user: int, rest: bytes) -> Rating | Reason:
    movie, _, rating = rest.partition(b"=")
    if not MOVIE_ID.fullmatch(movie):
        return Reason.BAD_MOVIE
    if not _RATING.fullmatch(rating):
        return Reason.BAD_RATING
    return Rating(time, user, movie.decode("ascii"), int(rating))


def _call(time: datetime, user: int, rest: bytes) -> Request | Reason:
    match = _CALL.fullmatch(rest)
    if match is None:
        return Reason.BAD_REQUEST
    host, port, status, body, response_ms = match.groups()
    movies = _movies(body)
    if int(port) > 65_535:
        return Reason.BAD_REQUEST
    if not body or (status == b"200" and not movies):
        return Reason.BAD_RESULT
    error = "" if movies else body.decode("utf-8")
    return Request(time, user, host.decode("ascii"), int(port), int(status), movies, error, int(response_ms))


def _movies(body: bytes) -> tuple[str, ...]:
    """Return the ids of a body, best first; nothing unless every part is an id and there are 1 to 20."""
    first, *others = body.split(b",", MAX_MOVIES)
    ids = [first, *(part.removeprefix(b" ") for part in others)]
    if len(ids) > MAX_MOVIES or not all(map(MOVIE_ID.fullmatch, ids)):
        return ()
    return tuple(movie.decode("ascii") for movie in ids)


# Lines arrive in the order of time, some 495 to the second: most times have just been read.
@lru_cache(maxsize=4096)
def read_time(raw: bytes) -> datetime | None:
    """Return the UTC time, cut to microseconds; None for what is no time or not in the calendar."""
    if not _TIME.fullmatch(raw):
        return None
    try:
        return datetime.fromisoformat(raw.decode("ascii")).replace(tzinfo=UTC)
    except ValueError:
        return None


def _user(raw: bytes) -> int | None:
    if not _USER.fullmatch(raw):
        return None
    user = int(raw)
    return user if 1 <= user <= MAX_USER_ID else None


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _written(time: datetime) -> str:
    """Write a UTC time as the stream does: no seconds when they are 00, else 0, 3 or 6 digits of fraction."""
    if time.second == 0 and time.microsecond == 0:
        unit = "minutes"
    elif time.microsecond == 0:
        unit = "seconds"
    else:
        unit = "milliseconds" if time.microsecond % 1000 == 0 else "microseconds"
    return time.replace(tzinfo=None).isoformat(timespec=unit)
