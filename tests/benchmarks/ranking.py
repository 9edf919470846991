"""How good are the lists, beside what else could have ranked them? On all data sets there are.

MovieLens 100k may not be handed on: `ML_100K=path/to/u.data make bench ONLY=ranking` measures on it as well.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import svds
from surprise import SVD, Dataset, Reader

from pipelines.local.audience import tastes
from pipelines.model.ranking import hits_of, ndcg, rank
from pipelines.model.recipe import TrainConfig, find_scale, fit
from pipelines.model.recommender import Model
from tests.benchmarks.report import Report

SECTION = "Ranking: nDCG@10 of lists without what was seen, against the rivals"
STRANGERS = "Strangers: nDCG@10 of lists folded in from what was watched since the training"
CONFIG = TrainConfig(seed=20, svd_factors=20, svd_epochs=5, trending_half_life_days=7.0)
TEST_SHARE = 0.25
STREAM_USERS = 30_000
SCORED_USERS = 2_000
DAY_S = 86_400


@dataclass(frozen=True)
class Split:
    """What is known, and what came then."""

    name: str
    ratings: pd.DataFrame
    viewings: pd.DataFrame | None
    after: pd.DataFrame


def run(report: Report) -> None:
    """Rank every data set with every method."""
    for split in splits():
        fitted = fit(split.ratings, split.viewings, CONFIG, find_scale(split.ratings, None))
        model = Model({"version": None, "scale": fitted.scale, "mean": fitted.mean}, fitted.arrays)
        ours = rank(model, split.after, seed=0)
        rivals = {"popularity": ours.popularity_ndcg_at_10, **others(split, model)}
        for name, theirs in rivals.items():
            report.add(SECTION, split.name, ours.ndcg_at_10, theirs, unit="", rival_name=name)
    strangers(report, movielens_small())


def strangers(report: Report, ratings: pd.DataFrame) -> None:
    """Train without a fifth of the users; who of them has watched 1, 3 or 10 movies gets what?"""
    in_order = by_user("", ratings.sort_values("timestamp", kind="stable")).ratings
    users = in_order["user_id"].unique()
    left_out = set(np.random.default_rng(1).choice(users, len(users) // 5, replace=False))
    known = in_order[~in_order["user_id"].isin(left_out)]
    fitted = fit(known, None, CONFIG, find_scale(known, None))
    model = Model({"version": None, "scale": fitted.scale, "mean": fitted.mean}, fitted.arrays)
    theirs = in_order[in_order["user_id"].isin(left_out)].groupby("user_id")["movie_id"].apply(list)
    for count in (1, 3, 10):
        watched = [movies[:count] for movies in theirs if len(movies) > count]
        later = [set(movies[count:]) for movies in theirs if len(movies) > count]
        sizes = np.array([len(movies) for movies in later])
        folded = [model.recommend("stranger", 20, movies).movie_ids for movies in watched]
        general = [unseen(model.trending("stranger", 20 + count).movie_ids, movies) for movies in watched]
        ours, rival = (float(ndcg(hits_of(lists, later), sizes).mean()) for lists in (folded, general))
        what = f"MovieLens small, {count} watched, {len(watched)} strangers"
        report.add(
            STRANGERS, what, ours, rival, unit="", rival_name="what is trending, without what was watched"
        )


def unseen(movie_ids: list[str], watched: list[str]) -> list[str]:
    return [movie for movie in movie_ids if movie not in watched][:20]


def splits() -> Iterator[Split]:
    """Yield the data sets; a quarter of each user's is held out, or the newest tenth of a stream."""
    if "ML_100K" in os.environ:
        columns = ["user_id", "movie_id", "rating", "timestamp"]
        hundred_k = pd.read_csv(os.environ["ML_100K"], sep="\t", names=columns)
        yield by_user("MovieLens 100k, at random", hundred_k.sample(frac=1, random_state=42))
    known, small = tastes.load(), movielens_small()
    yield by_user("MovieLens small, at random", small.sample(frac=1, random_state=42))
    yield by_user("MovieLens small, newest of each user", small.sort_values("timestamp", kind="stable"))
    for viewings_each in (1.3, 2.5, 6.0):
        yield stream(f"stream, {viewings_each:g} viewings a user", known, viewings_each, of_own_taste=True)
    yield stream("stream without any taste, 2.5 viewings a user", known, 2.5, of_own_taste=False)


def movielens_small() -> pd.DataFrame:
    """Return ml-latest-small in the stream's words and stars."""
    known = tastes.load()
    return pd.DataFrame(
        {
            "user_id": known.persons.astype(str),
            "movie_id": np.array(known.movie_ids)[known.movies],
            "rating": known.stars,
            "timestamp": known.rated_at,
        }
    )


def by_user(name: str, ratings: pd.DataFrame) -> Split:
    """Hold out the last quarter of each user's rows."""
    typed = ratings.astype({"user_id": "str", "movie_id": "str", "rating": "float32", "timestamp": "int64"})
    place = typed.groupby("user_id").cumcount()
    early = place < np.round(typed.groupby("user_id")["rating"].transform("size") * (1 - TEST_SHARE))
    return Split(
        name, typed[early].sort_values("timestamp"), None, typed.loc[~early, ["user_id", "movie_id"]]
    )


def stream(name: str, known: tastes.Tastes, viewings_each: float, *, of_own_taste: bool) -> Split:
    """Two days of a stream with 1.05 ratings a user: each has the taste of somebody at MovieLens, or none."""
    rng = np.random.default_rng(1)
    counts = np.minimum(rng.geometric(1 / viewings_each, STREAM_USERS), 60)
    users = np.repeat(np.arange(STREAM_USERS), counts)
    if of_own_taste:
        rows = rows_of_persons(known, rng.integers(1, known.n_persons + 1, STREAM_USERS)[users], rng)
    else:
        rows = known.watched_rows(rng, len(users))
    viewings = pd.DataFrame(
        {
            "user_id": users.astype(str),
            "movie_id": np.array(known.movie_ids)[known.movies[rows]],
            "minutes": np.maximum(1, rng.exponential(30, len(users))).astype(np.int64),
            "timestamp": rng.integers(0, 2 * DAY_S, len(users)),
            "rating": known.stars[rows].astype(np.float32),
        }
    )
    viewings = viewings.drop_duplicates(["user_id", "movie_id"]).sort_values("timestamp")
    early = viewings.head(int(0.9 * len(viewings)))
    late = viewings[len(early) :]
    returning = np.intersect1d(late["user_id"], early["user_id"])[:SCORED_USERS]
    rated = early.sample(min(len(early), int(1.05 * STREAM_USERS)), random_state=1).sort_values("timestamp")
    after = late.loc[late["user_id"].isin(returning), ["user_id", "movie_id"]]
    return Split(name, rated, early, after)


def rows_of_persons(known: tastes.Tastes, persons: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one rating of each person, popular movies more often."""
    order = np.argsort(known.persons, kind="stable")
    weights = np.cumsum(np.bincount(known.movies)[known.movies[order]] ** 0.5)
    bounds = np.concatenate([[0.0], weights])[
        np.searchsorted(known.persons[order], np.arange(1, known.n_persons + 2))
    ]
    low, high = bounds[persons - 1], bounds[persons]
    return order[np.searchsorted(weights, low + rng.random(len(persons)) * (high - low), side="right")]


def others(split: Split, model: Model) -> dict[str, float]:
    """Return the nDCG@10 of the rivals on the users that our lists were scored on."""
    arrays = model._arrays
    seen = csr_matrix((np.ones(len(arrays.seen_indices)), arrays.seen_indices, arrays.seen_indptr))
    seen.resize(model.n_users, model.n_movies)
    users = np.unique(split.after["user_id"])
    rows = model._users.rows(users.tolist())
    users, own = users[rows >= 0], seen[rows[rows >= 0]]
    scores: dict[str, Callable[[], np.ndarray]] = {
        "scikit-surprise SVD": lambda: by_predicted_rating(split.ratings, users, model),
        "PureSVD, rank 20": lambda: by_svd(seen, own),
        "implicit ALS, 64 factors": lambda: by_als(seen, own),
        "EASE, lambda 400, whole": lambda: by_ease(seen, own),
    }
    found = {}
    for name, score in scores.items():
        listed = np.where(own.toarray() > 0, -np.inf, score()).argsort(axis=1, kind="stable")[:, :-21:-1]
        lists = {user: model._movies.texts(row) for user, row in zip(users, listed, strict=True)}
        found[name] = rank(_Fixed(model, lists), split.after, seed=0).ndcg_at_10
    return found


class _Fixed(Model):
    """Lists that were made elsewhere, for the same users."""

    def __init__(self, model: Model, lists: dict[str, list[str]]) -> None:
        super().__init__(model.meta, model._arrays)
        self._lists = lists

    def recommend(self, user_id: str, k: int = 20, watched: object = ()) -> object:
        return type("List", (), {"movie_ids": self._lists[user_id][:k]})


def by_predicted_rating(ratings: pd.DataFrame, users: np.ndarray, model: Model) -> np.ndarray:
    """Rank by what scikit-surprise predicts: the obvious way, and the worst."""
    data = Dataset.load_from_df(ratings[["user_id", "movie_id", "rating"]], Reader(rating_scale=(1, 5)))
    trainset = data.build_full_trainset()
    svd = SVD(random_state=20).fit(trainset)
    known = {raw: trainset.to_inner_iid(raw) for raw in ratings["movie_id"].unique()}
    movies = np.array([known.get(raw, -1) for raw in model._movies.texts(np.arange(model.n_movies))])
    raters = set(ratings["user_id"])
    rows = [trainset.to_inner_uid(user) if user in raters else -1 for user in users]
    scores = np.vstack([svd.bi + (svd.pu[row] @ svd.qi.T if row >= 0 else 0) for row in rows])
    return np.where(movies >= 0, scores[:, movies], -np.inf)


def by_svd(seen: csr_matrix, own: csr_matrix) -> np.ndarray:
    """Cremonesi, Koren, Turrin: PureSVD (RecSys 2010)."""
    _, _, vectors = svds(seen, k=20, v0=np.ones(min(seen.shape)))
    return own @ vectors.T @ vectors


def by_als(seen: csr_matrix, own: csr_matrix, factors: int = 64, rounds: int = 8) -> np.ndarray:
    """Hu, Koren, Volinsky: implicit ALS (ICDM 2008), confidence 2 for what was seen."""
    rng = np.random.default_rng(1)
    movies = rng.normal(0, 0.1, (seen.shape[1], factors))
    by_movie = seen.T.tocsr()
    for _ in range(rounds):
        movies = half_step(by_movie, half_step(seen, movies))
    return half_step(own, movies) @ movies.T


def half_step(rows: csr_matrix, fixed: np.ndarray) -> np.ndarray:
    """Solve for one side, in portions of rows of the same length."""
    gram, solved = fixed.T @ fixed, np.zeros((rows.shape[0], fixed.shape[1]))
    lengths = np.diff(rows.indptr)
    for length in np.unique(lengths[lengths > 0]):
        for part in np.array_split(
            same := np.flatnonzero(lengths == length), 1 + len(same) * length // 50_000
        ):
            vectors = fixed[rows[part].indices.reshape(len(part), length)]
            left = gram + np.einsum("nlf,nlg->nfg", vectors, vectors) + 0.1 * length * np.eye(len(gram))
            solved[part] = np.linalg.solve(left, 2 * vectors.sum(axis=1)[:, :, np.newaxis])[:, :, 0]
    return solved


def by_ease(seen: csr_matrix, own: csr_matrix, most: int = 5_000) -> np.ndarray:
    """Steck: EASE (WWW 2019), over the ``most`` popular movies, which come first."""
    head = seen[:, :most]
    inverse = np.linalg.inv((head.T @ head + diags(np.full(head.shape[1], 400.0))).toarray())
    said = inverse / -np.diag(inverse)
    np.fill_diagonal(said, 0)
    scores = np.zeros(own.shape)
    scores[:, :most] = own[:, :most] @ said
    return scores


if __name__ == "__main__":
    from rich.console import Console

    run(Report(Console(soft_wrap=True)))
