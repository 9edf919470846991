import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from surprise import SVD, Dataset, Reader

from pipelines.errors import ModelError
from pipelines.model import predictor
from pipelines.model.predictor import Ratings


def columns(rows):
    users, movies, values = zip(*rows, strict=True)
    return Ratings(np.array(users), np.array(movies), np.array(values, dtype=np.float32))


def fit(ratings, n_movies, **changed):
    options = {"factors": 3, "epochs": 2, "seed": 20, "scale": (1.0, 5.0)}
    return predictor.fit(ratings, n_movies, **(options | changed))


@pytest.fixture
def two_camps():
    """Even users rate even movies with 5, odd users odd ones with 2."""
    rows = [(user, movie, 2 if user % 2 else 5) for user in range(6) for movie in range(8)]
    return columns([row for row in rows if row[0] % 2 == row[1] % 2])


def test_the_descent_is_that_of_surprise_number_by_number():
    """Its trainset walks user by user too, so given our order and our numbers it does the same."""
    draws = np.random.default_rng(4)
    users = np.repeat(np.arange(7), 9)
    values = draws.integers(1, 6, 63)
    order = predictor._order(users, seed=3)
    # Surprise numbers movies as they first appear.
    movies = np.empty(63, dtype=np.int64)
    movies[order] = pd.factorize(np.concatenate([draws.permutation(12)[:9] for _ in range(7)]))[0]
    ours = fit(Ratings(users, movies, values), 12, factors=5, epochs=4, seed=3)
    frame = pd.DataFrame({"user": users, "movie": movies, "rating": values}).iloc[order]
    theirs = SVD(n_factors=5, n_epochs=4, random_state=3).fit(
        Dataset.load_from_df(frame, Reader()).build_full_trainset()
    )
    assert ours["svd_user_factors"].tolist() == theirs.pu.astype(np.float32).tolist()
    assert ours["svd_movie_factors"].tolist() == theirs.qi.astype(np.float32).tolist()
    assert ours["svd_user_bias"].tolist() == theirs.bu.astype(np.float32).tolist()
    assert ours["svd_movie_bias"].tolist() == theirs.bi.astype(np.float32).tolist()


@settings(max_examples=30, deadline=None)
@given(users=st.lists(st.integers(0, 5), min_size=1, max_size=40), seed=st.integers(0, 9))
def test_the_descent_goes_user_by_user_over_every_rating(users, seed):
    order = predictor._order(np.array(users), seed)
    assert sorted(order) == list(range(len(users)))
    assert [users[place] for place in order] == sorted(users)
    assert order.tolist() == predictor._order(np.array(users), seed).tolist()


def test_within_a_user_the_descent_is_at_random():
    one, other = (predictor._order(np.zeros(50, dtype=np.int64), seed).tolist() for seed in (1, 2))
    assert one != other
    assert one != sorted(one)


def test_how_many_ratings_are_objects_at_a_time_changes_nothing(two_camps, monkeypatch):
    whole = fit(two_camps, 8)
    monkeypatch.setattr(predictor, "_AT_ONCE", 5)
    parts = fit(two_camps, 8)
    assert all(whole[name].tobytes() == parts[name].tobytes() for name in whole)


def test_movies_nobody_rated_have_no_factors():
    fitted = fit(columns([(0, 0, 3), (1, 2, 3)]), 4)
    assert fitted["svd_movie_factors"].any(axis=1).tolist() == [True, False, True, False]
    assert fitted["svd_user_factors"].shape == (2, 3)
    assert {array.dtype for array in fitted.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("factor", [1e30, 1e300])
def test_a_descent_that_runs_away_is_an_error(two_camps, factor):
    wild = Ratings(two_camps.users, two_camps.movies, two_camps.values.astype(np.float64) * factor)
    with pytest.raises(ModelError, match=r"ran away on ratings from 1 to 1\.01; look for outliers"):
        fit(wild, 8, scale=(1.0, 1.01))


def test_progress_counts_epochs_to_the_end(two_camps):
    calls = []
    fit(two_camps, 8, epochs=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(0, 2), (1, 2), (2, 2)]
