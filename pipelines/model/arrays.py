"""The numbers of a model, as training writes them and serving reads them.

Rows of the arrays are the inner ids. Users who rated come first, so that the factors of the rating
predictor cover rows ``0 .. n_raters - 1`` only. Movies are in order of all-time popularity: a movie's row
*is* its popularity rank, and the lower row wins every tie.

What lists are made from lies on grids so coarse that every sum of it is exact in a double: however the sum
is formed, for one user or for a million, on this machine or another, the list is the same.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.model.ids import Bytes, Rows

LIST_LENGTH = 20
"""Length of the lists that are laid out for every user."""

EVIDENCE_GRID = 2.0**-5
"""Step of the evidence weights, which lie in (0, 1]."""
NEIGHBOUR_GRID = 2.0**-16
"""Step of what one movie says about another."""
WATCHED_WEIGHT = 1.0
"""Evidence of a movie watched since the training; for how many minutes is not known yet."""
MAX_MOVIES = 2**20
"""Most movies, so that score and row fit into one number."""

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Small = npt.NDArray[np.int32]
SomeRows = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Arrays:
    """The numbers of a model; each field is one file ``<field>.npy``."""

    user_ids: Bytes
    """(n_users,) UTF-8, fixed width."""
    user_order: Rows
    """(n_users,) rows that sort ``user_ids``."""
    user_lists: Small
    """(n_users, LIST_LENGTH) movie rows, best first; -1 from where the user has seen all there is. A row
    that begins with -1 holds no personal list: nothing that user has seen says anything."""
    movie_ids: Bytes
    """(n_movies,) UTF-8, fixed width, most popular first."""
    movie_order: Rows
    """(n_movies,) rows that sort ``movie_ids``."""
    trending: Small
    """(at most n_movies,) movie rows, the most popular of late first."""
    seen_indptr: Rows
    """(n_users + 1,) where each user's part of ``seen_indices`` begins."""
    seen_indices: Small
    """Movie rows that the users rated or watched, ascending for each user."""
    seen_weights: Floats
    """How strong the evidence of each is, multiples of EVIDENCE_GRID."""
    neighbour_indptr: Rows
    """(n_movies + 2,) where each movie's part of ``neighbour_indices`` begins; the last is everybody's."""
    neighbour_indices: Small
    """Movie rows that a movie says something about, ascending for each movie, never itself."""
    neighbour_weights: Floats
    """What it says, multiples of NEIGHBOUR_GRID."""
    svd_user_bias: Floats
    """(n_raters,) rating units."""
    svd_user_factors: Floats
    """(n_raters, svd_factors)."""
    svd_movie_bias: Floats
    """(n_movies,) rating units; 0 for a movie nobody rated."""
    svd_movie_factors: Floats
    """(n_movies, svd_factors); 0 for a movie nobody rated."""
