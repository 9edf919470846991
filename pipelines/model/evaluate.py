"""How good is the recipe? Fitted on older ratings, it is scored on the newest, beside the serving model."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.model.ranking import Ranking, rank
from pipelines.model.recipe import Progress, TrainConfig, find_scale, fit
from pipelines.model.recommender import Model

_PAIRS_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What the recipe scored. RMSE in rating units; NaN where there was nothing to score."""

    rmse: float = math.nan
    """Of the recipe, over all held-out ratings; what it does not know it answers with biases and the mean."""
    serving_rmse: float | None = None
    """Of the serving model on the same ratings; None: nothing serves."""
    serving_version: int | None = None
    baseline_rmse: float = math.nan
    """Of the movie's mean rating (mean of all for a new movie) on the same ratings."""
    n_fit: int = 0
    n_holdout: int = 0
    n_unknown_user: int = 0
    """Held-out ratings by users who rated nothing before."""
    n_unknown_movie: int = 0
    """Held-out ratings of movies nobody rated before."""
    holdout_from: int | None = None
    """Unix seconds of the oldest held-out rating; None: there is none."""
    ranking: Ranking = field(default_factory=Ranking)
    """Of the lists, on what users rated or watched in the time of the hold-out."""

    def as_metrics(self) -> dict[str, float | int | None]:
        """Return all figures, those of the ranking beside the others, for JSON: None stands in for NaN."""
        figures = asdict(self)
        return _without_nan(figures | figures.pop("ranking"))

    @classmethod
    def of_metrics(cls, metrics: Mapping[str, float | int | None]) -> "Evaluation":
        """Read back what :meth:`as_metrics` gave, or gave before it knew all of today's figures.

        A figure that is missing or None is the default: NaN, unless it is the serving model's.
        """
        evaluation = cls(ranking=Ranking(**_given(Ranking, metrics)), **_given(cls, metrics))
        if evaluation.serving_version is not None and evaluation.serving_rmse is None:
            return replace(evaluation, serving_rmse=math.nan)
        return evaluation


def split_by_time(
    ratings: pd.DataFrame, share: float, not_before: int | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (fit, holdout): ``holdout`` is the newest ``share`` of the ratings.

    It holds nothing as old as ``not_before`` (unix seconds: the newest rating that the serving model was
    trained on) or older, so that the serving model has not seen it either. Ratings of the same second stay
    in their order; both parts are views where the ratings came in the order of time.
    """
    in_order = ratings["timestamp"].is_monotonic_increasing
    ordered = ratings if in_order else ratings.sort_values("timestamp", kind="stable", ignore_index=True)
    cut = len(ordered) - int(len(ordered) * share)
    if not_before is not None:
        cut = max(cut, int(ordered["timestamp"].searchsorted(not_before, side="right")))
    return ordered.iloc[:cut], ordered.iloc[cut:]


def evaluate(
    ratings: pd.DataFrame,
    viewings: pd.DataFrame | None,
    *,
    config: TrainConfig,
    holdout_share: float,
    serving: Model | None,
    scale: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Fit the recipe on the older ratings and score it, and the serving model, on the same newest ones.

    Args:
        ratings: as from ``load_ratings``.
        viewings: as from ``load_viewings``; those from the time of the hold-out are held out with it.
        config: the recipe's seed and sizes.
        holdout_share: share of the ratings, newest first, that is held out.
        serving: the model that answers viewers now; None: there is none.
        scale: lowest and highest rating there can be; None: those in the data.
        progress: called with (epochs done, epochs in all).

    Raises:
        DataError: there are no ratings, or they leave the declared scale.
    """
    limits = find_scale(ratings, scale)
    known, holdout = split_by_time(ratings, holdout_share, _newest_known(serving))
    if holdout.empty or known.empty:
        return _nothing_held_out(len(known), serving)
    begin = int(holdout["timestamp"].iloc[0])
    before, after = _split_viewings(viewings, begin)
    fitted = fit(known, before, config, limits, progress)
    model = Model({"version": None, "scale": limits, "mean": fitted.mean}, fitted.arrays)
    return Evaluation(
        rmse=rmse(model, holdout),
        serving_rmse=None if serving is None else rmse(serving, holdout),
        serving_version=None if serving is None else serving.version,
        baseline_rmse=_baseline_rmse(known, holdout),
        n_fit=len(known),
        n_holdout=len(holdout),
        n_unknown_user=_count_new(known["user_id"], holdout["user_id"]),
        n_unknown_movie=_count_new(known["movie_id"], holdout["movie_id"]),
        holdout_from=begin,
        ranking=rank(
            model,
            _pairs(holdout, after),
            seed=config.seed,
            serving=serving,
            recent=_watched_since(before, _newest_known(serving)),
        ),
    )


def score(model: Model, ratings: pd.DataFrame, *, seed: int = 0) -> dict[str, float | int | None]:
    """Score a finished model, beside popularity, on ratings it has not seen; the figures for JSON."""
    lists = asdict(rank(model, _pairs(ratings, None), seed=seed))
    alone = {name: value for name, value in lists.items() if not name.startswith("serving_")}
    return _without_nan({"rmse": rmse(model, ratings), "n_ratings": len(ratings), **alone})


def rmse(model: Model, ratings: pd.DataFrame) -> float:
    """Return the root mean squared error over all of ``ratings``, rating units; NaN when there are none."""
    if ratings.empty:
        return math.nan
    squared = 0.0
    # In the order of the model's table: looked up at random, a million users take three times as long.
    ratings = ratings.sort_values("user_id", kind="stable")
    for start in range(0, len(ratings), _PAIRS_AT_ONCE):
        part = ratings.iloc[start : start + _PAIRS_AT_ONCE]
        predicted = model.predict_many(part["user_id"].tolist(), part["movie_id"].tolist())
        squared += float(np.square(predicted - part["rating"].to_numpy(dtype=np.float64)).sum())
    return math.sqrt(squared / len(ratings))


def _newest_known(serving: Model | None) -> int | None:
    return None if serving is None else int(datetime.fromisoformat(serving.meta["data_creation"]).timestamp())


def _split_viewings(
    viewings: pd.DataFrame | None, begin: int
) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    if viewings is None:
        return None, None
    early = viewings["timestamp"] < begin
    return viewings[early], viewings[~early]


def _count_new(known: pd.Series, ids: pd.Series) -> int:
    """Return how many of ``ids`` are not among the known ones."""
    # Numbered as they appear, the new ones come last. ``isin`` takes a minute and 3 GB for 10 million texts.
    numbers, _ = pd.factorize(pd.concat([known, ids]))
    return int((numbers[len(known) :] > numbers[: len(known)].max()).sum())


def _watched_since(viewings: pd.DataFrame | None, newest: int | None) -> pd.DataFrame | None:
    """Return what replicas of the serving model know beyond it: views that came after its data."""
    return None if viewings is None or newest is None else viewings[viewings["timestamp"] > newest]


def _pairs(ratings: pd.DataFrame, viewings: pd.DataFrame | None) -> pd.DataFrame:
    columns = ["user_id", "movie_id"]
    return ratings[columns] if viewings is None else pd.concat([ratings[columns], viewings[columns]])


def _baseline_rmse(known: pd.DataFrame, holdout: pd.DataFrame) -> float:
    means = known.groupby("movie_id")["rating"].mean()
    guesses = holdout["movie_id"].map(means).fillna(known["rating"].mean())
    errors: npt.NDArray[np.float64] = (guesses - holdout["rating"]).to_numpy(dtype=np.float64)
    return math.sqrt(float(np.square(errors).mean()))


def _nothing_held_out(n_fit: int, serving: Model | None) -> Evaluation:
    if serving is None:
        return Evaluation(n_fit=n_fit)
    return Evaluation(n_fit=n_fit, serving_rmse=math.nan, serving_version=serving.version)


def _without_nan(figures: dict[str, Any]) -> dict[str, float | int | None]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in figures.items()
    }


def _given(kind: type, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: metrics[field.name] for field in fields(kind) if metrics.get(field.name) is not None}
