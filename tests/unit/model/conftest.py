"""Ratings with an obvious right answer, and short ways to make more of them.

The fixtures hold nothing, so they last the session and may be used in properties.
"""

import numpy as np
import pandas as pd
import pytest

from pipelines.model.arrays import Arrays
from pipelines.model.ids import id_table
from pipelines.model.recipe import TrainConfig, find_scale, fit
from pipelines.model.recommender import Model


def _ratings(rows):
    timed = [row if len(row) == 4 else (*row, 1_000 + place) for place, row in enumerate(rows)]
    columns = {"user_id": "str", "movie_id": "str", "rating": "float32", "timestamp": "int64"}
    return pd.DataFrame(timed, columns=list(columns)).astype(columns)


def _viewings(rows):
    timed = [row if len(row) == 3 else (*row, 1_000 + place) for place, row in enumerate(rows)]
    columns = {"user_id": "str", "movie_id": "str", "timestamp": "int64"}
    return pd.DataFrame(timed, columns=list(columns)).astype(columns).assign(minutes=30)


def _model(ratings, viewings=None, *, epochs=2, seed=20):
    config = TrainConfig(seed=seed, svd_factors=3, svd_epochs=epochs, trending_half_life_days=2.0)
    fitted = fit(ratings, viewings, config, find_scale(ratings, None))
    about = {
        "version": None,
        "scale": fitted.scale,
        "mean": fitted.mean,
        "data_creation": "1970-01-01T00:00+00:00",
    }
    return Model(about, fitted.arrays)


@pytest.fixture(scope="session")
def make_ratings():
    """Rows of (user, movie, rating) or (user, movie, rating, timestamp) to a frame."""
    return _ratings


@pytest.fixture(scope="session")
def make_viewings():
    """Rows of (user, movie) or (user, movie, timestamp) to a frame."""
    return _viewings


@pytest.fixture(scope="session")
def make_model():
    """Ratings and viewings to a model in memory."""
    return _model


@pytest.fixture(scope="session")
def config():
    return TrainConfig(seed=20, svd_factors=3, svd_epochs=2, trending_half_life_days=2.0)


@pytest.fixture(scope="session")
def two_camps():
    """Even users rate even movies with 5, odd users odd ones with 2; but u0 not m0, and u1 not m1."""
    return _ratings(
        [
            (f"u{user}", f"m{movie}", 2.0 if user % 2 else 5.0)
            for user in range(6)
            for movie in range(8)
            if user % 2 == movie % 2 and (user, movie) not in ((0, 0), (1, 1))
        ]
    )


# Three users, four movies (most popular first), one latent factor. Only u1 rated; u1 saw "a", u2 all.
# Of late "d" is most popular, and everybody says a little for "b".
_FOUR_MOVIES = Arrays(
    *id_table(["u1", "ü2", "007"]),
    np.array([[2, 1, 3] + [-1] * 17, [-1] * 20, [-1] * 20], dtype=np.int32),
    *id_table(["a", "b", "c", "d"]),
    trending=np.array([3, 0], dtype=np.int32),
    seen_indptr=np.array([0, 1, 5, 5]),
    seen_indices=np.array([0, 0, 1, 2, 3], dtype=np.int32),
    seen_weights=np.array([1, 1, 1, 1, 1], dtype=np.float32),
    neighbour_indptr=np.array([0, 3, 3, 4, 5, 6]),
    neighbour_indices=np.array([1, 2, 3, 0, 2, 1], dtype=np.int32),
    neighbour_weights=np.array([0.25, 0.5, 0.25, 0.5, -0.25, 0.125], dtype=np.float32),
    svd_user_bias=np.array([0.5], dtype=np.float32),
    svd_user_factors=np.array([[1, 2]], dtype=np.float32),
    svd_movie_bias=np.array([0.25, -0.25, 0, 0], dtype=np.float32),
    svd_movie_factors=np.array([[0.25, 0.125], [0, 0], [9, 9], [-9, -9]], dtype=np.float32),
)


@pytest.fixture(scope="session")
def arrays():
    """The arrays of a model of four movies whose lists can be told by hand."""
    return _FOUR_MOVIES
