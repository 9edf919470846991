from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from surprise import SVD, Dataset, Reader

from pipelines.errors import DataError, ModelError
from pipelines.model import recipe
from pipelines.model.artifact import Arrays, Recommendation
from pipelines.model.evaluate import rank
from pipelines.model.recipe import TrainConfig, find_scale, fit

PAIRS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda pair: (f"u{pair[0]}", f"m{pair[1]}")),
    min_size=1,
    max_size=30,
    unique=True,
)


def same(one, other):
    return all(
        getattr(one.arrays, field.name).tobytes() == getattr(other.arrays, field.name).tobytes()
        for field in fields(Arrays)
    )


def test_a_movie_of_the_own_camp_is_recommended(two_camps, make_model):
    model = make_model(two_camps)
    assert model.recommend("u0", 1).movie_ids == ["m0"]
    assert model.recommend("u1", 1).movie_ids == ["m1"]
    assert model.recommend("u0").source == "personal"


def test_predicted_ratings_follow_the_camps(two_camps, make_model):
    model = make_model(two_camps, epochs=100)
    assert model.predict("u0", "m0") > 4 > 3 > model.predict("u1", "m1")


def test_most_seen_movie_is_most_popular_and_ties_go_by_id(make_ratings, make_viewings, make_model):
    ratings = make_ratings([("u1", "b", 3), ("u1", "a", 3), ("u2", "c", 3)])
    viewings = make_viewings([("u3", "c"), ("u3", "c"), ("u1", "c")])
    # c: u1, u2, u3; a and b: u1 each. Watching twice is one interest.
    assert make_model(ratings, viewings).recommend("stranger").movie_ids == ["c", "a", "b"]


def test_who_rated_comes_before_who_only_watched(make_ratings, make_viewings, make_model):
    model = make_model(make_ratings([("z", "a", 3)]), make_viewings([("a", "b"), ("m", "a")]))
    assert [model.user_id(row) for row in range(model.n_users)] == ["z", "a", "m"]
    assert model.predict("a", "b") == model.predict("nobody", "nothing") == 3.0


def test_a_watched_movie_is_not_recommended(make_ratings, make_viewings, make_model):
    model = make_model(make_ratings([("u1", "a", 3), ("u2", "b", 4)]), make_viewings([("u1", "b")]))
    assert model.recommend("u1").movie_ids == []
    assert model.seen("u1") == {"a", "b"}


@pytest.mark.parametrize(
    "rows",
    [
        [("u", "m", 3)],
        [("u", "m", 3), ("u", "n", 3)],
        [("u", "m", 3), ("v", "m", 3)],
        [("u", "m", 3), ("u", "n", 3), ("v", "m", 3), ("v", "n", 3)],
    ],
)
@pytest.mark.parametrize("rank", [1, 2, 500])
def test_too_little_data_for_taste_leaves_popularity(rows, rank, make_ratings, make_model):
    model = make_model(make_ratings(rows), rank=rank)
    assert set(model.recommend("stranger").movie_ids) == {row[1] for row in rows}
    assert model.recommend("u").movie_ids == []
    assert model.predict("u", "m") == 3.0


@settings(max_examples=40, deadline=None)
@given(rated=PAIRS, watched=PAIRS, rank=st.integers(1, 9), k=st.integers(0, 9))
def test_lists_hold_unseen_distinct_movies_and_as_many_as_there_are(
    rated, watched, rank, k, make_ratings, make_viewings, make_model
):
    model = make_model(make_ratings([(*pair, 3.0) for pair in rated]), make_viewings(watched), rank=rank)
    movies = {movie for _, movie in rated + watched}
    for user in {user for user, _ in rated + watched} | {"stranger"}:
        seen = {movie for who, movie in rated + watched if who == user}
        movie_ids = model.recommend(user, k).movie_ids
        assert model.seen(user) == seen
        assert len(set(movie_ids)) == len(movie_ids) == min(k, len(movies - seen))
        assert not seen.intersection(movie_ids)


@settings(max_examples=40, deadline=None)
@given(pairs=PAIRS, rank=st.integers(1, 9))
def test_same_data_and_seed_give_the_same_bytes(pairs, rank, make_ratings, config):
    ratings = make_ratings([(*pair, float(place % 5)) for place, pair in enumerate(pairs)])
    changed = replace(config, ranker_rank=rank)
    first, second = (fit(ratings, None, changed, (0.0, 5.0)) for _ in range(2))
    assert same(first, second)


def test_another_seed_gives_another_model(two_camps, config):
    one, other = (fit(two_camps, None, replace(config, seed=seed), (1, 5)) for seed in (1, 2))
    assert not same(one, other)


def test_sparse_and_dense_rankers_agree(monkeypatch, make_ratings, config):
    draws = np.random.default_rng(7)
    pairs = {(int(draws.integers(30)), int(draws.integers(20) ** 2 / 20)) for _ in range(250)}
    ratings = make_ratings([(f"u{user}", f"m{movie}", 3.0) for user, movie in sorted(pairs)])
    dense = fit(ratings, None, config, (1, 5))
    monkeypatch.setattr(recipe, "_DENSE_BELOW", 0)
    sparse = fit(ratings, None, config, (1, 5))
    assert same(dense, sparse)
    assert same(sparse, fit(ratings, None, config, (1, 5)))


def test_directions_of_taste_are_independent_signed_and_strongest_first(two_camps, config):
    vectors = fit(two_camps, None, config, (1, 5)).arrays.ranker_movies
    products = vectors @ vectors.T
    assert products == pytest.approx(np.diag(np.diag(products)), abs=1e-3)
    assert products[0, 0] == pytest.approx(1 / (1 + 0.1), abs=1e-3)
    assert products[0, 0] >= products[1, 1]
    assert all(row[np.abs(row).argmax()] > 0 for row in vectors)


def test_what_differs_from_machine_to_machine_is_rounded_off():
    draws = np.random.default_rng(1)
    vectors = draws.standard_normal((3, 50)) / np.sqrt(50)
    vectors[0, 0] = 0.0
    noise = 1e-13 * draws.standard_normal((3, 50))
    settled = recipe._settle(vectors)
    assert settled == pytest.approx(np.sign(settled * vectors) * vectors, abs=2**-12 / np.sqrt(50))
    assert (
        settled.tobytes() == recipe._settle(-vectors).tobytes() == recipe._settle(vectors + noise).tobytes()
    )


def test_asking_for_more_directions_than_the_data_span_adds_none(two_camps, config):
    spanned, more = (fit(two_camps, None, replace(config, ranker_rank=rank), (1, 5)) for rank in (4, 5))
    assert same(spanned, more)


def test_movies_that_nobody_saw_together_say_nothing_about_each_other(make_ratings, make_model):
    model = make_model(make_ratings([("u1", "a", 3), ("u2", "b", 3), ("u3", "b", 3), ("u4", "c", 3)]))
    assert model.recommend("u1") == Recommendation(["b", "c"], "popular")


def test_popular_movies_are_not_hidden_from_users_without_taste(make_ratings, make_model):
    """As PureSVD does on sparse data: there, a popular movie tells about itself only."""
    draws = np.random.default_rng(5)
    chances = 1 / np.arange(1, 41)
    rows = {
        (f"u{user}", f"m{movie:02}", 3.0)
        for user in range(300)
        for movie in draws.choice(40, size=4, replace=False, p=chances / chances.sum())
    }
    model = make_model(make_ratings(sorted(rows)), rank=10)
    agreed = [
        len(set(model.recommend(user, 10).movie_ids) & set(model.popular(user, 10).movie_ids))
        for user in (f"u{number}" for number in range(300))
    ]
    assert sum(agreed) / len(agreed) > 8


def test_on_movielens_the_lists_are_far_better_than_the_popular_one(make_model):
    path = Path(__file__).parents[2] / "data" / "ml-latest-small" / "ratings.csv.gz"
    columns = {"userId": "user_id", "movieId": "movie_id"}
    ratings = pd.read_csv(path, dtype=dict.fromkeys(columns, "str")).rename(columns=columns)
    shuffled = ratings.sample(frac=1, random_state=1)
    place = shuffled.groupby("user_id").cumcount() / shuffled.groupby("user_id")["rating"].transform("size")
    model = make_model(shuffled[place >= 0.25], rank=20, epochs=1)
    personal, popular, n_users = rank(model, shuffled[place < 0.25], seed=0)
    assert n_users == 610
    assert personal > 0.37 > 0.23 > popular


def test_rating_predictor_is_that_of_surprise(two_camps):
    """On a scale of four the units agree; only the order of the descent is ours, and one rating has none."""
    config = TrainConfig(seed=3, svd_factors=5, svd_epochs=4, ranker_rank=1)
    one = two_camps.head(1)
    ours = fit(one, None, config, (1.0, 5.0)).arrays
    theirs = SVD(n_factors=5, n_epochs=4, random_state=3).fit(
        Dataset.load_from_df(one[["user_id", "movie_id", "rating"]], Reader()).build_full_trainset()
    )
    assert ours.svd_user_factors.tolist() == theirs.pu.astype(np.float32).tolist()
    assert ours.svd_movie_factors.tolist() == theirs.qi.astype(np.float32).tolist()
    assert ours.svd_user_bias.tolist() == theirs.bu.astype(np.float32).tolist()


@pytest.mark.parametrize(("low", "high"), [(0.5, 5.0), (0.0, 100.0), (-10.0, 10.0)])
def test_any_scale_is_learned_like_one_to_five(two_camps, make_model, low, high):
    rescaled = two_camps.assign(rating=(low + (two_camps["rating"] - 1) / 4 * (high - low)).astype("float32"))
    usual, other = make_model(two_camps, epochs=20), make_model(rescaled, epochs=20)
    for pair in (("u0", "m0"), ("u1", "m1"), ("u0", "m1"), ("u3", "new")):
        expected = low + (usual.predict(*pair) - 1) / 4 * (high - low)
        assert other.predict(*pair) == pytest.approx(expected, rel=1e-4)


def test_a_descent_that_runs_away_is_an_error(two_camps, config):
    with pytest.raises(ModelError, match=r"ran away on ratings from 1 to 1\.01"):
        fit(two_camps.assign(rating=two_camps["rating"] * 1e30), None, config, (1.0, 1.01))


def test_movies_nobody_rated_have_no_factors(make_ratings, make_viewings, config):
    arrays = fit(make_ratings([("u", "a", 3)]), make_viewings([("u", "b")]), config, (1, 5)).arrays
    assert arrays.movie_ids.tolist() == [b"a", b"b"]
    assert arrays.svd_movie_factors[0].any()
    assert not arrays.svd_movie_factors[1].any()


def test_progress_counts_epochs_to_the_end(two_camps, config):
    calls = []
    fit(two_camps, None, config, (1, 5), lambda done, total: calls.append((done, total)))
    assert calls == [(0, 2), (1, 2), (2, 2)]


def test_scale_is_found_unless_declared(make_ratings):
    ratings = make_ratings([("u", "a", 3.3), ("u", "b", 4.5)])
    assert find_scale(ratings, None) == pytest.approx((3.3, 4.5))
    assert find_scale(ratings, (3.3, 4.5)) == (3.3, 4.5)
    assert find_scale(ratings, (1, 5)) == (1, 5)


def test_ratings_off_the_declared_scale_are_refused(make_ratings):
    with pytest.raises(DataError, match="ratings go from 0 to 9, declared is 1 to 5"):
        find_scale(make_ratings([("u", "a", 0), ("u", "b", 9)]), (1, 5))


def test_no_ratings_are_refused(make_ratings):
    with pytest.raises(DataError, match="no ratings to train on"):
        find_scale(make_ratings([]), None)


def test_the_last_rating_of_a_user_and_movie_counts(make_ratings, make_model):
    first = [("a", "x", 2), ("b", "x", 3), ("c", "y", 1)]
    changed = make_model(make_ratings([*first, ("a", "x", 5)]))
    never_thought_otherwise = make_model(make_ratings([("b", "x", 3), ("c", "y", 1), ("a", "x", 5)]))
    assert changed.predict("a", "x") == never_thought_otherwise.predict("a", "x")
    assert changed.meta["mean"] == (5 + 3 + 1) / 3
