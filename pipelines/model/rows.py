"""Ids become rows: users and movies are numbered as the arrays of a model want them.

Users are in order of their id, those who rated before those who only watched. Movies are in order of
popularity, which is the number of users that rated or watched; ties go by id. Ids are compared by code point.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipelines.model.ids import Rows


@dataclass(frozen=True, slots=True)
class Pairs:
    """Users and movies as columns of rows."""

    users: Rows
    movies: Rows


@dataclass(frozen=True, slots=True)
class Numbered:
    """Ratings and viewings without their ids."""

    user_ids: pd.Index
    """In row order."""
    movie_ids: pd.Index
    """In row order."""
    rated: Pairs
    """Each pair once, in order of user."""
    last: Rows
    """(len(rated),) place of the last rating of each pair in the ratings that were given."""
    watched: Pairs
    """Aligned with the viewings that were given; empty when there are none."""


def number(ratings: pd.DataFrame, viewings: pd.DataFrame | None) -> Numbered:
    """Give rows to the users and movies of both frames, by their columns user_id and movie_id."""
    viewings = ratings[:0] if viewings is None else viewings
    user_ids, raters, watchers = _users(ratings["user_id"], viewings["user_id"])
    movie_ids, rated, watched = _movies(ratings["movie_id"], viewings["movie_id"])
    last = _last_of_each(raters * len(movie_ids) + rated)
    pairs, viewed = Pairs(raters[last], rated[last]), Pairs(watchers, watched)
    order = _by_popularity([pairs, viewed], len(movie_ids))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return Numbered(
        user_ids,
        movie_ids[order],
        Pairs(pairs.users, rank[pairs.movies]),
        last,
        Pairs(watchers, rank[watched]),
    )


def _places(ids: pd.Series) -> tuple[pd.Index, Rows]:
    """Return the distinct ids, sorted, and the place of each of ``ids`` among them."""
    places, distinct = pd.factorize(ids, sort=True)
    return pd.Index(distinct), places.astype(np.int64, copy=False)


def _users(rated: pd.Series, watched: pd.Series) -> tuple[pd.Index, Rows, Rows]:
    raters, rated_by = _places(rated)
    watchers, watched_by = _places(watched)
    rows = raters.get_indexer(watchers).astype(np.int64)
    new = rows < 0
    rows[new] = len(raters) + np.arange(new.sum())
    return raters.append(watchers[new]), rated_by, rows[watched_by]


def _movies(rated: pd.Series, watched: pd.Series) -> tuple[pd.Index, Rows, Rows]:
    (first, rated_at), (second, watched_at) = _places(rated), _places(watched)
    ids = first.union(second)
    return ids, ids.get_indexer(first)[rated_at], ids.get_indexer(second)[watched_at]


def _last_of_each(keys: Rows) -> Rows:
    """Return the last place of each distinct key, in order of the keys."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    is_last = np.diff(ordered, append=-1) != 0
    last: Rows = order[is_last]
    return last


def _by_popularity(parts: list[Pairs], n_movies: int) -> Rows:
    """Return the movies, those that most users saw first; each user counts once."""
    keys = np.sort(np.concatenate([part.users * n_movies + part.movies for part in parts]))
    # Not np.unique: it hashes, which takes 12 seconds for 10 million keys instead of a tenth of one.
    distinct = keys[np.diff(keys, prepend=-1) != 0]
    return np.argsort(-np.bincount(distinct % n_movies, minlength=n_movies), kind="stable")
