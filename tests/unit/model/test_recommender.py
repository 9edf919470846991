import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.model.recommender import Model, Recommendation, best_rows


@pytest.fixture
def model(arrays):
    return Model({"version": 7, "scale": [1.0, 5.0], "mean": 3.0}, arrays)


def test_the_list_laid_out_is_read(model):
    assert model.recommend("u1") == Recommendation(["c", "b", "d"], "personal")
    assert model.recommend("u1", 2) == Recommendation(["c", "b"], "personal")


def test_a_longer_list_is_computed_and_is_the_same(model):
    # u1 saw "a": 0.25 + 0.125 for b, 0.5 for c, 0.25 for d.
    assert model.recommend("u1", 21) == Recommendation(["c", "b", "d"], "personal")


def test_what_was_watched_since_the_training_counts_and_is_left_out(model):
    # u1 saw "a" and now "d": 0.375 for b, 0.5 - 0.25 for c.
    assert model.recommend("u1", watched=["d"]) == Recommendation(["b", "c"], "personal")


def test_watching_again_what_was_seen_before_changes_nothing(model):
    assert model.recommend("u1", watched=["a", "unknown"]) == model.recommend("u1")
    assert model.recommend("ü2", watched=["d"]) == model.recommend("ü2")


def test_an_answer_may_be_changed_without_changing_the_next(model):
    model.recommend("stranger").movie_ids.clear()
    assert model.recommend("stranger").movie_ids == ["d", "a", "b", "c"]


def test_a_stranger_is_folded_in_from_what_he_watched(model):
    # "c" says 0.5 for a, everybody 0.125 for b; d comes last, because nobody says anything for it.
    assert model.recommend("stranger", watched=["c"]) == Recommendation(["a", "b", "d"], "folded-in")


@given(st.lists(st.sampled_from(["a", "b", "c", "d", "unknown"])), st.sampled_from(["u1", "stranger"]))
def test_order_and_repeats_of_what_was_watched_change_nothing(arrays, watched, user_id):
    model = Model({"version": 7, "scale": [1.0, 5.0], "mean": 3.0}, arrays)
    again = [*reversed(watched), *watched]
    assert model.recommend(user_id, watched=watched) == model.recommend(user_id, watched=again)


@pytest.mark.parametrize("watched", [["b"], ["unknown"], []])
def test_who_watched_nothing_that_says_anything_gets_what_is_trending(model, watched):
    left = [movie for movie in ["d", "a", "b", "c"] if movie not in watched]
    assert model.recommend("stranger", watched=watched) == Recommendation(left, "trending")


@pytest.mark.parametrize("user_id", ["", "stranger", "u", "u11", "u1\0", "\0", "\ud800", "x" * 5_000])
def test_strangers_get_what_is_trending_and_then_what_is_popular(model, user_id):
    assert model.recommend(user_id, 3) == Recommendation(["d", "a", "b"], "trending")
    assert model.popular(user_id, 3) == Recommendation(["a", "b", "c"], "popular")


def test_without_anything_trending_the_popular_movies_are_given(model, arrays):
    timeless = replace(arrays, trending=np.empty(0, dtype=np.int32))
    assert Model(model.meta, timeless).recommend("stranger", 2).source == "popular"


def test_a_known_user_who_saw_nothing_gets_what_is_trending(model):
    assert model.recommend("007", 2) == Recommendation(["d", "a"], "trending")


def test_who_has_seen_everything_gets_nothing(model):
    assert model.recommend("ü2").movie_ids == []
    assert model.recommend("ü2", watched=["a"]).movie_ids == []
    assert model.popular("ü2").movie_ids == []


@pytest.mark.parametrize(("k", "length"), [(-1, 0), (0, 0), (1, 1), (3, 3), (4, 3), (1_000, 3)])
def test_lists_are_as_long_as_asked_while_movies_remain(model, k, length):
    assert len(model.recommend("u1", k).movie_ids) == length
    assert len(model.recommend("u1", k, ["a"]).movie_ids) == length
    assert len(model.trending("u1", k).movie_ids) == length
    assert len(model.popular("u1", k).movie_ids) == length


def test_general_lists_leave_out_what_was_seen(model):
    assert model.trending("u1", 2) == Recommendation(["d", "b"], "trending")
    assert model.popular("u1", 2) == Recommendation(["b", "c"], "popular")


def test_model_tells_its_sizes_users_and_what_they_saw(model):
    assert (model.version, model.n_users, model.n_movies) == (7, 3, 4)
    assert [model.user_id(row) for row in range(3)] == ["u1", "ü2", "007"]
    assert model.seen("ü2") == {"a", "b", "c", "d"}
    assert model.seen("7") == set()
    assert model.knows(["007", "7", "ü2"]).tolist() == [True, False, True]


def test_movies_of_the_training_are_known(model):
    assert model.knows_movies(["d", "e", "a"]).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("user_id", "movie_id", "rating"),
    [
        ("u1", "a", 3 + 0.5 + 0.25 + (1 * 0.25 + 2 * 0.125)),
        ("u1", "c", 5.0),  # 3 + 0.5 + 27, clipped
        ("u1", "d", 1.0),  # 3 + 0.5 - 27, clipped
        ("u1", "unknown", 3 + 0.5),
        ("ü2", "b", 3 - 0.25),  # watched, never rated
        ("unknown", "a", 3 + 0.25),
        ("unknown", "unknown", 3.0),
    ],
)
def test_prediction_is_mean_plus_biases_plus_factors_within_the_scale(model, user_id, movie_id, rating):
    assert model.predict(user_id, movie_id) == rating


def test_many_predictions_are_the_single_ones(model):
    users, movies = ["u1", "ü2", "x", "u1"], ["a", "b", "c", "x"]
    single = [model.predict(user, movie) for user, movie in zip(users, movies, strict=True)]
    assert model.predict_many(users, movies).tolist() == single
    assert model.predict_many([], []).tolist() == []


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.data())
def test_best_rows_are_the_head_of_a_full_sort(scores, data):
    k = data.draw(st.integers(0, len(scores)))
    good = [row for row in range(len(scores)) if scores[row] > 0]
    full = sorted(good, key=lambda row: (-scores[row], row))
    assert best_rows(np.array(scores, dtype=np.float64), k).tolist() == full[:k]


def test_threads_share_a_model(model):
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(model.recommend("u1").movie_ids)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [["c", "b", "d"]] * 8
