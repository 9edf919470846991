"""The ranker: what each movie says about the others, learned from who watched what.

EASE (Steck: "Embarrassingly shallow autoencoders for sparse data", WWW 2019): with G the movies x movies
matrix of co-occurrence and P = (G + lambda I)^-1, movie i says ``-P[i, j] / P[j, j]`` about movie j; a score
is the sum over the movies a user has seen. Changed for a stream of a million users and 27,000 movies:

- Users count 1 / (weight of all they saw)^0.5 in G, so that those who see much do not decide for all; who has
  seen thousands of movies is no viewer and counts nothing.
- P is taken of the movies most seen, and only they are spoken for; what a rarer movie says of them is the
  first term of the same inverse, G[i, j] / (G[i, i] + lambda).
- Each movie keeps its strongest neighbours only, so many that artifact and lists stay small.
- What is popular of late is added with a weight of its own ("everybody's" row): it decides for users who
  have seen one thing, and hardly matters for those who have seen a hundred.

Lambda and that weight are chosen at every training, on the newest views of a part of the users, which are
held out for it; they come from the training's data only.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.sparse import csr_matrix, vstack

from pipelines.errors import ModelError
from pipelines.model.arrays import MAX_MOVIES, NEIGHBOUR_GRID, Doubles, Small
from pipelines.model.evidence import Evidence
from pipelines.model.ids import Rows
from pipelines.model.lists import lay_out

DAY_S = 86_400.0

_ACTIVITY = 0.5
"""A user who saw n movies counts n ** -_ACTIVITY."""
_SEEN_TOO_MUCH = 5_000
"""Movies from which on a user counts nothing: one who saw all 27,000 would fill 700 million cells of G."""
_INVERTED = 4_000
"""Most movies that P is taken of: 0.1 GB and some seconds each time."""
_INVERTED_ANYWAY = 1_000
"""So many are, however few have seen them."""
_SEEN_ENOUGH = 10
"""Viewers from which on all movies are."""
_MOST_NEIGHBOURS = 5_400_000
"""Numbers in all, 43 MB."""
_AT_ONCE = 512
"""Rows of movies x movies that are worked on at a time, for the sake of memory."""
_MOST_PRODUCTS = 1_200_000_000
"""Products of evidence and neighbour when all lists are laid out: some half a minute."""
_EVERYBODY = 200
"""Movies in everybody's row."""
_TRENDING_PRIOR = 20.0
"""So many views, spread as all views ever, are added to those of late, which may be few."""
RANKED = 10
"""Length of the lists that the tuning looks at."""
_TUNED_USERS = 2_000
_HELD_OUT = 0.2
"""Share of a tuned user's views, newest first."""
_LAMBDAS = (30.0, 10.0)
_POPULARITIES = (2.0**-12, 2.0**-6, 2.0**-4, 2.0**-2, 1.0, 8.0)


@dataclass(frozen=True, slots=True)
class Ranker:
    """What lists are made from, and how it was chosen."""

    neighbours: csr_matrix
    """(movies + 1) x movies, multiples of NEIGHBOUR_GRID; the last row is everybody's."""
    trending: Small
    """Movie rows, the most popular of late first."""
    chosen: dict[str, float | None]
    """``lambda``, ``popularity`` (weight of everybody's row) and ``validation_ndcg_at_10``; the last is None
    where no user has seen two movies, so that there was nothing to tune on."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """Users for tuning: what they saw before, and what came then."""

    before: csr_matrix
    after: csr_matrix


def fit(evidence: Evidence, *, half_life_days: float, seed: int) -> Ranker:
    """Learn from all of ``evidence``, with movies in order of popularity.

    ``half_life_days``: age at which a view counts half for what is popular of late.

    Raises:
        ModelError: there are more movies than a list can be sorted of.
    """
    if evidence.matrix.shape[1] >= MAX_MOVIES:
        raise ModelError(
            f"{evidence.matrix.shape[1]} movies are too many, fewer than {MAX_MOVIES} can be ranked; "
            "look for random ids among them"
        )
    strength, popularity, score = _tune(evidence, half_life_days, np.random.default_rng(seed))
    lately = _lately(evidence, half_life_days)
    neighbours = _with_everybody(_Gram(evidence.matrix).neighbours(strength), lately, popularity)
    validated = None if math.isnan(score) else score
    chosen = {"lambda": strength, "popularity": popularity, "validation_ndcg_at_10": validated}
    return Ranker(neighbours, _in_order(lately), chosen)


def _tune(evidence: Evidence, half_life_days: float, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return lambda, weight of popularity, and the nDCG@10 they had on what was held out; NaN for nothing."""
    known, held = _hold_out(evidence, rng)
    lately = _lately(known, half_life_days)
    trending = _in_order(lately)
    gram = _Gram(known.matrix)

    def score(neighbours: csr_matrix, popularity: float) -> float:
        complete = _with_everybody(neighbours, lately, popularity)
        return _ndcg(lay_out(held.before, complete, trending, RANKED), held.after)

    # One after the other: how much popularity counts depends little on lambda.
    said = {strength: gram.neighbours(strength) for strength in _LAMBDAS}
    strength = max(said, key=lambda value: score(said[value], _POPULARITIES[0]))
    scores = {popularity: score(said[strength], popularity) for popularity in _POPULARITIES}
    popularity = max(scores, key=scores.__getitem__)
    return strength, popularity, scores[popularity]


def _hold_out(evidence: Evidence, rng: np.random.Generator) -> tuple[Evidence, _Slice]:
    """Take the newest views from some users who have two or more; return what remains, and the slice."""
    matrix = evidence.matrix
    counts = np.diff(matrix.indptr)
    users = np.flatnonzero(counts >= 2)
    if len(users) > _TUNED_USERS:
        users = np.sort(rng.choice(users, _TUNED_USERS, replace=False))
    owners = np.repeat(users, counts[users])
    entries = np.concatenate([np.arange(*matrix.indptr[user : user + 2]) for user in users] or [users])
    order = np.lexsort((-evidence.times[entries], owners))
    begins = np.cumsum(counts[users]) - counts[users]
    place = np.arange(len(entries)) - np.repeat(begins, counts[users])
    taken = entries[order][place < np.maximum(1, np.rint(_HELD_OUT * counts[owners]))]
    keep = np.ones(matrix.nnz, dtype=bool)
    keep[taken] = False
    before, after = _only(matrix, keep), _only(matrix, ~keep)
    return Evidence(before, evidence.times[keep]), _Slice(before[users], after[users])


def _only(matrix: csr_matrix, keep: Rows) -> csr_matrix:
    indptr = np.concatenate([[0], np.cumsum(keep)])[matrix.indptr]
    return csr_matrix((matrix.data[keep], matrix.indices[keep], indptr), shape=matrix.shape)


def _ndcg(lists: Small, after: csr_matrix) -> float:
    """Return the mean nDCG of the lists; NaN when there is none."""
    if not len(lists):
        return float("nan")
    gains = 1 / np.log2(np.arange(2, lists.shape[1] + 2))
    users = np.arange(len(lists))[:, np.newaxis]
    hits = (np.asarray(after[users, np.maximum(lists, 0)].todense()) > 0) & (lists >= 0)
    possible = np.cumsum(gains)[np.minimum(np.diff(after.indptr), lists.shape[1]) - 1]
    return float(((hits @ gains) / possible).mean())


class _Gram:
    """Co-occurrence of movies, from which the neighbours follow for any lambda."""

    def __init__(self, matrix: csr_matrix) -> None:
        activity = np.asarray(matrix.sum(axis=1)).ravel()
        shares = np.maximum(activity, 1e-9) ** (-_ACTIVITY / 2)
        shares[np.diff(matrix.indptr) >= _SEEN_TOO_MUCH] = 0.0
        counted = csr_matrix(matrix.multiply(shares[:, np.newaxis]))
        counted.eliminate_zeros()
        n_seen = int((np.bincount(matrix.indices) >= _SEEN_ENOUGH).sum())
        n_head = min(_INVERTED, max(_INVERTED_ANYWAY, n_seen))
        head, tail = counted[:, :n_head], counted[:, n_head:]
        self._shape = (matrix.shape[1], matrix.shape[1])
        self._most = max(1, min(_MOST_NEIGHBOURS // matrix.shape[1], _MOST_PRODUCTS // max(1, matrix.nnz)))
        self._head: Doubles = (head.T @ head).toarray()
        # A row keeps its order whatever lambda is.
        self._tail = _strongest((tail.T @ head).tocsr(), self._most)
        self._tail_size = np.asarray(tail.power(2).sum(axis=0)).ravel()

    def neighbours(self, strength: float) -> csr_matrix:
        """Return movies x movies: what each says of the others, its strongest neighbours only."""
        damped = np.array(self._head, order="F")
        damped[np.diag_indices_from(damped)] += strength
        inverse = _inverse(damped)
        said = inverse / -np.diag(inverse)
        np.fill_diagonal(said, 0.0)
        rarer = csr_matrix(self._tail.multiply((1 / (self._tail_size + strength))[:, np.newaxis]))
        rows = vstack([_strongest(_on_grid(csr_matrix(said)), self._most), _on_grid(rarer)], format="csr")
        rows.resize(self._shape)
        return rows


def _inverse(positive: Doubles) -> Doubles:
    """Return the inverse of a symmetric positive matrix (Fortran order, overwritten)."""
    factor, failed = dpotrf(positive, lower=True, overwrite_a=True)
    inverse, failed_too = dpotri(factor, lower=True, overwrite_c=True)
    assert not failed
    assert not failed_too
    for begin in range(0, len(inverse), _AT_ONCE):
        end = begin + _AT_ONCE
        corner = np.tril(inverse[begin:end, begin:end])
        inverse[begin:end, begin:end] = corner + np.tril(corner, -1).T
        inverse[begin:end, end:] = inverse[end:, begin:end].T
    whole: Doubles = inverse
    return whole


def _strongest(said: csr_matrix, most: int) -> csr_matrix:
    """Return each row's ``most`` numbers of greatest size."""
    if said.shape[1] <= most:
        return said
    parts = []
    for begin in range(0, said.shape[0], _AT_ONCE):
        part = said[begin : begin + _AT_ONCE].toarray()
        strength = np.abs(part)
        limits = np.partition(strength, -most, axis=1)[:, -most]
        parts.append(csr_matrix(np.where(strength < limits[:, np.newaxis], 0.0, part)))
    return vstack(parts, format="csr") if parts else said


def _on_grid(said: csr_matrix) -> csr_matrix:
    said.data = np.rint(said.data / NEIGHBOUR_GRID) * NEIGHBOUR_GRID
    said.eliminate_zeros()
    said.sort_indices()
    return said


def _lately(evidence: Evidence, half_life_days: float) -> Doubles:
    """Return for each movie its views of late, as share of the first one's; a view fades with its age."""
    movies, times = evidence.matrix.indices, evidence.times
    n_movies = evidence.matrix.shape[1]
    age_s = times.max(initial=0) - times
    fresh = np.bincount(movies, 0.5 ** (age_s / (half_life_days * DAY_S)), minlength=n_movies)
    views = np.bincount(movies, minlength=n_movies)
    together = fresh + _TRENDING_PRIOR * views / max(1, views.sum())
    # Rounded: the last bits of a sum depend on its order.
    lately: Doubles = np.round(together / together.max(initial=1e-9), 9)
    return lately


def _in_order(lately: Doubles) -> Small:
    return np.argsort(-lately, kind="stable").astype(np.int32)


def _with_everybody(neighbours: csr_matrix, lately: Doubles, popularity: float) -> csr_matrix:
    top = _in_order(lately)[:_EVERYBODY]
    row = np.zeros((1, len(lately)))
    row[0, top] = lately[top] * popularity
    return vstack([neighbours, _on_grid(csr_matrix(row))], format="csr")
