"""A census: each movie and each user of some batches, with what they had to do with each other.

Everything that is said of single users and movies is counted here once, so that the data of a training and
the data that come after it are described by the same words.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

COLUMNS: Final = {
    "watch": ("time", "user_id", "movie_id", "minutes"),
    "rating": ("time", "user_id", "movie_id", "rating"),
    "request": ("user_id",),
}
"""Columns of each kind of rows that a census reads."""

STARS: Final = 5

_DAY_US: Final = 86_400_000_000
_DAY_BITS: Final = 20
"""2^20 days after 1970 is the year 4840."""
_MINUTES_BITS: Final = 14
"""A row has up to 10,000 minutes, which is below 2^14."""


@dataclass(frozen=True, slots=True, eq=False)
class Census:
    """Movies and users, and what they add up to."""

    movies: pd.DataFrame
    """Index: movie id. ``minutes`` watched, ``viewers`` (users who watched or rated it), ``ratings``."""
    users: pd.DataFrame
    """Index: user id. ``minutes`` watched, ``ratings``, ``requests``, ``days`` (UTC) with viewing or rating,
    ``repeats``: how many ratings of the same movie, at most."""
    stars: Integers
    """(STARS,) ratings of 1, 2, … stars."""
    effective_viewings: float
    """How many independent viewings say as much as the watched minutes do, see :func:`effective`."""
    days: int
    """Days (UTC) on which anybody watched or rated."""


def take(watches: pa.Table, ratings: pa.Table, requests: pa.Table) -> Census:
    """Count the rows of some batches; rows without user or movie are passed over.

    Args:
        watches: with the ``COLUMNS`` of a watch; text as dictionaries.
        ratings: the same of a rating.
        requests: the same of a request.
    """
    watches, ratings, requests = map(_without_nulls, (watches, ratings, requests))
    ids, (watched, rated) = _numbered(watches, ratings)
    n_movies = max(1, len(ids))
    watched_by, rated_by = _integers(watches, "user_id"), _integers(ratings, "user_id")
    pairs, pair_minutes = _sums(watched_by * n_movies + watched, watches["minutes"].to_numpy())
    del watched  # two days are 27 million rows
    viewers = _distinct(np.concatenate([pairs, rated_by * n_movies + rated])) % n_movies
    visits = _distinct(np.concatenate([_visits(watches, watched_by), _visits(ratings, rated_by)]))
    movies = pd.DataFrame(
        {
            "minutes": np.bincount(pairs % n_movies, pair_minutes, len(ids)),
            "viewers": np.bincount(viewers, minlength=len(ids)),
            "ratings": np.bincount(rated, minlength=len(ids)),
        },
        index=ids,
    ).astype("int64")
    users = pd.DataFrame(
        {
            "minutes": _per_user(np.add, pairs // n_movies, pair_minutes),
            "ratings": _counts(rated_by),
            "requests": _counts(_integers(requests, "user_id")),
            "days": _counts(visits >> _DAY_BITS),
            "repeats": _repeats(rated_by, rated, n_movies),
        }
    )
    stars = np.bincount(np.clip(_integers(ratings, "rating"), 0, STARS + 1), minlength=STARS + 2)
    return Census(
        movies=movies,
        users=users.fillna(0).astype("int64"),
        stars=stars[1 : STARS + 1],
        effective_viewings=effective(pair_minutes),
        days=len(_distinct(visits & ((1 << _DAY_BITS) - 1))),
    )


def effective(weights: Integers) -> float:
    """Return how many equal, independent observations tell as much as these of unequal weight.

    A viewing of a hundred minutes is one choice of a movie and not a hundred; the size that counts is
    (sum of weights)^2 / (sum of their squares): L. Kish, Survey Sampling, 1965, section 11.7.
    """
    return float(weights.sum()) ** 2 / max(1.0, float((weights.astype(np.float64) ** 2).sum()))


def _without_nulls(table: pa.Table) -> pa.Table:
    return table.drop_null() if any(column.null_count for column in table.columns) else table


def _numbered(*tables: pa.Table) -> tuple[pd.Index, list[Integers]]:
    """Return the ids of all movies, sorted, and for each table the place of each row's movie among them."""
    columns = [
        table.select(["movie_id"]).unify_dictionaries().combine_chunks()["movie_id"].combine_chunks()
        for table in tables
    ]
    used = [np.unique(column.indices.to_numpy()) for column in columns]
    named = [pd.Index(column.dictionary.to_pandas().astype("str")) for column in columns]
    ids = pd.Index([], dtype="str")
    for names, there in zip(named, used, strict=True):
        ids = ids.union(names[there])
    places = [
        ids.get_indexer(names)[column.indices.to_numpy()].astype(np.int64)
        for names, column in zip(named, columns, strict=True)
    ]
    return ids, places


def _sums(keys: Integers, values: npt.NDArray[np.integer[Any]]) -> tuple[Integers, Integers]:
    """Return the distinct keys, ascending, and the sum of the values (below 2^14) of each; ends ``keys``."""
    # One number holds both: to sort plain numbers takes a tenth of the time of finding their order.
    keys <<= _MINUTES_BITS
    keys |= np.clip(values, 0, (1 << _MINUTES_BITS) - 1)
    keys.sort()
    values = keys & ((1 << _MINUTES_BITS) - 1)
    keys >>= _MINUTES_BITS
    starts = _begins(keys)
    return keys[starts], _reduced(np.add, values, starts)


def _visits(table: pa.Table, users: Integers) -> Integers:
    """Return user and day of each row as one number."""
    # A wrong clock may say any year; all before 1970 and all after 4840 are one day.
    days = np.clip(_integers(table, "time") // _DAY_US, 0, (1 << _DAY_BITS) - 1)
    return (users << _DAY_BITS) | days


def _repeats(users: Integers, movies: Integers, n_movies: int) -> pd.Series:
    keys = np.sort(users * n_movies + movies)
    starts = _begins(keys)
    return _per_user(np.maximum, keys[starts] // n_movies, np.diff(starts, append=len(keys)))


def _counts(users: Integers) -> pd.Series:
    return _per_user(np.add, np.sort(users), np.ones(len(users), dtype=np.int64))


def _per_user(how: np.ufunc, ascending: Integers, values: Integers) -> pd.Series:
    starts = _begins(ascending)
    return pd.Series(_reduced(how, values, starts), index=pd.Index(ascending[starts], name="user_id"))


def _distinct(values: Integers) -> Integers:
    """Return each value once, ascending; sorts ``values`` where they are."""
    values.sort()
    return values[_begins(values)]


def _begins(ascending: Integers) -> Integers:
    """Return the places where a run of equal values begins."""
    return np.flatnonzero(np.diff(ascending, prepend=ascending[:1] - 1))


def _reduced(how: np.ufunc, values: Integers, starts: Integers) -> Integers:
    reduced: Integers = how.reduceat(values, starts) if len(starts) else values
    return reduced


def _integers(table: pa.Table, column: str) -> Integers:
    """Return a column without nulls in 64 bits; times as microseconds."""
    values: Integers = table[column].cast(pa.int64()).to_numpy()
    return values
