"""Every trap of the event grammar, with the real lines that set it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.events.grammar import (
    MAX_MOVIES,
    MAX_USER_ID,
    Event,
    Rating,
    Reason,
    Reject,
    Request,
    Watch,
    parse,
)
from pipelines.model.ids import MAX_ID_BYTES

WATCH = b"2022-11-14T12:23:12,596363,GET /data/m/snowpiercer+2013/16.mpg"
RATE = b"2023-09-28T20:20:23,65458,GET /rate/monty+python+and+the+holy+grail+1975=5"
ANSWERED = (
    b"2023-10-25T07:20:57.389,226993,recommendation request fall2023-comp585-4.cs.mcgill.ca:8082, "
    b"status 200, result: the+lord+of+the+rings+the+two+towers+2002, inception+2010, 351 ms"
)
TIMED_OUT = (
    b"2022-02-09T01:45:32.945123,284507,recommendation request 17645-team17.isri.cmu.edu:8082, status 0, "
    b"result: java.util.concurrent.TimeoutException: Request timeout to "
    b"17645-team17.isri.cmu.edu/128.2.205.118:8082 after 800 ms, 815 ms"
)
CAME_TOO_LATE = (
    b"2022-10-29T21:54:35.854,231202,recommendation request fall2022-comp585-4.cs.mcgill.ca:8082, status 0, "
    b"result: glory+1989,pulp+fiction+1994,this+is+it+2009, 819 ms"
)


def watch_of(movie: str) -> Event | Reject:
    return parse(f"2022-11-14T12:23:12,596363,GET /data/m/{movie}/16.mpg".encode())


def watch_at(time: str) -> Event | Reject:
    return parse(f"{time},596363,GET /data/m/snowpiercer+2013/16.mpg".encode())


def rating_of(rating: str) -> Event | Reject:
    return parse(f"2023-09-28T20:20:23,65458,GET /rate/inception+2010={rating}".encode())


def call(
    status: int | str, result: str, ms: str = "351 ms", host: str = "team-4.mcgill.ca:8082"
) -> Event | Reject:
    return parse(
        f"2023-10-25T07:20:57.389,226993,recommendation request {host}, status {status}, "
        f"result: {result}, {ms}".encode()
    )


def reason(event: Event | Reject) -> Reason:
    assert isinstance(event, Reject), event
    return event.reason


class TestRealLines:
    def test_a_watched_minute(self) -> None:
        time = datetime(2022, 11, 14, 12, 23, 12, tzinfo=UTC)
        assert parse(WATCH) == Watch(time, 596363, "snowpiercer+2013", 16)

    def test_a_rating(self) -> None:
        time = datetime(2023, 9, 28, 20, 20, 23, tzinfo=UTC)
        assert parse(RATE) == Rating(time, 65458, "monty+python+and+the+holy+grail+1975", 5)

    def test_an_answered_request_keeps_its_list_in_order(self) -> None:
        time = datetime(2023, 10, 25, 7, 20, 57, 389_000, tzinfo=UTC)
        movies = ("the+lord+of+the+rings+the+two+towers+2002", "inception+2010")
        expected = Request(time, 226993, "fall2023-comp585-4.cs.mcgill.ca", 8082, 200, movies, "", 351)
        assert parse(ANSWERED) == expected

    def test_a_timed_out_request_has_its_response_time_from_the_last_ms(self) -> None:
        event = parse(TIMED_OUT)
        assert isinstance(event, Request)
        assert (event.status, event.movie_ids, event.response_ms) == (0, (), 815)
        assert event.error.startswith("java.util.concurrent.TimeoutException: Request timeout to")
        assert event.error.endswith("after 800 ms")

    def test_a_list_that_came_too_late_is_kept(self) -> None:
        event = parse(CAME_TOO_LATE)
        assert isinstance(event, Request)
        assert event.movie_ids == ("glory+1989", "pulp+fiction+1994", "this+is+it+2009")
        assert (event.status, event.error, event.response_ms) == (0, "", 819)

    @pytest.mark.parametrize("line", [WATCH, RATE, ANSWERED, TIMED_OUT, CAME_TOO_LATE])
    @pytest.mark.parametrize("end", [b"\n", b"\r\n"])
    def test_one_line_end_is_accepted(self, line: bytes, end: bytes) -> None:
        assert parse(line + end) == parse(line)

    @pytest.mark.parametrize("line", [WATCH, RATE, ANSWERED])
    @pytest.mark.parametrize("end", [b"\n\n", b"\r", b"\r\r\n", b" "])
    def test_anything_else_behind_the_line_is_not(self, line: bytes, end: bytes) -> None:
        assert isinstance(parse(line + end), Reject)


class TestTime:
    def test_missing_seconds_are_zero(self) -> None:
        event = parse(b"2022-11-14T12:24,232596,GET /data/m/fight+club+1999/128.mpg")
        assert event == Watch(datetime(2022, 11, 14, 12, 24, tzinfo=UTC), 232596, "fight+club+1999", 128)

    @pytest.mark.parametrize("digits", range(1, 10))
    def test_a_fraction_has_one_to_nine_digits_and_is_cut_to_microseconds(self, digits: int) -> None:
        event = watch_at("2022-02-09T01:45:32." + "987654321"[:digits])
        assert isinstance(event, Watch)
        assert event.time.microsecond == 987_654_321 // 10 ** (9 - min(digits, 6)) * 10 ** (
            6 - min(digits, 6)
        )

    @pytest.mark.parametrize("time", ["2024-02-29T00:00", "2022-12-31T23:59:59", "0001-01-01T00:00"])
    def test_days_of_the_calendar_are_accepted(self, time: str) -> None:
        assert isinstance(watch_at(time), Watch)

    @pytest.mark.parametrize(
        "time",
        [
            "2023-02-29T12:00",
            "2022-13-01T12:00",
            "2022-00-10T12:00",
            "2022-11-31T12:00",
            "0000-01-01T12:00",
            "2022-11-14T24:00",
            "2022-11-14T12:60",
            "2022-11-14T12:23:60",
        ],
    )
    def test_days_that_never_were_are_rejected(self, time: str) -> None:
        assert reason(watch_at(time)) == Reason.BAD_TIME

    @pytest.mark.parametrize(
        "time",
        [
            "2022-11-1 4T12:23:14",
            "2022-11-14 12:23:12",
            "2022-11-14T12:23:12.",
            "2022-11-14T12:23:12.1234567890",
            "2022-11-14T12.5",
            "2022-11-14T12:23:12Z",
            "2022-11-14T12:23:12+00:00",
            "22-11-14T12:23:12",
            "20221114T122312",
            "2022-W46-1T12:23",
            "٢٠٢٢-11-14T12:23:12",
            "",
        ],
    )
    def test_other_ways_to_write_a_time_are_rejected(self, time: str) -> None:
        assert reason(watch_at(time)) == Reason.BAD_TIME


class TestUser:
    @pytest.mark.parametrize("user", ["1", "0000007", str(MAX_USER_ID)])
    def test_ids_from_one_to_a_million_are_users(self, user: str) -> None:
        event = parse(f"2022-11-14T12:23:12,{user},GET /rate/inception+2010=4".encode())
        assert isinstance(event, Rating)
        assert event.user_id == int(user)

    @pytest.mark.parametrize(
        "user",
        ["0", str(MAX_USER_ID + 1), "6597125", "00000001", "317r398", "59 6363", "-5", "+5", "1_0", "٣", ""],
    )
    @pytest.mark.parametrize("action", ["GET /data/m/inception+2010/1.mpg", "GET /rate/inception+2010=4"])
    def test_other_ids_are_rejected(self, user: str, action: str) -> None:
        assert reason(parse(f"2022-11-14T12:23:12,{user},{action}".encode())) == Reason.BAD_USER


class TestMovie:
    @pytest.mark.parametrize(
        "movie",
        [
            "endeavour+",
            "good_+bad_+ugly+1966",
            "e.t.+the+extra-terrestrial+1982",
            "m*a*s*h+1970",
            "what++why+2001",
            "2001+a+space+odyssey+1968",
            "am%C3%A9lie+2001",
            "wall%e2%80%a2e+2008",
            "ratetouille+2007",
        ],
    )
    def test_odd_but_real_ids_are_kept_as_they_are(self, movie: str) -> None:
        event = watch_of(movie)
        assert isinstance(event, Watch)
        assert event.movie_id == movie
        assert parse(f"2022-11-14T12:23:12,5,GET /rate/{movie}=3".encode()) == Rating(event.time, 5, movie, 3)

    @pytest.mark.parametrize(
        "movie",
        [
            "sOtar+trek+2009",
            "d ark+city+1998",
            "kX3jd9aQzP0bvLm2",
            "x" * 60,
            "snowpiercer",
            "snowpiercer+201",
            "snowpiercer+20133",
            "snowpiercer+2013x",
            "+2013",
            "+",
            "am%C3%G9lie+2001",
            "amélie+2001",
            "",
        ],
    )
    def test_what_has_no_slug_and_year_is_rejected(self, movie: str) -> None:
        assert reason(watch_of(movie)) == Reason.BAD_MOVIE
        assert reason(parse(f"2022-11-14T12:23:12,5,GET /rate/{movie}=3".encode())) == Reason.BAD_MOVIE

    @pytest.mark.parametrize("piece", ["x", "+", "%C3"])
    def test_a_slug_is_at_most_255_characters_which_a_model_can_store(self, piece: str) -> None:
        longest = watch_of(piece * 255 + "+1999")
        assert isinstance(longest, Watch)
        assert len(longest.movie_id.encode()) <= MAX_ID_BYTES
        assert reason(watch_of("x" + piece * 255 + "+1999")) == Reason.BAD_MOVIE


class TestAction:
    def test_a_movie_whose_id_begins_with_rate_is_watched_not_rated(self) -> None:
        assert isinstance(watch_of("rate+2013"), Watch)
        assert reason(parse(b"2022-11-14T12:23:12,5,GET /data/m/rate/x+2013=4")) == Reason.BAD_MOVIE

    @pytest.mark.parametrize(
        "action",
        [
            "GZET /data/m/snowpiercer+2013/16.mpg",
            "GET  /data/m/snowpiercer+2013/16.mpg",
            " GET /rate/snowpiercer+2013=4",
            "POST /rate/snowpiercer+2013=4",
            "xrecommendation request a:1, status 200, result: a+2001, 5 ms",
            "GET /data/",
            "",
        ],
    )
    def test_other_actions_are_unknown(self, action: str) -> None:
        assert reason(parse(f"2022-11-14T12:23:12,596363,{action}".encode())) == Reason.UNKNOWN_ACTION

    @pytest.mark.parametrize("fields", [1, 2])
    def test_missing_fields_are_rejected(self, fields: int) -> None:
        kept = b",".join(WATCH.split(b",")[:fields])
        assert reason(parse(kept)) == [Reason.BAD_USER, Reason.UNKNOWN_ACTION][fields - 1]


class TestMinute:
    @pytest.mark.parametrize("minute", ["0", "1063", "9999", "0016"])
    def test_up_to_four_digits_are_a_minute(self, minute: str) -> None:
        event = parse(f"2022-11-14T12:23:12,596363,GET /data/m/the+wire+2002/{minute}.mpg".encode())
        assert isinstance(event, Watch)
        assert event.minute == int(minute)

    @pytest.mark.parametrize(
        "file",
        ["30.Hmpg", "10000.mpg", ".mpg", "-1.mpg", "3 0.mpg", "30.mp4", "30", "30.mpg7", "1/2.mpg", ""],
    )
    def test_other_files_are_rejected(self, file: str) -> None:
        line = f"2022-11-14T12:23:12,596363,GET /data/m/the+wire+2002/{file}".encode()
        assert reason(parse(line)) == Reason.BAD_MINUTE

    def test_a_watch_without_a_minute_is_rejected(self) -> None:
        assert reason(parse(b"2022-11-14T12:23:12,5,GET /data/m/the+wire+2002")) == Reason.BAD_MINUTE


class TestRating:
    @pytest.mark.parametrize("stars", range(1, 6))
    def test_one_to_five_stars_are_a_rating(self, stars: int) -> None:
        event = rating_of(str(stars))
        assert isinstance(event, Rating)
        assert event.rating == stars

    @pytest.mark.parametrize("rating", ["45", "0", "6", "-1", "F", "4.5", " 4", "4 ", "=4", ""])
    def test_wrong_ranges_letters_and_longer_numbers_are_rejected(self, rating: str) -> None:
        assert reason(rating_of(rating)) == Reason.BAD_RATING

    def test_a_rating_without_a_value_is_rejected(self) -> None:
        assert reason(parse(b"2022-11-14T12:23:12,5,GET /rate/inception+2010")) == Reason.BAD_RATING


class TestRequest:
    def test_result_is_matched_once_so_that_an_error_may_hold_the_word(self) -> None:
        event = call(0, "bad answer, result: none, 3 ms", "815 ms")
        assert isinstance(event, Request)
        assert (event.error, event.response_ms) == ("bad answer, result: none, 3 ms", 815)

    def test_ids_may_be_separated_with_and_without_a_blank(self) -> None:
        event = call(200, "a+2001,b+2002, c+")
        assert isinstance(event, Request)
        assert event.movie_ids == ("a+2001", "b+2002", "c+")

    def test_a_list_has_at_most_twenty_movies(self) -> None:
        twenty = ",".join(f"movie+{number}+2001" for number in range(MAX_MOVIES))
        assert isinstance(call(200, twenty), Request)
        assert reason(call(200, twenty + ",one+too+many+2001")) == Reason.BAD_RESULT

    @pytest.mark.parametrize(
        "result", ["", "Internal error", "a+2001,", ",a+2001", "a+2001,,b+2002", "A+2001"]
    )
    def test_an_answer_of_200_that_is_no_list_is_rejected(self, result: str) -> None:
        assert reason(call(200, result)) == Reason.BAD_RESULT

    def test_a_failure_that_says_nothing_is_rejected(self) -> None:
        assert reason(call(0, "")) == Reason.BAD_RESULT

    @pytest.mark.parametrize("status", [404, 500, 503])
    def test_other_http_codes_carry_what_was_said(self, status: int) -> None:
        event = call(status, "Überlastet, später, bitte")
        assert isinstance(event, Request)
        assert (event.status, event.error) == (status, "Überlastet, später, bitte")

    @pytest.mark.parametrize(
        "ms", ["351", "351ms", "3 51 ms", "-351 ms", "ms", " ms", "1234567890 ms", "351 ms "]
    )
    def test_a_wrong_response_time_is_rejected(self, ms: str) -> None:
        assert reason(call(200, "a+2001", ms)) == Reason.BAD_REQUEST

    @pytest.mark.parametrize(
        "host", ["team-4.mcgill.ca", ":8082", "team 4:8082", "team:65536", "team:x", "a:b:1"]
    )
    def test_a_wrong_host_is_rejected(self, host: str) -> None:
        assert reason(call(200, "a+2001", host=host)) == Reason.BAD_REQUEST

    @pytest.mark.parametrize("status", ["", "2 00", "20", "2000", "999", "00", "OK"])
    def test_a_wrong_status_is_rejected(self, status: str) -> None:
        assert reason(call(status, "a+2001")) == Reason.BAD_REQUEST

    def test_an_error_over_two_lines_is_rejected(self) -> None:
        assert reason(call(0, "first\nsecond")) == Reason.BAD_REQUEST


class TestRejects:
    @pytest.mark.parametrize("line", [b"", b"\n", b"\r\n"])
    def test_an_empty_line_is_a_reject(self, line: bytes) -> None:
        assert parse(line) == Reject(Reason.EMPTY, b"")

    @pytest.mark.parametrize("line", [b"\xff\xfe", WATCH + b"\x80", TIMED_OUT.replace(b"java", b"j\xe4va")])
    def test_bytes_that_are_no_utf8_are_a_reject(self, line: bytes) -> None:
        assert parse(line) == Reject(Reason.NOT_UTF8, line)

    def test_a_reject_keeps_the_line_as_it_arrived_but_for_its_end(self) -> None:
        assert parse(b"GZET,\t 1 \r\n") == Reject(Reason.BAD_TIME, b"GZET,\t 1 ")

    def test_reasons_are_short_words(self) -> None:
        assert all(each == each.lower() and " " not in each and len(each) < 16 for each in Reason)


TIMES = st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC))
WHOLE_TIMES = st.builds(
    lambda minutes, seconds: datetime(2022, 11, 14, tzinfo=UTC) + timedelta(minutes=minutes, seconds=seconds),
    st.integers(0, 10**6),
    st.sampled_from([0, 0, 1, 59]),
)
USERS = st.integers(1, MAX_USER_ID)
MOVIES = st.from_regex(r"(?:[a-z0-9+._*-]|%[0-9A-Fa-f]{2}){1,30}\+(?:[0-9]{4})?", fullmatch=True)
WATCHES = st.builds(Watch, TIMES | WHOLE_TIMES, USERS, MOVIES, st.integers(0, 9999))
RATINGS = st.builds(Rating, TIMES | WHOLE_TIMES, USERS, MOVIES, st.integers(1, 5))
HOSTS = st.from_regex(r"[A-Za-z0-9._-]{1,40}", fullmatch=True)
LISTS = st.lists(MOVIES, min_size=1, max_size=MAX_MOVIES).map(tuple)
# An error that could pass for a list would be read as one: no "+", no list.
ERRORS = st.text(st.characters(codec="utf-8", exclude_characters="\n+"), min_size=1)
MS = st.integers(0, 10**9 - 1)
CALLS = st.builds(
    Request,
    TIMES,
    USERS,
    HOSTS,
    st.integers(0, 65_535),
    st.sampled_from([0, 200, 404]),
    LISTS,
    st.just(""),
    MS,
) | st.builds(
    Request,
    TIMES,
    USERS,
    HOSTS,
    st.integers(0, 65_535),
    st.sampled_from([0, 404, 500]),
    st.just(()),
    ERRORS,
    MS,
)
LINES = (WATCHES | RATINGS | CALLS).map(lambda event: event.line().encode())


@given(WATCHES | RATINGS | CALLS)
def test_an_event_written_as_a_line_reads_back_as_itself(event: Event) -> None:
    assert parse(event.line().encode()) == event


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_end_as_an_event_or_a_reject(line: bytes) -> None:
    event = parse(line)
    assert isinstance(event, Watch | Rating | Request | Reject)
    assert parse(line) == event


@given(LINES, st.data())
def test_an_inserted_character_never_raises_and_a_reject_keeps_it(line: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(line)))
    fault = data.draw(st.sampled_from([bytes([code]) for code in b" 0aZ\xff"]))
    damaged = line[:place] + fault + line[place:]
    event = parse(damaged)
    if isinstance(event, Reject):
        assert event.line == damaged
    else:
        assert parse(event.line().encode()) == event


@given(LINES, st.data())
def test_no_mere_beginning_of_a_watch_or_rating_is_an_event(line: bytes, data: st.DataObject) -> None:
    if b"recommendation request" not in line:
        assert isinstance(parse(line[: data.draw(st.integers(0, len(line) - 1))]), Reject)


@pytest.mark.parametrize("filler", [b"a", b"+", b"%", b",", b"1", b"\xff"])
def test_a_megabyte_of_one_character_is_rejected(filler: bytes) -> None:
    garbage = filler * 2**20
    assert isinstance(parse(garbage), Reject)
    assert isinstance(parse(b"2022-11-14T12:23:12,5,GET /data/m/" + garbage), Reject)
    assert isinstance(parse(b"2022-11-14T12:23:12,5,recommendation request " + garbage), Reject)


def test_the_stream_omits_the_seconds_when_they_are_zero() -> None:
    minute = datetime(2022, 11, 14, 12, 24, tzinfo=UTC)
    assert Rating(minute, 5, "a+2001", 4).line() == "2022-11-14T12:24,5,GET /rate/a+2001=4"
    later = minute + timedelta(milliseconds=5)
    assert Rating(later, 5, "a+2001", 4).line() == "2022-11-14T12:24:00.005,5,GET /rate/a+2001=4"
