"""What users rated and watched, as one weighted matrix: the evidence that lists are ranked by.

A rating is evidence whatever it says: who rates has chosen to watch. The best rating weighs 1, the worst 0.6.
A viewing of m minutes weighs m / (m + 10): one minute 0.1, ten 0.5, a whole film 0.9; who leaves early has
not liked it. Of a pair that was both rated and watched, the stronger evidence counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from pipelines.model.arrays import EVIDENCE_GRID, Floats
from pipelines.model.ids import Rows

_WORST_RATING = 0.6
_HALF_MINUTES = 10.0


@dataclass(frozen=True, slots=True)
class Part:
    """Evidence of one kind, a row for each (user, movie, time); pairs may repeat."""

    users: Rows
    movies: Rows
    weights: Floats
    """(0, 1], multiples of EVIDENCE_GRID."""
    times: Rows
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Each (user, movie) once."""

    matrix: csr_matrix
    """Users x movies, float32 weights, columns ascending."""
    times: Rows
    """Unix seconds of the newest evidence, aligned with ``matrix.data``."""


def rating_weights(ratings: npt.NDArray[np.floating[Any]], scale: tuple[float, float]) -> Floats:
    """Return what ratings (rating units) on a scale of (lowest, highest) weigh."""
    low, high = scale
    share = (ratings - low) / ((high - low) or 1.0)
    return _on_grid(_WORST_RATING + (1 - _WORST_RATING) * share)


def viewing_weights(minutes: npt.NDArray[np.integer[Any]]) -> Floats:
    """Return what viewings of so many distinct minutes weigh."""
    watched = np.maximum(minutes, 1)
    return _on_grid(watched / (watched + _HALF_MINUTES))


def _on_grid(weights: npt.NDArray[np.floating[Any]]) -> Floats:
    steps = np.rint(np.clip(weights, 0.0, 1.0) / EVIDENCE_GRID)
    on_grid: Floats = (np.maximum(steps, 1.0) * EVIDENCE_GRID).astype(np.float32)
    return on_grid


def gather(parts: Sequence[Part], shape: tuple[int, int]) -> Evidence:
    """Put parts together: of each pair the greatest weight and the newest time; ``shape``: users, movies."""
    n_users, n_movies = shape
    keys = np.concatenate([part.users * n_movies + part.movies for part in parts])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    begins = np.flatnonzero(np.diff(keys, prepend=-1))
    weights = np.maximum.reduceat(np.concatenate([part.weights for part in parts])[order], begins)
    times = np.maximum.reduceat(np.concatenate([part.times for part in parts])[order], begins)
    users, movies = np.divmod(keys[begins], n_movies)
    indptr = np.searchsorted(users, np.arange(n_users + 1))
    return Evidence(csr_matrix((weights, movies, indptr), shape=shape), times)
