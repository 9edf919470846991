import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array

from pipelines.model import lists
from pipelines.model.arrays import EVIDENCE_GRID, NEIGHBOUR_GRID, Arrays
from pipelines.model.ids import id_table
from pipelines.model.lists import lay_out
from pipelines.model.recommender import Model

NO_ROWS = np.empty(0, dtype=np.int32)


def drawn(shape, density, rng, grid, lowest):
    matrix = random_array(shape, density=density, rng=rng, format="csr")
    matrix.data = np.rint(rng.uniform(lowest, 1, matrix.nnz) / grid) * grid
    matrix = csr_matrix(matrix)
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix


def model_of(seen, neighbours, trending):
    """The same numbers behind the model that answers one user after the other."""
    n_users, n_movies = seen.shape
    arrays = Arrays(
        *id_table(f"u{row}" for row in range(n_users)),
        lay_out(seen, neighbours, trending),
        *id_table(f"m{row}" for row in range(n_movies)),
        trending=trending,
        seen_indptr=seen.indptr.astype(np.int64),
        seen_indices=seen.indices,
        seen_weights=seen.data.astype(np.float32),
        neighbour_indptr=neighbours.indptr.astype(np.int64),
        neighbour_indices=neighbours.indices,
        neighbour_weights=neighbours.data.astype(np.float32),
        svd_user_bias=np.zeros(0, np.float32),
        svd_user_factors=np.zeros((0, 1), np.float32),
        svd_movie_bias=np.zeros(n_movies, np.float32),
        svd_movie_factors=np.zeros((n_movies, 1), np.float32),
    )
    return Model({"version": 1, "scale": [1, 5], "mean": 3.0}, arrays)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 60),
    st.floats(0, 0.6),
    st.floats(0, 0.9),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_a_list_laid_out_is_the_list_computed(n_users, n_movies, seen_density, said_density, trends, seed):
    rng = np.random.default_rng(seed)
    seen = drawn((n_users, n_movies), seen_density, rng, EVIDENCE_GRID, EVIDENCE_GRID)
    neighbours = drawn((n_movies + 1, n_movies), said_density, rng, NEIGHBOUR_GRID, -0.5)
    neighbours.setdiag(0.0)
    neighbours.eliminate_zeros()
    trending = rng.permutation(n_movies).astype(np.int32) if trends else NO_ROWS
    model = model_of(seen, neighbours, trending)
    for row in range(n_users):
        longer = model.recommend(f"u{row}", 21)
        assert model.recommend(f"u{row}", 20).movie_ids == longer.movie_ids[:20]
        assert model.recommend(f"u{row}", 20).source == longer.source


def test_parts_of_any_size_give_the_same_lists(monkeypatch):
    rng = np.random.default_rng(3)
    seen = drawn((200, 50), 0.1, rng, EVIDENCE_GRID, EVIDENCE_GRID)
    neighbours = drawn((51, 50), 0.3, rng, NEIGHBOUR_GRID, -0.5)
    whole = lay_out(seen, neighbours, NO_ROWS)
    monkeypatch.setattr(lists, "_PRODUCTS_AT_ONCE", 100)
    assert lay_out(seen, neighbours, NO_ROWS).tolist() == whole.tolist()


def test_seen_movies_are_left_out_and_the_trending_complete_the_list():
    seen = csr_matrix([[1.0, 0, 0, 0], [0, 0, 0, 1.0]])
    # The first movie speaks for the third; nobody else says anything.
    neighbours = csr_matrix(([0.5], ([0], [2])), shape=(5, 4))
    assert lay_out(seen, neighbours, np.array([3, 0], np.int32), 4).tolist() == [[2, 3, 1, -1], [-1] * 4]


@pytest.mark.parametrize("shape", [(0, 3), (2, 3)])
def test_no_users_or_nothing_seen_give_no_lists(shape):
    assert (lay_out(csr_matrix(shape), csr_matrix((4, 3)), NO_ROWS) == -1).all()
