"""A model of any size with random contents, laid out as a training would: for benchmarks of serving."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from pipelines.model.arrays import EVIDENCE_GRID, NEIGHBOUR_GRID, Arrays
from pipelines.model.artifact import save
from pipelines.model.ids import id_table
from pipelines.model.lists import lay_out

MOVIES_A_USER = 10
NEIGHBOURS = 200
TRENDING = 1_000
SVD_FACTORS = 50
_STREAM_SKEW = 7.7
"""The most popular twenty of 27,000 movies have 39 %, as in the stream."""


def synthetic_model(folder: Path, users: int, movies: int, seed: int) -> dict[str, Any]:
    """Write version 1 into ``folder`` and return its ``model.json``.

    Users are ``1`` to ``users``; each has seen up to `MOVIES_A_USER` movies, and every movie says something
    about up to `NEIGHBOURS` others.
    """
    draw = np.random.default_rng(seed)
    seen = _matrix(draw, (users, movies), MOVIES_A_USER, skew=_STREAM_SKEW, grid=EVIDENCE_GRID)
    neighbours = _matrix(draw, (movies + 1, movies), NEIGHBOURS, skew=2.0, grid=NEIGHBOUR_GRID)
    neighbours.setdiag(0)
    neighbours.eliminate_zeros()
    trending = draw.permutation(min(TRENDING, movies)).astype(np.int32)
    user_ids, user_order = id_table(str(user) for user in draw.permutation(users) + 1)
    movie_ids, movie_order = id_table(
        f"a+movie+of+the+catalogue+{row:05}+{1950 + row % 70}" for row in range(movies)
    )
    arrays = Arrays(
        user_ids=user_ids,
        user_order=user_order,
        user_lists=lay_out(seen, neighbours, trending),
        movie_ids=movie_ids,
        movie_order=movie_order,
        trending=trending,
        seen_indptr=seen.indptr.astype(np.int64),
        seen_indices=seen.indices.astype(np.int32),
        seen_weights=seen.data.astype(np.float32),
        neighbour_indptr=neighbours.indptr.astype(np.int64),
        neighbour_indices=neighbours.indices.astype(np.int32),
        neighbour_weights=neighbours.data.astype(np.float32),
        svd_user_bias=draw.normal(0, 0.3, users).astype(np.float32),
        svd_user_factors=draw.normal(0, 0.1, (users, SVD_FACTORS)).astype(np.float32),
        svd_movie_bias=draw.normal(0, 0.3, movies).astype(np.float32),
        svd_movie_factors=draw.normal(0, 0.1, (movies, SVD_FACTORS)).astype(np.float32),
    )
    return save(folder, arrays, {"version": 1, "scale": [1, 5], "mean": 3.5})


def _matrix(
    draw: np.random.Generator, shape: tuple[int, int], each: int, *, skew: float, grid: float
) -> csr_matrix:
    """Return up to ``each`` weights a row, in steps of ``grid``; a higher ``skew`` means more to the left."""
    columns = (shape[1] * draw.random((shape[0], each), dtype=np.float32) ** skew).astype(np.int32)
    columns.sort(axis=1)
    new = np.ones(columns.shape, dtype=bool)
    new[:, 1:] = columns[:, 1:] != columns[:, :-1]
    indptr = np.concatenate([[0], np.cumsum(new.sum(axis=1))])
    weights = draw.integers(1, 32, indptr[-1], endpoint=True) * grid
    return csr_matrix((weights, columns[new], indptr), shape=shape)


def main() -> None:
    """Write a model as the arguments say: folder, users, movies, seed."""
    folder, *numbers = sys.argv[1:]
    synthetic_model(Path(folder), *map(int, numbers))


if __name__ == "__main__":
    main()
