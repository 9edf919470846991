from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import DataError
from pipelines.model import ranker
from pipelines.model.arrays import Arrays
from pipelines.model.ranking import rank
from pipelines.model.recipe import find_scale, fit
from pipelines.model.recommender import Recommendation

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
def test_too_little_data_for_taste_leaves_popularity(rows, make_ratings, make_model):
    model = make_model(make_ratings(rows))
    assert set(model.recommend("stranger").movie_ids) == {row[1] for row in rows}
    assert model.recommend("u").movie_ids == []
    assert model.predict("u", "m") == 3.0


@settings(max_examples=40, deadline=None)
@given(rated=PAIRS, watched=PAIRS, k=st.integers(0, 30))
def test_lists_hold_unseen_distinct_movies_and_as_many_as_there_are(
    rated, watched, k, make_ratings, make_viewings, make_model
):
    model = make_model(make_ratings([(*pair, 3.0) for pair in rated]), make_viewings(watched))
    movies = {movie for _, movie in rated + watched}
    for user in {user for user, _ in rated + watched} | {"stranger"}:
        seen = {movie for who, movie in rated + watched if who == user}
        movie_ids = model.recommend(user, k).movie_ids
        assert model.seen(user) == seen
        assert len(set(movie_ids)) == len(movie_ids) == min(k, len(movies - seen))
        assert not seen.intersection(movie_ids)


@settings(max_examples=40, deadline=None)
@given(pairs=PAIRS)
def test_same_data_and_seed_give_the_same_bytes(pairs, make_ratings, config):
    ratings = make_ratings([(*pair, float(place % 5)) for place, pair in enumerate(pairs)])
    first, second = (fit(ratings, None, config, (0.0, 5.0)) for _ in range(2))
    assert same(first, second)


def test_another_seed_gives_another_model(two_camps, config):
    one, other = (fit(two_camps, None, replace(config, seed=seed), (1, 5)) for seed in (1, 2))
    assert not same(one, other)


def test_movies_that_nobody_saw_together_say_nothing_about_each_other(make_ratings, make_model):
    model = make_model(make_ratings([("u1", "a", 3), ("u2", "b", 3), ("u3", "b", 3), ("u4", "c", 3)]))
    assert model.recommend("u1") == Recommendation(["b", "c"], "trending")


def test_on_movielens_the_lists_are_far_better_than_the_popular_one(make_model, monkeypatch):
    # A matrix of 5,000 movies takes ten times as long to invert, for another 0.01.
    monkeypatch.setattr(ranker, "_INVERTED", 1_000)
    path = Path(__file__).parents[2] / "data" / "ml-latest-small" / "ratings.csv.gz"
    columns = {"userId": "user_id", "movieId": "movie_id"}
    ratings = pd.read_csv(path, dtype=dict.fromkeys(columns, "str")).rename(columns=columns)
    shuffled = ratings.sample(frac=1, random_state=1)
    place = shuffled.groupby("user_id").cumcount() / shuffled.groupby("user_id")["rating"].transform("size")
    model = make_model(shuffled[place >= 0.25], epochs=1)
    found = rank(model, shuffled[place < 0.25], seed=0)
    assert found.n_ranked_users == 610
    assert found.ndcg_at_10 > 0.37 > 0.23 > found.popularity_ndcg_at_10


@pytest.mark.parametrize(("low", "high"), [(0.5, 5.0), (0.0, 100.0), (-10.0, 10.0)])
def test_any_scale_is_learned_like_one_to_five(two_camps, make_model, low, high):
    rescaled = two_camps.assign(rating=(low + (two_camps["rating"] - 1) / 4 * (high - low)).astype("float32"))
    usual, other = make_model(two_camps, epochs=20), make_model(rescaled, epochs=20)
    for pair in (("u0", "m0"), ("u1", "m1"), ("u0", "m1"), ("u3", "new")):
        expected = low + (usual.predict(*pair) - 1) / 4 * (high - low)
        assert other.predict(*pair) == pytest.approx(expected, rel=1e-4)


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
