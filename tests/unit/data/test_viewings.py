"""Viewings: minutes of several batches are one viewing again."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import viewings
from pipelines.data.batches import SCHEMA
from pipelines.events.parsing import Watched

Line = tuple[int, int, int, int]
"""User, movie, minute, time."""

MOVIES = ["heat+1995", "big+1988", "solaris+1972"]
LINE = st.tuples(
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(0, 20) | st.sampled_from([1063, 9999]),
    st.integers(0, 5),
)


def watched(lines: Sequence[Line]) -> Watched:
    user, movie, minute, time = (
        np.array(column, np.int64) for column in (zip(*lines, strict=True) if lines else [[]] * 4)
    )
    return Watched(np.arange(len(lines)), time, user, movie, minute, MOVIES)


def batch(lines: Sequence[Line], movies: Sequence[str] = MOVIES, *, minutes_known: bool = True) -> pa.Table:
    """The rows that a batch of these lines has; each batch has a dictionary of its own."""
    rows = viewings.fold(watched(lines))
    names = pa.array(movies, pa.string())
    columns = {
        "last_time": rows.last_time,
        "user_id": rows.user,
        "movie_id": pa.DictionaryArray.from_arrays(pa.array(rows.movie, pa.int32()), names),
        "minutes": rows.minutes,
        "first_minute": rows.first_minute if minutes_known else pa.nulls(len(rows.user)),
        "seen": rows.seen if minutes_known else pa.nulls(len(rows.user)),
    }
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    return pa.table({name: pa.array(column, schema.field(name).type) for name, column in columns.items()})


def merged(*batches: pa.Table) -> dict[tuple[int, str], tuple[int, int]]:
    """Minutes and newest time of each (user, movie)."""
    table = viewings.merge(pa.concat_tables(batches).unify_dictionaries())
    found = {
        (row["user_id"], row["movie_id"]): (row["minutes"], int(row["time"].timestamp() * 1e6))
        for row in table.to_pylist()
    }
    assert len(found) == table.num_rows
    return found


def by_hand(lines: Sequence[Line]) -> dict[tuple[int, str], tuple[int, int]]:
    seen: dict[tuple[int, str], tuple[set[int], set[int]]] = {}
    for user, movie, minute, time in lines:
        minutes, times = seen.setdefault((user, MOVIES[movie]), (set(), set()))
        minutes.add(minute)
        times.add(time)
    return {key: (len(minutes), max(times)) for key, (minutes, times) in seen.items()}


@given(st.lists(st.lists(LINE, max_size=15), min_size=1, max_size=4))
def test_a_viewing_over_several_batches_has_each_minute_once(parts: list[list[Line]]) -> None:
    assert merged(*map(batch, parts)) == by_hand([line for part in parts for line in part])


@given(st.lists(LINE, max_size=15), st.lists(LINE, max_size=15))
def test_a_movie_that_only_one_batch_knows_keeps_its_name(first: list[Line], second: list[Line]) -> None:
    renamed = [(user, (movie + 1) % 3, minute, time) for user, movie, minute, time in second]
    assert merged(batch(first), batch(renamed, [*MOVIES[2:], *MOVIES[:2]])) == by_hand([*first, *second])


def test_minutes_of_old_batches_that_only_counted_them_are_added_up() -> None:
    old = batch([(1, 0, minute, 0) for minute in range(5)], minutes_known=False)
    assert merged(old, old) == {(1, "heat+1995"): (5 + 5, 0)}
    new = batch([(1, 0, 3, 7), (1, 0, 4, 8)])
    assert merged(old, new, new) == {(1, "heat+1995"): (5 + 2, 8)}


@given(st.lists(LINE, max_size=30))
def test_duplicates_are_lines_that_say_what_another_says(lines: list[Line]) -> None:
    assert viewings.fold(watched(lines)).duplicates == len(lines) - len(set(lines))


def test_a_row_knows_its_first_and_last_line_and_time_in_any_order() -> None:
    rows = viewings.fold(watched([(2, 1, 9, 4), (1, 0, 7, 5), (2, 1, 3, 2), (1, 0, 8, 1), (2, 1, 5, 3)]))
    assert (rows.offset.tolist(), rows.last_offset.tolist()) == ([0, 1], [4, 3])
    assert (rows.time.tolist(), rows.last_time.tolist()) == ([2, 1], [4, 5])
    assert (rows.first_minute.tolist(), rows.minutes.tolist()) == ([3, 7], [3, 2])
    assert rows.seen.to_pylist() == [bytes([0b1000101]), bytes([0b11])]
