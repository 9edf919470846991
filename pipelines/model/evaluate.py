"""How good is the recipe? Fitted on older ratings, it is scored on the newest, beside the serving model."""

import math
from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.model.artifact import Model
from pipelines.model.recipe import Progress, TrainConfig, find_scale, fit

RANKED = 10
"""Length of the lists that nDCG looks at."""
MAX_RANKED_USERS = 5_000
"""Most users whose lists are scored; drawn by the seed when there are more."""

_FIGURES = ("rmse", "baseline_rmse", "ndcg_at_10", "popularity_ndcg_at_10")
"""Figures of an evaluation that are NaN where there was nothing to score."""
_PAIRS_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the recipe scored. RMSE in rating units; NaN where there was nothing to score."""

    rmse: float
    """Of the recipe, over all held-out ratings; what it does not know it answers with biases and the mean."""
    serving_rmse: float | None
    """Of the serving model on the same ratings; None: nothing serves."""
    serving_version: int | None
    baseline_rmse: float
    """Of the movie's mean rating (mean of all for a new movie) on the same ratings."""
    n_fit: int
    n_holdout: int
    n_unknown_user: int
    """Held-out ratings by users who rated nothing before."""
    n_unknown_movie: int
    """Held-out ratings of movies nobody rated before."""
    holdout_from: int | None
    """Unix seconds of the oldest held-out rating; None: there is none."""
    ndcg_at_10: float
    """Of the personal lists, with what was seen before left out."""
    popularity_ndcg_at_10: float
    """Of the popular list for the same users; a ranker that does not beat it is not worth its machine."""
    n_ranked_users: int
    """Users whose lists were scored: known before, and with something new in the hold-out."""

    def as_metrics(self) -> dict[str, float | int | None]:
        """Return the figures for JSON, which has no NaN: None stands in for it."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def of_metrics(cls, metrics: dict[str, float | int | None]) -> "Evaluation":
        """Read back what :meth:`as_metrics` gave; a figure that is None was NaN, unless nothing served."""
        figures = {
            name: math.nan if value is None and name in _FIGURES else value for name, value in metrics.items()
        }
        if metrics["serving_version"] is not None and figures["serving_rmse"] is None:
            figures["serving_rmse"] = math.nan
        return cls(**figures)  # type: ignore[arg-type]


def split_by_time(
    ratings: pd.DataFrame, share: float, not_before: int | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (fit, holdout): ``holdout`` is the newest ``share`` of the ratings.

    It holds nothing as old as ``not_before`` (unix seconds: the newest rating that the serving model was
    trained on) or older, so that the serving model has not seen it either.
    """
    ordered = ratings.sort_values(["timestamp", "user_id", "movie_id"], ignore_index=True)
    held = np.arange(len(ordered)) >= len(ordered) - int(len(ordered) * share)
    if not_before is not None:
        held &= ordered["timestamp"].to_numpy() > not_before
    return ordered[~held], ordered[held]


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
    begin = int(holdout["timestamp"].min())
    before, after = _split_viewings(viewings, begin)
    fitted = fit(known, before, config, limits, progress)
    model = Model({"version": None, "scale": limits, "mean": fitted.mean}, fitted.arrays)
    pairs = [holdout[["user_id", "movie_id"]]] + ([] if after is None else [after[["user_id", "movie_id"]]])
    personal, popular, n_users = rank(model, pd.concat(pairs), seed=config.seed)
    return Evaluation(
        rmse=rmse(model, holdout),
        serving_rmse=None if serving is None else rmse(serving, holdout),
        serving_version=None if serving is None else serving.version,
        baseline_rmse=_baseline_rmse(known, holdout),
        n_fit=len(known),
        n_holdout=len(holdout),
        n_unknown_user=int((~holdout["user_id"].isin(known["user_id"])).sum()),
        n_unknown_movie=int((~holdout["movie_id"].isin(known["movie_id"])).sum()),
        holdout_from=begin,
        ndcg_at_10=personal,
        popularity_ndcg_at_10=popular,
        n_ranked_users=n_users,
    )


def score(model: Model, ratings: pd.DataFrame, *, seed: int = 0) -> dict[str, float | int | None]:
    """Score a finished model on ratings it has not seen; the figures for JSON."""
    personal, popular, n_users = rank(model, ratings[["user_id", "movie_id"]], seed=seed)
    figures = {"rmse": rmse(model, ratings), "ndcg_at_10": personal, "popularity_ndcg_at_10": popular}
    counted = {"n_ratings": len(ratings), "n_ranked_users": n_users}
    return {name: None if math.isnan(value) else value for name, value in figures.items()} | counted


def rmse(model: Model, ratings: pd.DataFrame) -> float:
    """Return the root mean squared error over all of ``ratings``, rating units; NaN when there are none."""
    if ratings.empty:
        return math.nan
    squared = 0.0
    for start in range(0, len(ratings), _PAIRS_AT_ONCE):
        part = ratings.iloc[start : start + _PAIRS_AT_ONCE]
        predicted = model.predict_many(part["user_id"].tolist(), part["movie_id"].tolist())
        squared += float(np.square(predicted - part["rating"].to_numpy(dtype=np.float64)).sum())
    return math.sqrt(squared / len(ratings))


def rank(model: Model, pairs: pd.DataFrame, *, seed: int) -> tuple[float, float, int]:
    """Score the model's lists: nDCG@10 of the personal ones, of the popular ones, and over how many users.

    ``pairs``: (user_id, movie_id) that came after the model's data. What a user had seen before is neither
    offered nor asked for; a movie the model does not know counts as missed. Strangers are left out, since
    both lists are the same for them.
    """
    relevant = _relevant(model, pairs, seed)
    if not relevant:
        return math.nan, math.nan, 0
    personal = [ndcg(model.recommend(user, RANKED).movie_ids, new) for user, new in relevant.items()]
    popular = [ndcg(model.popular(user, RANKED).movie_ids, new) for user, new in relevant.items()]
    return float(np.mean(personal)), float(np.mean(popular)), len(relevant)


def ndcg(movie_ids: list[str], relevant: set[str]) -> float:
    """Return the normalised discounted cumulative gain of a list: 1 when the relevant lead it, 0 without any.

    The gain of a relevant movie at place p (1, 2, ...) is 1 / log2(p + 1); the best list that ``RANKED``
    places allow has 1.
    """
    gains = 1.0 / np.log2(np.arange(2, RANKED + 2))
    hits = np.array([movie in relevant for movie in movie_ids[:RANKED]], dtype=np.float64)
    return float(hits @ gains[: len(hits)] / gains[: len(relevant)].sum())


def _relevant(model: Model, pairs: pd.DataFrame, seed: int) -> dict[str, set[str]]:
    """Return what is new to each user the model knows, for at most ``MAX_RANKED_USERS`` of them."""
    users = np.array(sorted(pairs["user_id"].unique()), dtype=object)
    users = users[model.knows(users.tolist())]
    if len(users) > MAX_RANKED_USERS:
        users = np.random.default_rng(seed).choice(users, MAX_RANKED_USERS, replace=False)
    asked = pairs[pairs["user_id"].isin(users)].groupby("user_id")["movie_id"]
    news = {str(user): set(movies) - model.seen(str(user)) for user, movies in asked}
    return {user: new for user, new in news.items() if new}


def _newest_known(serving: Model | None) -> int | None:
    return None if serving is None else int(datetime.fromisoformat(serving.meta["data_creation"]).timestamp())


def _split_viewings(
    viewings: pd.DataFrame | None, begin: int
) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    if viewings is None:
        return None, None
    early = viewings["timestamp"] < begin
    return viewings[early], viewings[~early]


def _baseline_rmse(known: pd.DataFrame, holdout: pd.DataFrame) -> float:
    means = known.groupby("movie_id")["rating"].mean()
    guesses = holdout["movie_id"].map(means).fillna(known["rating"].mean())
    errors: npt.NDArray[np.float64] = (guesses - holdout["rating"]).to_numpy(dtype=np.float64)
    return math.sqrt(float(np.square(errors).mean()))


def _nothing_held_out(n_fit: int, serving: Model | None) -> Evaluation:
    return Evaluation(
        rmse=math.nan,
        serving_rmse=None if serving is None else math.nan,
        serving_version=None if serving is None else serving.version,
        baseline_rmse=math.nan,
        n_fit=n_fit,
        n_holdout=0,
        n_unknown_user=0,
        n_unknown_movie=0,
        holdout_from=None,
        ndcg_at_10=math.nan,
        popularity_ndcg_at_10=math.nan,
        n_ranked_users=0,
    )
