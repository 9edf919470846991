"""Ratings become a model in a folder. Judging the recipe is ``evaluate``'s, admitting it is ``gate``'s."""

import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.data.batches import read_ratings, read_viewings
from pipelines.model import artifact, csvfile
from pipelines.model.evaluate import Evaluation, evaluate
from pipelines.model.recipe import Fitted, Progress, TrainConfig, find_scale, fit
from pipelines.model.recommender import Model

__all__ = ["TrainConfig", "evaluate_and_train", "load_ratings", "load_viewings", "train"]


def load_ratings(path: Path) -> pd.DataFrame:
    """Read ratings from a folder of batches, or a CSV with columns user_id, movie_id, rating, timestamp.

    Ids are any text without a comma; ``007`` stays ``007``. A user may have rated a movie several times.

    Returns:
        user_id (str), movie_id (str), rating (float32), timestamp (int64, unix seconds), in order of
        timestamp, user and movie.

    Raises:
        DataError: naming file and line of the first row that is not a rating.
    """
    if path.is_dir():
        return read_ratings(path)
    return csvfile.read(path).sort_values(["timestamp", "user_id", "movie_id"], ignore_index=True)


def load_viewings(path: Path) -> pd.DataFrame | None:
    """Read the viewings that belong to the ratings at ``path``; a CSV has none."""
    return read_viewings(path) if path.is_dir() else None


def train(
    ratings: pd.DataFrame,
    viewings: pd.DataFrame | None,
    out: Path,
    *,
    config: TrainConfig,
    scale: tuple[float, float] | None,
    judge: Evaluation | None,
    provenance: dict[str, Any],
    trained_on: datetime | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit on everything, write the model into ``out`` (replaced in one step), return its ``model.json``.

    Args:
        ratings: as from ``load_ratings``.
        viewings: rows of (user_id, movie_id) that were watched; None: there are none.
        out: folder of the model.
        config: seed and sizes.
        scale: lowest and highest rating there can be; None: those in the data.
        judge: what the recipe scored on the hold-out; becomes ``metrics``.
        provenance: where the data comes from, kept as it is.
        trained_on: time to note down; None: now. The only thing that differs between two equal trainings.
        progress: called with (epochs done, epochs in all).

    Raises:
        DataError: there are no ratings, or they leave the declared scale.
        ModelError: the fit ran away, or an id cannot be stored.
    """
    fitted = fit(ratings, viewings, config, find_scale(ratings, scale), progress)
    about = {
        "trained_on": (trained_on or datetime.now(UTC)).astimezone(UTC).isoformat(),
        "data_creation": datetime.fromtimestamp(int(ratings["timestamp"].max()), UTC).isoformat(),
        "metrics": judge.as_metrics() if judge else {},
        "seed": config.seed,
        "config": asdict(config),
        "ranker": fitted.ranker,
        "scale": list(fitted.scale),
        "mean": fitted.mean,
        "counts": _counts(fitted, ratings, viewings),
        "provenance": provenance,
        "libraries": _libraries(),
    }
    return artifact.save(out, fitted.arrays, about)


def evaluate_and_train(
    ratings: pd.DataFrame,
    viewings: pd.DataFrame | None,
    out: Path,
    *,
    config: TrainConfig,
    holdout_share: float,
    scale: tuple[float, float] | None,
    serving: Model | None,
    provenance: dict[str, Any],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score the recipe on a time-ordered hold-out, then fit it on everything into ``out``.

    The hold-out judges the recipe; what ships is the same recipe fitted on all ratings, the newest included.
    Arguments, result and errors are those of ``evaluate`` and ``train``; ``progress`` counts both's epochs.
    """
    evaluation = evaluate(
        ratings,
        viewings,
        config=config,
        holdout_share=holdout_share,
        serving=serving,
        scale=scale,
        progress=_one_of_two(0, progress),
    )
    return train(
        ratings,
        viewings,
        out,
        config=config,
        scale=scale,
        judge=evaluation,
        provenance=provenance,
        progress=_one_of_two(1, progress),
    )


def _one_of_two(which: int, progress: Progress | None) -> Progress | None:
    """Return what reports the epochs of the first (0) or second (1) fit as a part of both."""
    if progress is None:
        return None
    return lambda done, total: progress(which * total + done, 2 * total)


def _counts(fitted: Fitted, ratings: pd.DataFrame, viewings: pd.DataFrame | None) -> dict[str, int]:
    arrays = fitted.arrays
    return {
        "users": len(arrays.user_ids),
        "raters": len(arrays.svd_user_bias),
        "movies": len(arrays.movie_ids),
        "ratings": len(ratings),
        "viewings": 0 if viewings is None else len(viewings),
        "interactions": len(arrays.seen_indices),
        "neighbours": len(arrays.neighbour_indices),
    }


def _libraries() -> dict[str, str]:
    names = ("numpy", "pandas", "scikit-surprise", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
