from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import folding
from pipelines.data.batches import COLUMNS, SCHEMA
from pipelines.data.folding import Folded
from pipelines.events.grammar import Rating, Request, Watch
from pipelines.events.lines import Lines
from pipelines.events.parsing import parse_lines

NOON = datetime(2022, 11, 14, 12, 0, tzinfo=UTC)


def at(minute: int) -> datetime:
    return NOON + timedelta(minutes=minute)


def fold(lines: Iterable[str | bytes], first: int = 0) -> Folded:
    values = [line if isinstance(line, bytes) else line.encode() for line in lines]
    return folding.fold(parse_lines([Lines.of(range(first, first + len(values)), values)]))


def rows(folded: Folded, kind: str) -> list[dict[str, Any]]:
    table = folded.kinds[list(COLUMNS).index(kind)]
    return list(table.select(COLUMNS[kind]).to_pylist())


def test_a_viewing_is_one_row_with_first_and_last_time_and_distinct_minutes() -> None:
    watched = [
        Watch(at(0), 7, "heat+1995", 3),
        Watch(at(1), 7, "heat+1995", 4),
        Watch(at(2), 7, "heat+1995", 3),
    ]
    folded = fold([event.line() for event in watched], first=100)
    assert rows(folded, "watch") == [
        {
            "kind": "watch",
            "offset": 100,
            "last_offset": 102,
            "time": at(0),
            "last_time": at(2),
            "user_id": 7,
            "movie_id": "heat+1995",
            "minutes": len({3, 4}),
            "first_minute": 3,
            "seen": bytes([0b11]),
        }
    ]
    assert (folded.figures["lines"], folded.figures["duplicates"]) == (3, 0)


def test_other_users_and_movies_are_rows_of_their_own_in_the_order_of_the_stream() -> None:
    watched = [
        Watch(at(0), 9, "heat+1995", 1),
        Watch(at(0), 7, "heat+1995", 1),
        Watch(at(0), 7, "big+1988", 1),
    ]
    folded = rows(fold([event.line() for event in watched]), "watch")
    assert [(row["offset"], row["user_id"], row["movie_id"]) for row in folded] == [
        (0, 9, "heat+1995"),
        (1, 7, "heat+1995"),
        (2, 7, "big+1988"),
    ]


def test_the_first_time_is_the_oldest_even_when_lines_arrive_late() -> None:
    folded = fold([Watch(at(5), 7, "heat+1995", 5).line(), Watch(at(1), 7, "heat+1995", 1).line()])
    [row] = rows(folded, "watch")
    assert (row["time"], row["last_time"]) == (at(1), at(5))
    assert (folded.figures["first_time"], folded.figures["last_time"]) == (at(1), at(5))


def test_exact_duplicates_of_every_kind_are_counted_and_leave_no_row() -> None:
    lines: list[str | bytes] = [
        Watch(at(0), 7, "heat+1995", 3).line(),
        Rating(at(1), 7, "heat+1995", 5).line(),
        Request(at(2), 7, "host", 8082, 200, ("big+1988",), "", 30).line(),
        b"garbage",
    ]
    folded = fold(lines * 3)
    assert folded.figures["duplicates"] == 4 * 2
    assert folded.figures["counts"] == {"watch": 3, "rating": 3, "request": 3, "reject": 3}
    assert folded.figures["rejects"] == {"bad-time": 3}
    assert [table.num_rows for table in folded.kinds] == [1, 1, 1, 1]
    assert rows(folded, "rating")[0]["offset"] == 1


def test_a_second_rating_of_a_movie_is_no_duplicate() -> None:
    folded = fold([Rating(at(0), 7, "heat+1995", 5).line(), Rating(at(1), 7, "heat+1995", 4).line()])
    assert folded.figures["duplicates"] == 0
    assert [row["rating"] for row in rows(folded, "rating")] == [5, 4]


def test_requests_keep_list_error_status_and_response_time() -> None:
    answered = Request(at(0), 7, "host-4", 8082, 200, ("big+1988", "heat+1995"), "", 30)
    failed = Request(at(1), 8, "host-4", 8082, 0, (), "gave up after 800 ms", 815)
    kept = rows(fold([answered.line(), failed.line()]), "request")
    assert [(row["movie_ids"], row["error"], row["status"], row["response_ms"]) for row in kept] == [
        ("big+1988,heat+1995", "", 200, 30),
        ("", "gave up after 800 ms", 0, 815),
    ]
    assert {row["host"] for row in kept} == {"host-4"}


def test_rejects_keep_their_reason_and_their_bytes() -> None:
    folded = fold([b"\xff", b""], first=40)
    assert rows(folded, "reject") == [
        {"kind": "reject", "offset": 40, "reason": "not-utf8", "line": b"\xff"},
        {"kind": "reject", "offset": 41, "reason": "empty", "line": b""},
    ]
    assert (folded.figures["first_time"], folded.figures["last_time"]) == (None, None)


def test_every_table_has_the_schema_also_when_nothing_came() -> None:
    folded = fold([])
    assert all(table.schema.equals(SCHEMA) for table in folded.kinds)
    assert folded.figures["counts"] == dict.fromkeys(COLUMNS, 0)


def test_the_minutes_seen_are_bits_from_the_first_one_on() -> None:
    minutes = [1063, 5, 12, 13]
    [row] = rows(fold([Watch(at(0), 7, "heat+1995", minute).line() for minute in minutes]), "watch")
    assert row["first_minute"] == 5
    assert int.from_bytes(row["seen"], "little") == sum(1 << minute - 5 for minute in minutes)


def test_lines_are_counted_by_hour_of_their_event_with_duplicates() -> None:
    lines = [
        Watch(at(0), 7, "heat+1995", 3).line(),
        Watch(at(59), 7, "heat+1995", 4).line(),
        Watch(at(59), 7, "heat+1995", 4).line(),
        Rating(at(60), 7, "heat+1995", 4).line(),
        Watch(at(-1), 7, "heat+1995", 5).line(),
        b"garbage",
    ]
    assert fold(lines).figures["hours"] == {
        "2022-11-14T11": {"watch": 1},
        "2022-11-14T12": {"watch": 3},
        "2022-11-14T13": {"rating": 1},
    }


def test_late_is_what_comes_a_minute_behind_the_newest_line_before() -> None:
    times = [0, 10, 9, 8, 12, 2]
    figures = fold(
        [Watch(at(time), 7, "heat+1995", number).line() for number, time in enumerate(times)]
    ).figures
    assert figures["late"] == len({8, 2})
    assert figures["latest_s"] == 60 * (12 - 2)


LINES = st.lists(
    st.builds(
        lambda minute, user, movie, watched: Watch(at(minute), user, movie, watched).line(),
        st.integers(0, 3),
        st.integers(1, 3),
        st.sampled_from(["heat+1995", "big+1988"]),
        st.integers(0, 2),
    )
    | st.sampled_from(["", "garbage", Rating(at(0), 1, "heat+1995", 3).line()]),
    max_size=60,
)


@given(LINES)
def test_folding_agrees_with_counting_by_hand(lines: list[str]) -> None:
    folded = fold(lines)
    assert folded.figures["lines"] == len(lines) == sum(folded.figures["counts"].values())
    assert folded.figures["duplicates"] == len(lines) - len(set(lines))
    assert sum(folded.figures["rejects"].values()) == folded.figures["counts"]["reject"]
    minutes: dict[tuple[str, str], set[str]] = {}
    for line in lines:
        if ".mpg" in line:
            _, user, path = line.split(",")
            movie, minute = path.removeprefix("GET /data/m/").split("/")
            minutes.setdefault((user, movie), set()).add(minute)
    counted = {(str(row["user_id"]), row["movie_id"]): row["minutes"] for row in rows(folded, "watch")}
    assert counted == {key: len(distinct) for key, distinct in minutes.items()}
