"""How good are the lists? nDCG@10 and recall@20 of what users turned to next, compared user by user.

Each measure is taken for every user apart, and all models answer the same users. What one model has over
another is the mean of the users' own differences, and chance is judged by the standard error of that mean:
users differ far more among each other than two models do for one user (Smucker, Allan, Carterette: "A
comparison of statistical significance tests for information retrieval evaluation", CIKM 2007).
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.model.arrays import LIST_LENGTH, Doubles
from pipelines.model.recommender import Model

NDCG_PLACES = 10
"""Places that nDCG looks at; recall and coverage look at whole lists."""
MAX_RANKED_USERS = 5_000
"""Most users whose lists are scored; drawn by the seed when there are more."""

Bools = npt.NDArray[np.bool_]
News = dict[str, set[str]]
"""Movies that are new to each user: what a good list holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What the lists scored, means over users; NaN where there was nobody to score.

    A figure of the serving model is None when nothing serves, or nobody could be scored.
    """

    ndcg_at_10: float = math.nan
    """Of the model's lists, with what was seen before left out."""
    recall_at_20: float = math.nan
    """Share of what was new to the user that the list held."""
    popularity_ndcg_at_10: float = math.nan
    """Of the popular lists; a ranker that does not beat them is not worth its machine."""
    popularity_recall_at_20: float = math.nan
    popularity_ndcg_se: float = math.nan
    """Standard error of ``ndcg_at_10 - popularity_ndcg_at_10``, from the users' own differences."""
    popularity_recall_se: float = math.nan
    serving_ndcg_at_10: float | None = None
    """Of the lists that viewers get now, whichever rung of the ladder they come from."""
    serving_recall_at_20: float | None = None
    serving_ndcg_se: float | None = None
    """Standard error of ``ndcg_at_10 - serving_ndcg_at_10``, from the users' own differences."""
    serving_recall_se: float | None = None
    coverage_at_20: float = math.nan
    """Share of the movies the model knows that are in a list of at least one scored user."""
    share_scored: float = math.nan
    """Share of the users asked about that the model knows; the others are strangers."""
    n_ranked_users: int = 0
    """Users whose lists were scored: known before, and with something new since."""
    n_strangers: int = 0
    """Strangers whose one list was scored."""
    stranger_trending_ndcg_at_10: float = math.nan
    """Of what is popular of late, which strangers get."""
    stranger_popularity_ndcg_at_10: float = math.nan
    """Of the all-time popular list for the same strangers."""


@dataclass(frozen=True, slots=True)
class _Scores:
    """One list a user, in the same order of users for all models."""

    ndcg: Doubles
    recall: Doubles


def rank(
    model: Model,
    pairs: pd.DataFrame,
    *,
    seed: int,
    serving: Model | None = None,
    recent: pd.DataFrame | None = None,
) -> Ranking:
    """Score the model's lists, and for the same users the popular ones and those that viewers get now.

    A movie the model does not know counts as missed. Users with nothing new are left out.

    Args:
        model: whose lists are scored.
        pairs: (user_id, movie_id) that came after the model's data. What the user had seen before, as
            either model knows, is neither offered nor asked for.
        seed: draws the users when there are more than ``MAX_RANKED_USERS``.
        serving: the model that answers now. A user whom only ``model`` knows gets from it what a viewer
            would: a list folded in from ``recent``, or that of a stranger.
        recent: (user_id, movie_id) watched after the serving model's data and before ``pairs``.
    """
    if pairs.empty:
        return Ranking()
    users = np.array(sorted(pairs["user_id"].unique()), dtype=object)
    known = model.knows(users.tolist())
    news = _news(pairs, _draw(users[known], seed), [model] if serving is None else [model, serving])
    figures = {
        "share_scored": float(known.mean()),
        **_list_figures(model, serving, news, recent),
        **_stranger_figures(model, _news(pairs, _draw(users[~known], seed), [])),
    }
    return Ranking(**figures)  # type: ignore[arg-type]  # mypy takes any value for any field


def ndcg(hits: Bools, n_relevant: npt.NDArray[np.int64]) -> Doubles:
    """Return the normalised discounted cumulative gain of each list: 1 when the relevant lead it.

    The gain of a hit at place p (1, 2, ...) is ``1 / log2(p + 1)``; the best list that the first
    ``NDCG_PLACES`` places allow has 1 (Järvelin, Kekäläinen, TOIS 2002).

    Args:
        hits: (n_users, places) whether the movie at that place is relevant.
        n_relevant: (n_users,) how many movies are, at least one each.
    """
    gains = 1.0 / np.log2(np.arange(2, NDCG_PLACES + 2))
    best = np.cumsum(gains)[np.minimum(n_relevant, NDCG_PLACES) - 1]
    found: Doubles = hits[:, :NDCG_PLACES] @ gains / best
    return found


def recall(hits: Bools, n_relevant: npt.NDArray[np.int64]) -> Doubles:
    """Return the share of the relevant movies that each list holds; arguments as for :func:`ndcg`."""
    share: Doubles = hits.sum(axis=1) / n_relevant
    return share


def hits_of(lists: Sequence[Sequence[str]], news: Collection[set[str]]) -> Bools:
    """Return (n_users, ``LIST_LENGTH``) whether the movie at each place is new; a missing place is no hit."""
    hits = np.zeros((len(lists), LIST_LENGTH), dtype=np.bool_)
    for row, movie_ids, new in zip(hits, lists, news, strict=True):
        row[: len(movie_ids)] = [movie in new for movie in movie_ids]
    return hits


def standard_error(ours: Doubles, theirs: Doubles) -> float:
    """Return the standard error of the mean of the paired differences; NaN for fewer than two pairs."""
    if len(ours) < 2:
        return math.nan
    return float((ours - theirs).std(ddof=1) / math.sqrt(len(ours)))


def _draw(users: npt.NDArray[np.object_], seed: int) -> npt.NDArray[np.object_]:
    if len(users) <= MAX_RANKED_USERS:
        return users
    return np.random.default_rng(seed).choice(users, MAX_RANKED_USERS, replace=False)


def _news(pairs: pd.DataFrame, users: npt.NDArray[np.object_], models: list[Model]) -> News:
    """Return what is new to each of ``users``, as far as ``models`` know what they had seen."""
    news = _by_user(pairs, users)
    for user, movies in news.items():
        movies.difference_update(*(model.seen(user) for model in models))
    return {user: movies for user, movies in news.items() if movies}


def _by_user(pairs: pd.DataFrame, users: Collection[str]) -> News:
    asked = pairs[pairs["user_id"].isin(list(users))]
    return {str(user): set(movies) for user, movies in asked.groupby("user_id")["movie_id"]}


def _scores(lists: Sequence[Sequence[str]], news: News) -> _Scores:
    hits = hits_of(lists, news.values())
    n_relevant = np.array([len(new) for new in news.values()], dtype=np.int64)
    return _Scores(ndcg(hits, n_relevant), recall(hits, n_relevant))


def _list_figures(
    model: Model, serving: Model | None, news: News, recent: pd.DataFrame | None
) -> dict[str, float]:
    if not news:
        return {}
    lists = [model.recommend(user, LIST_LENGTH).movie_ids for user in news]
    ours = _scores(lists, news)
    popular = _scores([model.popular(user, LIST_LENGTH).movie_ids for user in news], news)
    figures = {
        "n_ranked_users": len(news),
        "ndcg_at_10": float(ours.ndcg.mean()),
        "recall_at_20": float(ours.recall.mean()),
        "coverage_at_20": len(set().union(*lists)) / model.n_movies,
        **_beside("popularity", ours, popular),
    }
    if serving is None:
        return figures
    return figures | _beside("serving", ours, _scores(_served(serving, news, recent), news))


def _served(serving: Model, news: News, recent: pd.DataFrame | None) -> list[list[str]]:
    """Return the lists that viewers would get now."""
    watched = {} if recent is None else _by_user(recent, news)
    return [
        serving.recommend(user, LIST_LENGTH, watched=sorted(watched.get(user, ()))).movie_ids for user in news
    ]


def _beside(rival: str, ours: _Scores, theirs: _Scores) -> dict[str, float]:
    return {
        f"{rival}_ndcg_at_10": float(theirs.ndcg.mean()),
        f"{rival}_recall_at_20": float(theirs.recall.mean()),
        f"{rival}_ndcg_se": standard_error(ours.ndcg, theirs.ndcg),
        f"{rival}_recall_se": standard_error(ours.recall, theirs.recall),
    }


def _stranger_figures(model: Model, news: News) -> dict[str, float]:
    """All strangers get the same list, so it is asked for once."""
    if not news:
        return {}
    one = next(iter(news))
    trending, popular = (
        _scores([rung(one, LIST_LENGTH).movie_ids] * len(news), news).ndcg
        for rung in (model.trending, model.popular)
    )
    return {
        "n_strangers": len(news),
        "stranger_trending_ndcg_at_10": float(trending.mean()),
        "stranger_popularity_ndcg_at_10": float(popular.mean()),
    }
