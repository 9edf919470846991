"""The model that answers: arrays in, lists and ratings out. Needs numpy, nothing else.

A list is ranked by what the movies that a user rated or watched say about the others: each of them is a row
of the neighbours, counted by the weight of the evidence. One more row, "everybody", stands for what is
popular of late.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.model.arrays import (
    EVIDENCE_GRID,
    LIST_LENGTH,
    MAX_MOVIES,
    NEIGHBOUR_GRID,
    WATCHED_WEIGHT,
    Arrays,
    Doubles,
    Floats,
    Small,
    SomeRows,
)
from pipelines.model.ids import IdTable, Rows

PERSONAL, FOLDED_IN, TRENDING, POPULAR = "personal", "folded-in", "trending", "popular"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An answer: distinct movie ids, best first, and which rung of the ladder gave them."""

    movie_ids: list[str]
    source: str
    """``personal``, ``folded-in``, ``trending`` or ``popular``."""


class Model:
    """A model that answers; safe to share between threads, since nothing in it changes."""

    def __init__(self, meta: dict[str, Any], arrays: Arrays) -> None:
        self.meta = meta
        self._arrays = arrays
        self._users = IdTable(arrays.user_ids, arrays.user_order)
        self._movies = IdTable(arrays.movie_ids, arrays.movie_order)
        # Every answer names twenty movies, and most are for strangers.
        self._names = self._movies.texts(np.arange(self.n_movies))
        self._named = {name: row for row, name in enumerate(self._names)}
        self._general_source = TRENDING if len(arrays.trending) else POPULAR
        self._for_strangers = self._texts(self._fill(_NONE, _NONE, LIST_LENGTH))

    @property
    def version(self) -> int | None:
        """Number given by the registry; None before."""
        number: int | None = self.meta["version"]
        return number

    @property
    def n_users(self) -> int:
        """Users that rated or watched something."""
        return len(self._users)

    @property
    def n_movies(self) -> int:
        """Movies that were rated or watched."""
        return len(self._movies)

    def knows(self, user_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Tell for each user whether the model was trained on anything that user rated or watched."""
        return self._users.rows(user_ids) >= 0

    def knows_movies(self, movie_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Tell for each movie whether anybody had rated or watched it before the training."""
        return self._movies.rows(movie_ids) >= 0

    def user_id(self, row: int) -> str:
        """Return the id of the user in this row, ``0 .. n_users - 1``."""
        return self._users.texts(np.array([row]))[0]

    def seen(self, user_id: str) -> set[str]:
        """Return the movies this user rated or watched before the training; none for a stranger."""
        return set(self._texts(self._seen(self._users.row(user_id))[0]))

    def recommend(self, user_id: str, k: int = LIST_LENGTH, watched: Sequence[str] = ()) -> Recommendation:
        """Return the best ``k`` movies this user has not seen, fewer when fewer remain.

        ``watched``: movie ids the user has watched since the training, in any order; those the model does
        not know say nothing. A user of the training with taste gets a ``personal`` list of both, a stranger
        who has watched something a ``folded-in`` one, everybody else what is ``trending``, else ``popular``.
        """
        row = self._users.row(user_id)
        fresh = self._fresh(row, watched) if watched else _NONE
        if len(fresh) == 0 and k <= LIST_LENGTH:
            return self._listed(row, k)
        rows, weights = _fold(*self._seen(row), fresh)
        scores = self._scores(rows, weights)
        best = _NONE if scores is None else best_rows(scores, k)
        if len(best) == 0:
            return self._general(rows, k)
        source = FOLDED_IN if row < 0 else PERSONAL
        return Recommendation(self._texts(self._fill(best, rows, k)), source)

    def trending(self, user_id: str, k: int = LIST_LENGTH) -> Recommendation:
        """Return the ``k`` movies most popular of late that this user has not seen."""
        return self._general(self._seen(self._users.row(user_id))[0], k)

    def popular(self, user_id: str, k: int = LIST_LENGTH) -> Recommendation:
        """Return the ``k`` movies most popular of all time that this user has not seen."""
        seen = self._seen(self._users.row(user_id))[0]
        return Recommendation(self._texts(self._fill(_NONE, seen, k, trending=False)), POPULAR)

    def predict(self, user_id: str, movie_id: str) -> float:
        """Return the rating this user would give, within the scale; see :meth:`predict_many`."""
        return float(self.predict_many([user_id], [movie_id])[0])

    def predict_many(self, user_ids: Sequence[str], movie_ids: Sequence[str]) -> Doubles:
        """Return a rating for each pair: mean + user bias + movie bias + factors, clipped to the scale.

        What is unknown counts as zero: an unknown user gets the movie's mean, an unknown pair the mean.
        """
        arrays = self._arrays
        users, movies = self._users.rows(user_ids), self._movies.rows(movie_ids)
        users[users >= len(arrays.svd_user_bias)] = -1
        rated, known = users >= 0, movies >= 0
        ratings = np.full(len(users), self.meta["mean"], dtype=np.float64)
        ratings[rated] += arrays.svd_user_bias[users[rated]]
        ratings[known] += arrays.svd_movie_bias[movies[known]]
        both = rated & known
        ratings[both] += np.einsum(
            "nf,nf->n", arrays.svd_user_factors[users[both]], arrays.svd_movie_factors[movies[both]]
        )
        low, high = self.meta["scale"]
        return np.clip(ratings, low, high)

    def _texts(self, rows: SomeRows) -> list[str]:
        names = self._names
        return [names[row] for row in rows.tolist()]

    def _fresh(self, row: int, watched: Sequence[str]) -> Small:
        """Return the rows, ascending, of what the user in this row watched and had not seen before."""
        known = {self._named[movie] for movie in watched if movie in self._named}
        known.difference_update(self._seen(row)[0].tolist())
        return np.array(sorted(known), dtype=np.int32)

    def _listed(self, row: int, k: int) -> Recommendation:
        """Return the list that was laid out for the user in this row, else what everybody gets."""
        listed = self._arrays.user_lists[row].tolist() if row >= 0 else [-1]
        if listed[0] < 0:
            return self._general(self._seen(row)[0], k)
        names = self._names
        return Recommendation([names[movie] for movie in listed[: max(0, k)] if movie >= 0], PERSONAL)

    def _seen(self, row: int) -> tuple[Small, Floats]:
        """Return movie rows, ascending, and weights of what the user in this row has seen; none for -1."""
        arrays = self._arrays
        part = slice(arrays.seen_indptr[row], arrays.seen_indptr[row + 1]) if row >= 0 else slice(0)
        return arrays.seen_indices[part], arrays.seen_weights[part]

    def _scores(self, rows: Small, weights: Floats) -> Doubles | None:
        """Return the score of each movie, 0 or less for what was seen; None if that says nothing at all."""
        arrays = self._arrays
        begins, ends = arrays.neighbour_indptr[rows], arrays.neighbour_indptr[rows + 1]
        if not (ends > begins).any():
            return None
        everybody = len(arrays.neighbour_indptr) - 2
        parts = [*zip(begins, ends, weights, strict=True)]
        parts.append((*arrays.neighbour_indptr[everybody : everybody + 2], np.float32(1)))
        indices = np.concatenate([arrays.neighbour_indices[begin:end] for begin, end, _ in parts])
        said = np.concatenate([arrays.neighbour_weights[begin:end] * weight for begin, end, weight in parts])
        scores: Doubles = np.bincount(indices, said, minlength=self.n_movies).astype(np.float64, copy=False)
        scores[rows] = 0.0
        return scores

    def _general(self, seen: Small, k: int) -> Recommendation:
        if len(seen) == 0 and k <= LIST_LENGTH:
            return Recommendation(self._for_strangers[: max(0, k)], self._general_source)
        return Recommendation(self._texts(self._fill(_NONE, seen, k)), self._general_source)

    def _fill(self, best: SomeRows, seen: Small, k: int, *, trending: bool = True) -> SomeRows:
        """Return ``best`` and, after it, what is trending and then popular, up to ``k`` unseen rows."""
        if len(best) >= k:
            return best
        wanted = max(0, k) + len(seen)
        lately = self._arrays.trending[: wanted + len(best)] if trending else _NONE
        ever = np.arange(min(self.n_movies, wanted + len(best) + len(lately)))
        rows = np.concatenate([best, lately, ever])
        _, first = np.unique(rows, return_index=True)
        rows = rows[np.sort(first)]
        return rows[~np.isin(rows, seen)][: max(0, k)]


_NONE = np.empty(0, dtype=np.int32)


def best_rows(scores: Doubles, k: int) -> Rows:
    """Return the rows of the ``k`` highest scores above zero, best first; the lower row wins a tie."""
    rows = np.flatnonzero(scores > 0)
    keys = sort_keys(scores[rows], rows)
    if len(keys) > k:
        keys = np.partition(keys, len(keys) - k)[len(keys) - k :] if k > 0 else keys[:0]
    return rows_of(np.sort(keys)[::-1])


def sort_keys(scores: Doubles, rows: SomeRows) -> Rows:
    """Return one number for each score and row: the higher score is greater, then the lower row."""
    steps = (scores * (1 / (EVIDENCE_GRID * NEIGHBOUR_GRID))).astype(np.int64)
    return steps * MAX_MOVIES + (MAX_MOVIES - 1 - rows)


def rows_of(keys: Rows) -> Rows:
    """Return the rows that went into ``keys``."""
    return MAX_MOVIES - 1 - keys % MAX_MOVIES


def _fold(rows: Small, weights: Floats, fresh: Small) -> tuple[Small, Floats]:
    """Return rows, ascending, and weights of what was seen before and, in ``fresh``, since the training."""
    together = np.concatenate([rows, fresh])
    counted = np.concatenate([weights, np.full(len(fresh), WATCHED_WEIGHT, dtype=np.float32)])
    order = np.argsort(together)
    return together[order], counted[order]
