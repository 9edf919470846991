from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.checks.census import Census, effective, take

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEXT = pa.dictionary(pa.int32(), pa.string())


def table(rows, **columns):
    """Rows of (user, movie, value, day) to a table as batches are read."""
    users, movies, values, days = zip(*rows, strict=True) if rows else ((), (), (), ())
    (value,) = columns
    return pa.table(
        {
            "time": pa.array([NOON + timedelta(days=day) for day in days], pa.timestamp("us", tz="UTC")),
            "user_id": pa.array(users, pa.int32()),
            "movie_id": pa.array(movies, pa.string()).cast(TEXT),
            value: pa.array(values, columns[value]),
        }
    )


def count(watched=(), rated=(), asked=()) -> Census:
    return take(
        table(watched, minutes=pa.int16()),
        table(rated, rating=pa.int8()),
        pa.table({"user_id": pa.array(asked, pa.int32())}),
    )


def test_movies_are_counted_by_minutes_viewers_and_ratings():
    census = count(
        watched=[(1, "a", 10, 0), (1, "a", 5, 0), (2, "a", 7, 0), (2, "b", 1, 0)],
        rated=[(1, "a", 4, 0), (1, "a", 5, 0), (3, "c", 2, 0)],
    )
    assert census.movies.T.to_dict() == {
        "a": {"minutes": 10 + 5 + 7, "viewers": 2, "ratings": 2},
        "b": {"minutes": 1, "viewers": 1, "ratings": 0},
        "c": {"minutes": 0, "viewers": 1, "ratings": 1},
    }


def test_users_are_counted_by_what_they_did_and_on_how_many_days():
    census = count(
        watched=[(1, "a", 10, 0), (1, "b", 5, 1), (2, "a", 7, 1)],
        rated=[(1, "a", 4, 1), (1, "a", 5, 2), (1, "b", 5, 2), (3, "c", 2, 2)],
        asked=[2, 2, 9],
    )
    assert census.users.T.to_dict() == {
        1: {"minutes": 15, "ratings": 3, "requests": 0, "days": 3, "repeats": 2},
        2: {"minutes": 7, "ratings": 0, "requests": 2, "days": 1, "repeats": 0},
        3: {"minutes": 0, "ratings": 1, "requests": 0, "days": 1, "repeats": 1},
        9: {"minutes": 0, "ratings": 0, "requests": 1, "days": 0, "repeats": 0},
    }
    assert census.days == 3


def test_stars_are_counted_and_what_is_none_is_not():
    rated = [(user, "a", star, 0) for user, star in enumerate((1, 4, 4, 5, 0, 6, -3), 1)]
    assert count(rated=rated).stars.tolist() == [1, 0, 0, 2, 1]


def test_nothing_is_counted_as_nothing():
    census = count()
    assert (len(census.movies), len(census.users), census.days, census.effective_viewings) == (0, 0, 0, 0)
    assert census.stars.tolist() == [0] * 5


def test_batches_with_dictionaries_of_their_own_are_counted_together():
    rows = [(1, "b", 3, 0)], [(1, "a", 4, 0), (2, "b", 5, 0)]
    watches = pa.concat_tables([table(part, minutes=pa.int16()) for part in rows])
    census = take(watches, table((), rating=pa.int8()), pa.table({"user_id": pa.array([], pa.int32())}))
    assert census.movies["minutes"].to_dict() == {"a": 4, "b": 8}


def test_rows_without_user_or_movie_are_passed_over():
    census = count(watched=[(None, "a", 10, 0), (1, None, 10, 0), (1, "b", 10, 0)])
    assert census.movies["minutes"].to_dict() == {"b": 10}


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from("abc"), st.integers(1, 600), st.integers(0, 3))))
def test_minutes_of_users_and_of_movies_add_up_to_all_minutes(watched):
    census = count(watched=watched)
    minutes = sum(minutes for _, _, minutes, _ in watched)
    assert census.movies["minutes"].sum() == census.users["minutes"].sum() == minutes
    assert census.movies["viewers"].sum() == len({(user, movie) for user, movie, _, _ in watched})
    assert census.users["days"].sum() == len({(user, day) for user, _, _, day in watched})


@pytest.mark.parametrize(
    ("weights", "size"), [([], 0), ([7], 1), ([5, 5, 5], 3), ([100, 1, 1], 102**2 / 10_002)]
)
def test_unequal_viewings_say_as_much_as_fewer_equal_ones(weights, size):
    assert effective(np.array(weights, dtype=np.int64)) == pytest.approx(size)
