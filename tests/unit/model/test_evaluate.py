import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.model import evaluate as module
from pipelines.model.evaluate import Evaluation, evaluate, rmse, score, split_by_time
from pipelines.model.ranking import Ranking, rank
from pipelines.model.recipe import TrainConfig

TIMES = st.lists(st.integers(0, 50), min_size=1, max_size=40)


@pytest.fixture(scope="session")
def timed(make_ratings):
    """Ratings at the given times, one movie each."""
    return lambda times: make_ratings([("u", f"m{place}", 3, time) for place, time in enumerate(times)])


@given(times=TIMES, share=st.floats(0.01, 0.9), not_before=st.none() | st.integers(0, 50))
def test_the_newest_share_is_held_out_but_nothing_the_serving_model_saw(times, share, not_before, timed):
    ratings = timed(times)
    known, holdout = split_by_time(ratings, share, not_before)
    assert sorted([*known["movie_id"], *holdout["movie_id"]]) == sorted(ratings["movie_id"])
    assert len(holdout) <= int(len(times) * share)
    assert all(time > (-1 if not_before is None else not_before) for time in holdout["timestamp"])
    if len(holdout):
        assert max(known["timestamp"], default=0) <= min(holdout["timestamp"]) or not_before is not None


def test_the_share_is_counted_in_ratings(timed):
    known, holdout = split_by_time(timed([5, 4, 3, 2, 1]), 0.4, None)
    assert (known["timestamp"].tolist(), holdout["timestamp"].tolist()) == ([1, 2, 3], [4, 5])


def test_the_hold_out_shrinks_to_what_the_serving_model_has_not_seen(timed):
    known, holdout = split_by_time(timed([1, 2, 3, 4, 5]), 0.8, 4)
    assert (known["timestamp"].tolist(), holdout["timestamp"].tolist()) == ([1, 2, 3, 4], [5])


def test_rmse_is_the_root_of_the_mean_square(make_ratings, make_model, monkeypatch):
    model = make_model(make_ratings([("u", "m", 3), ("v", "m", 3)]))
    asked = make_ratings([("u", "m", 3), ("x", "y", 2), ("x", "m", 5)])
    # All ratings were 3, so everything is predicted as 3.
    expected = math.sqrt((0**2 + 1**2 + 2**2) / 3)
    assert rmse(model, asked) == pytest.approx(expected)
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 2)
    assert rmse(model, asked) == pytest.approx(expected)
    assert math.isnan(rmse(model, asked.head(0)))


def test_recipe_baseline_and_serving_model_are_scored_on_the_same_ratings(make_ratings, make_model, config):
    # Before the hold-out everybody gives a 3, in it a 5 and a 4: what is fitted is off by about 2 and 1.
    old = [(f"u{user}", f"m{movie}", 3, user) for user in range(4) for movie in range(5)]
    new = [("u0", "new", 5, 50), ("new", "m1", 4, 60)]
    ratings = make_ratings(old + new)
    serving = make_model(make_ratings([*old[:5], ("v", "x", 3, 0), ("v", "y", 5, 0)]))
    serving.meta |= {"version": 4, "scale": (1, 5), "data_creation": "1970-01-01T00:00:10+00:00"}
    found = evaluate(ratings, None, config=config, holdout_share=0.5, serving=serving)
    assert (found.n_fit, found.n_holdout, found.holdout_from) == (20, 2, 50)
    assert (found.n_unknown_user, found.n_unknown_movie) == (1, 1)
    assert found.baseline_rmse == pytest.approx(math.sqrt((2**2 + 1**2) / 2))
    assert found.rmse == pytest.approx(found.baseline_rmse, rel=1e-3)
    assert found.serving_rmse == rmse(serving, make_ratings(new))
    assert found.serving_version == 4
    assert found.ranking.n_ranked_users == 1


def test_baseline_is_the_mean_of_the_movie(make_ratings, config):
    ratings = make_ratings([("u", "a", 1), ("v", "a", 2), ("u", "b", 3), ("w", "a", 1), ("w", "c", 5)])
    found = evaluate(ratings, None, config=config, holdout_share=0.4, serving=None, scale=(1, 5))
    assert found.baseline_rmse == pytest.approx(math.sqrt(((1.5 - 1) ** 2 + (2 - 5) ** 2) / 2))


def test_viewings_of_the_hold_out_are_held_out_with_it(make_ratings, make_viewings, config):
    ratings = make_ratings([("u", "a", 3, 1), ("v", "b", 4, 2), ("v", "a", 4, 100)])
    viewings = make_viewings([("w", "a", 50), ("w", "b", 100), ("x", "c", 101)])
    found = evaluate(ratings, viewings, config=config, holdout_share=0.4, serving=None)
    assert found.holdout_from == 100
    # v is to find a, w to find b; x is a stranger until then.
    assert found.ranking.n_ranked_users == 2


def test_the_serving_model_answers_with_what_was_watched_since_its_data(
    make_ratings, make_viewings, make_model, config, monkeypatch
):
    ratings = make_ratings([("u", "a", 3, 1), ("v", "b", 4, 2), ("v", "c", 2, 3), ("u", "b", 4, 100)])
    viewings = make_viewings([("u", "d", 2), ("u", "c", 50), ("v", "a", 60), ("u", "e", 100)])
    serving = make_model(ratings.head(3))
    serving.meta |= {"version": 1, "data_creation": "1970-01-01T00:00:03+00:00"}
    asked, answer = [], serving.recommend
    monkeypatch.setattr(
        serving,
        "recommend",
        lambda user, k, watched: asked.append((user, [*watched])) or answer(user, k, watched=watched),
    )
    found = evaluate(ratings, viewings, config=config, holdout_share=0.25, serving=serving)
    assert asked == [("u", ["c"])]
    assert found.ranking.serving_recall_at_20 == 1 / 2


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_nothing_held_out_is_said_not_hidden(make_ratings, config, share):
    found = evaluate(
        make_ratings([("u", "a", 3), ("u", "b", 4)]), None, config=config, holdout_share=share, serving=None
    )
    assert (found.n_fit, found.n_holdout, found.ranking.n_ranked_users, found.holdout_from) == (2, 0, 0, None)
    assert math.isnan(found.rmse)


def test_data_the_serving_model_knows_leaves_nothing_to_judge_by(two_camps, make_model, config):
    serving = make_model(two_camps)
    serving.meta |= {"version": 1, "data_creation": "2026-01-01T00:00:00+00:00"}
    found = evaluate(two_camps, None, config=config, holdout_share=0.5, serving=serving)
    assert (found.n_holdout, found.serving_version) == (0, 1)
    assert math.isnan(found.serving_rmse)


def test_figures_for_json_have_none_for_nan(make_ratings, config):
    found = evaluate(make_ratings([("u", "a", 3)]), None, config=config, holdout_share=0.1, serving=None)
    figures = json.loads(json.dumps(found.as_metrics(), allow_nan=False))
    assert figures["rmse"] is figures["ndcg_at_10"] is figures["serving_rmse"] is None
    assert figures["n_fit"] == 1


FIGURES = st.floats(0, 1) | st.just(math.nan)
SERVING = st.none() | st.floats(0, 1)


@given(
    rating=st.builds(
        Evaluation,
        rmse=FIGURES,
        baseline_rmse=FIGURES,
        n_fit=st.integers(0, 9),
        holdout_from=st.none() | st.integers(0, 9),
        ranking=st.builds(
            Ranking,
            ndcg_at_10=FIGURES,
            popularity_recall_se=FIGURES,
            serving_ndcg_at_10=SERVING,
            n_strangers=st.integers(0, 9),
        ),
    ),
    serving=st.none() | st.tuples(st.integers(1, 9), FIGURES),
)
def test_figures_are_read_back_from_json_as_they_were(rating, serving):
    version, rmse_of_serving = serving or (None, None)
    before = replace(rating, serving_version=version, serving_rmse=rmse_of_serving)
    figures = json.loads(json.dumps(before.as_metrics(), allow_nan=False))
    # NaN differs from itself, but not in how it is written.
    assert repr(Evaluation.of_metrics(figures)) == repr(before)


def test_figures_from_before_the_lists_were_compared_are_read_too():
    old = {"rmse": 0.9, "serving_rmse": None, "serving_version": 3, "n_holdout": 70, "n_ranked_users": 12}
    found = Evaluation.of_metrics(old)
    assert (found.rmse, found.n_holdout, found.ranking.n_ranked_users) == (0.9, 70, 12)
    assert math.isnan(found.serving_rmse)
    assert math.isnan(found.ranking.recall_at_20)
    assert found.ranking.serving_ndcg_at_10 is None


def test_a_finished_model_is_scored(two_camps, make_ratings, make_model):
    model = make_model(two_camps)
    later = make_ratings([("u0", "m0", 5), ("x", "m1", 2)])
    lists = rank(model, later[["user_id", "movie_id"]], seed=0)
    found = score(model, later)
    assert (found["rmse"], found["n_ratings"]) == (rmse(model, later), 2)
    assert (found["ndcg_at_10"], found["recall_at_20"]) == (1.0, 1.0)
    assert (found["n_ranked_users"], found["share_scored"]) == (1, 1 / 2)
    assert found["popularity_ndcg_at_10"] == lists.popularity_ndcg_at_10
    assert found["stranger_trending_ndcg_at_10"] == lists.stranger_trending_ndcg_at_10
    assert not any(name.startswith("serving") for name in found)
    assert score(model, later.head(0))["rmse"] is None


@settings(max_examples=10, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 5)), min_size=2, max_size=30)
)
def test_evaluating_is_repeatable(rows, make_ratings, config):
    ratings = make_ratings([(f"u{u}", f"m{m}", r) for u, m, r in rows]).drop_duplicates(
        ["user_id", "movie_id"]
    )
    first, second = (evaluate(ratings, None, config=config, holdout_share=0.5, serving=None) for _ in "12")
    assert first.as_metrics() == second.as_metrics()


def test_a_held_out_change_of_mind_does_not_take_the_older_opinion_from_the_fit(make_ratings):
    rows = [
        (f"u{user}", f"m{movie}", 1 + (user + movie) % 5, 10 * user + movie)
        for user in range(9)
        for movie in range(9)
    ]
    again = [("u0", "m0", 5, 900), ("u1", "m1", 4, 901)]
    evaluation = evaluate(
        make_ratings(rows + again),
        None,
        config=TrainConfig(seed=1, svd_factors=2, svd_epochs=1, trending_half_life_days=2.0),
        holdout_share=2.5 / 83,
        serving=None,
    )
    assert (evaluation.n_fit, evaluation.n_holdout) == (81, 2)
