"""The recipe: ratings and viewings in, the arrays of a model out. The gate judges it, the refit ships it.

A version holds two things: scikit-surprise's SVD, which predicts ratings and carries the RMSE, and a ranker,
which makes the lists, because a rating predictor ranks worse than plain popularity.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipelines.errors import DataError
from pipelines.model import evidence, predictor, ranker
from pipelines.model.arrays import Arrays
from pipelines.model.ids import id_table
from pipelines.model.lists import lay_out
from pipelines.model.predictor import Progress
from pipelines.model.rows import Numbered, number

__all__ = ["Fitted", "Progress", "TrainConfig", "find_scale", "fit"]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What training may vary; the rest is the data."""

    seed: int
    svd_factors: int
    svd_epochs: int
    trending_half_life_days: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model in memory, before it has a name."""

    arrays: Arrays
    mean: float
    """Mean of all ratings, rating units."""
    scale: tuple[float, float]
    """Lowest and highest rating there can be."""
    ranker: dict[str, float | None]
    """What the ranker's tuning chose, see ``ranker.Ranker.chosen``."""


def find_scale(ratings: pd.DataFrame, declared: tuple[float, float] | None) -> tuple[float, float]:
    """Return the declared rating scale, or the one found in the data when none is declared.

    Raises:
        DataError: there are no ratings, or one lies outside the declared scale.
    """
    if ratings.empty:
        raise DataError("there are no ratings to train on; collect some first, or name a ratings file")
    low, high = float(ratings["rating"].min()), float(ratings["rating"].max())
    if declared is None:
        return low, high
    # Ratings are float32: 3.3 among them is a little less than the 3.3 that was declared.
    if low < np.float32(declared[0]) or high > np.float32(declared[1]):
        raise DataError(
            f"ratings go from {low:g} to {high:g}, declared is {declared[0]:g} to {declared[1]:g}; "
            "correct the ratings or declare their true scale"
        )
    return declared


def fit(
    ratings: pd.DataFrame,
    viewings: pd.DataFrame | None,
    config: TrainConfig,
    scale: tuple[float, float],
    progress: Progress | None = None,
) -> Fitted:
    """Fit both halves; the same input and seed give the same bytes.

    ``ratings``: rows of (user_id, movie_id, rating, timestamp) in the order of time, the last of a user and
    movie counts; ``viewings``: rows of (user_id, movie_id, minutes, timestamp), may be None. ``progress``
    counts epochs of the rating predictor.
    """
    # Here and not where they are read: a hold-out must not take the older opinion from those before it.
    numbered = number(ratings, viewings)
    values = ratings["rating"].to_numpy(dtype=np.float64)[numbered.last]
    user_ids, user_order = id_table(numbered.user_ids)
    movie_ids, movie_order = id_table(numbered.movie_ids)
    predicting = predictor.fit(
        predictor.Ratings(numbered.rated.users, numbered.rated.movies, values),
        len(movie_ids),
        factors=config.svd_factors,
        epochs=config.svd_epochs,
        seed=config.seed,
        scale=scale,
        progress=progress,
    )
    seen, mean = _evidence(ratings, viewings, numbered, scale), float(values.mean())
    # 300 MB of ten million ratings, which the ranker has use for.
    del numbered, values
    ranked = ranker.fit(seen, half_life_days=config.trending_half_life_days, seed=config.seed)
    arrays = Arrays(
        user_ids=user_ids,
        user_order=user_order,
        user_lists=lay_out(seen.matrix, ranked.neighbours, ranked.trending),
        movie_ids=movie_ids,
        movie_order=movie_order,
        trending=ranked.trending,
        seen_indptr=seen.matrix.indptr.astype(np.int64),
        seen_indices=seen.matrix.indices.astype(np.int32),
        seen_weights=seen.matrix.data,
        neighbour_indptr=ranked.neighbours.indptr.astype(np.int64),
        neighbour_indices=ranked.neighbours.indices.astype(np.int32),
        neighbour_weights=ranked.neighbours.data.astype(np.float32),
        **predicting,
    )
    return Fitted(arrays, mean=mean, scale=scale, ranker=ranked.chosen)


def _evidence(
    ratings: pd.DataFrame, viewings: pd.DataFrame | None, numbered: Numbered, scale: tuple[float, float]
) -> evidence.Evidence:
    rated, watched = numbered.rated, numbered.watched
    last = ratings[["rating", "timestamp"]].iloc[numbered.last]
    parts = [
        evidence.Part(
            rated.users,
            rated.movies,
            evidence.rating_weights(last["rating"].to_numpy(), scale),
            last["timestamp"].to_numpy(),
        )
    ]
    if viewings is not None:
        parts.append(
            evidence.Part(
                watched.users,
                watched.movies,
                evidence.viewing_weights(viewings["minutes"].to_numpy()),
                viewings["timestamp"].to_numpy(),
            )
        )
    return evidence.gather(parts, (len(numbered.user_ids), len(numbered.movie_ids)))
