"""Many lines at once, held to the answers of the grammar."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.events.grammar import Event, Reject, Watch, parse
from pipelines.events.lines import Lines
from pipelines.events.parsing import Parsed, parse_lines, since_1970_us, time_at

WATCH = b"2022-11-14T12:23:12,596363,GET /data/m/snowpiercer+2013/16.mpg"
RATE = b"2023-09-28T20:20:23,65458,GET /rate/monty+python+and+the+holy+grail+1975=5"
CALL = (
    b"2023-10-25T07:20:57.389,226993,recommendation request fall2023-comp585-4.cs.mcgill.ca:8082, "
    b"status 200, result: the+lord+of+the+rings+the+two+towers+2002, inception+2010, 351 ms"
)
LATE = (
    b"2022-02-09T01:45:32.945123,284507,recommendation request 17645-team17.isri.cmu.edu:8082, status 0, "
    b"result: java.util.concurrent.TimeoutException: Request timeout to "
    b"17645-team17.isri.cmu.edu/128.2.205.118:8082 after 800 ms, 815 ms"
)
REAL = [WATCH, b"2022-11-14T12:24,232596,GET /data/m/fight+club+1999/128.mpg", RATE, CALL, LATE]


def chunks(lines: Sequence[bytes], sizes: Sequence[int]) -> list[Lines]:
    """The lines cut into chunks of these sizes, the rest in one; offsets have gaps."""
    cut, start = [], 0
    for size in [*sizes, len(lines)]:
        part = lines[start : start + size]
        cut.append(Lines.of(range(3 * start, 3 * (start + len(part)), 3), part))
        start += len(part)
    return cut


def events(parsed: Parsed) -> dict[int, Event | Reject]:
    """The events by offset, watched minutes put together again."""
    watched = parsed.watched
    columns = (watched.offset, watched.time, watched.user, watched.movie, watched.minute)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    found: dict[int, Event | Reject] = {
        offset: Watch(time_at(time), user, watched.movie_ids[movie], minute)
        for offset, time, user, movie, minute in rows
    }
    assert list(found) == sorted(found)
    assert [offset for offset, _ in parsed.others] == sorted(offset for offset, _ in parsed.others)
    assert len(set(watched.movie_ids)) == len(watched.movie_ids)
    assert parsed.lines == len(found) + len(parsed.others)
    return found | dict(parsed.others)


def wanted(lines: Sequence[bytes]) -> dict[int, Event | Reject]:
    return {3 * number: parse(line) for number, line in enumerate(lines)}


def one_fault(line: bytes, at: int, what: bytes, cut: int) -> bytes:
    place = at % (len(line) + 1)
    return line[:place] + what + line[place + cut :]


BROKEN = st.builds(
    one_fault,
    st.sampled_from(REAL),
    st.integers(0, 300),
    st.binary(max_size=2)
    | st.sampled_from([b" ", b"X", b"7", b",", b"/", b"\n", b"\r\n", b"%4f", b"\xc3\xa9", b"\0"]),
    st.integers(0, 2),
)
TIMES = st.sampled_from(
    [
        b"2022-11-14T12:23:12",
        b"2022-11-14T12:24",
        b"2022-11-14T12:23:12.123456789",
        b"2022-02-30T12:00",
        b"x",
    ]
)
USERS = st.sampled_from([b"1", b"0", b"0000007", b"1000000", b"1000001", b"9999999", b"12345678", b"", b"-1"])
MOVIES = st.sampled_from(
    [b"heat+1995", b"endeavour+", b"a%20b+2000", b"HEAT+1995", b"heat", b"+", b"*_.-++1999", b""]
)
ENDS = st.sampled_from([b"", b"\n", b"\r\n", b"\r", b"\n\n", b" "])
FIELDS = st.builds(
    lambda time, user, movie, minute, end: (
        b"%s,%s,GET /data/m/%s/%s.mpg%s" % (time, user, movie, minute, end)
    ),
    TIMES,
    USERS,
    MOVIES,
    st.sampled_from([b"0", b"16", b"1063", b"9999", b"10000", b"007", b"", b"1 "]),
    ENDS,
)
RATED = st.builds(
    lambda time, user, movie, stars, end: b"%s,%s,GET /rate/%s=%s%s" % (time, user, movie, stars, end),
    TIMES,
    USERS,
    MOVIES,
    st.sampled_from([b"1", b"5", b"0", b"6", b"45", b"F", b"", b"=4"]),
    ENDS,
)
LINES = st.lists(BROKEN | FIELDS | RATED | st.binary(max_size=40) | st.sampled_from(REAL), max_size=30)


@given(LINES, st.lists(st.integers(0, 5), max_size=4))
@example([WATCH, b"", WATCH], [])
@example([b"2022-11-14T12:23:12,596363,GET /data/m/a%2Cb+2013/16.mpg", WATCH], [1])
def test_every_line_is_what_the_grammar_says_it_is(lines: list[bytes], sizes: list[int]) -> None:
    assert events(parse_lines(chunks(lines, sizes))) == wanted(lines)


@pytest.mark.parametrize("line", [WATCH, RATE], ids=["watch", "rate"])
@pytest.mark.parametrize("user", [b"0", b"1", b"0000001", b"1000000", b"1000001", b"9999999", b"10000000"])
def test_users_are_those_of_the_grammar(line: bytes, user: bytes) -> None:
    time, _, action = line.split(b",", 2)
    lines = [b",".join([time, user, action])]
    assert events(parse_lines(chunks(lines, []))) == wanted(lines)


@given(st.lists(BROKEN, min_size=1, max_size=5))
def test_a_broken_line_does_not_touch_its_neighbours(broken: list[bytes]) -> None:
    lines = [line for each in broken for line in (WATCH, each, RATE)]
    assert events(parse_lines([Lines.of(range(0, 3 * len(lines), 3), lines)])) == wanted(lines)


def test_nothing_is_no_event() -> None:
    assert parse_lines([]).lines == 0
    assert parse_lines([Lines.of([], [])]).lines == 0


@pytest.mark.parametrize("line", REAL)
def test_the_real_lines_are_events(line: bytes) -> None:
    assert not isinstance(events(parse_lines([Lines.of([0], [line])]))[0], Reject)


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)))
def test_times_survive_being_microseconds(time: datetime) -> None:
    assert time_at(since_1970_us(time.replace(tzinfo=UTC))) == time.replace(tzinfo=UTC)
