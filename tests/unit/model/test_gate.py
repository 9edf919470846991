import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.model.evaluate import Evaluation
from pipelines.model.gate import judge
from pipelines.model.ranking import Ranking, rank
from pipelines.model.recommender import Model

LISTS = Ranking(
    ndcg_at_10=0.31,
    recall_at_20=0.26,
    popularity_ndcg_at_10=0.2,
    popularity_recall_at_20=0.15,
    popularity_ndcg_se=0.011,
    popularity_recall_se=0.012,
    serving_ndcg_at_10=0.3,
    serving_recall_at_20=0.25,
    serving_ndcg_se=0.005,
    serving_recall_se=0.006,
    coverage_at_20=0.125,
    share_scored=0.8,
    n_ranked_users=50,
)
FIGURES = (
    "nDCG@10 0.3100, popularity 0.2000 (+0.1100 ± 0.0110); "
    "recall@20 0.2600, popularity 0.1500 (+0.1100 ± 0.0120); "
    "nDCG@10 0.3100, the serving model 0.3000 (+0.0100 ± 0.0050); "
    "recall@20 0.2600, the serving model 0.2500 (+0.0100 ± 0.0060) (± one standard error). "
    "They hold 12.5% of the movies; 80.0% of the users in the hold-out were known."
)
GOOD = Evaluation(
    rmse=0.9731,
    serving_rmse=0.9802,
    serving_version=4,
    baseline_rmse=0.99,
    n_fit=4_000,
    n_holdout=412,
    n_unknown_user=20,
    n_unknown_movie=3,
    holdout_from=1_000,
    ranking=LISTS,
)
LIMITS = {
    "max_rmse": 1.0,
    "max_rmse_worse": 0.02,
    "min_holdout": 50,
    "max_ranking_worse": 0.01,
    "min_ranked_users": 30,
}


def verdict(**changes):
    """Judge the good recipe with changed figures, under the usual limits or changed ones."""
    limits = {name: changes.pop(name, usual) for name, usual in LIMITS.items()}
    return judge(replace(GOOD, **changes), **limits)


def lists(**changes):
    return verdict(ranking=replace(LISTS, **changes), max_ranking_worse=0.015625)


def test_a_good_recipe_is_accepted_with_its_figures():
    found = verdict()
    assert found.accepted
    assert found.reason == (
        "RMSE 0.9731 on 412 held-out ratings is below 1 and not worse than the serving model's 0.9802 + 0.02."
        f" The lists of 50 users are good enough: {FIGURES}"
    )
    assert found.headline == ""


def test_without_a_serving_model_only_the_absolute_limit_counts():
    found = verdict(serving_rmse=None, serving_version=None)
    assert found.accepted
    assert found.reason.startswith(
        "RMSE 0.9731 on 412 held-out ratings is below 1; no model serves yet to compare it with. "
    )


def test_a_high_rmse_is_refused_beside_what_else_was_measured():
    found = verdict(rmse=1.25)
    assert not found.accepted
    assert found.headline == "RMSE 1.2500 (limit 1)"
    assert found.reason.startswith(
        "RMSE 1.2500 on 412 held-out ratings is not below 1 "
        "(the serving model: 0.9802; the movies' mean ratings alone: 0.9900). "
    )
    assert "none serves" in verdict(rmse=1.25, serving_rmse=None, serving_version=None).reason


def test_a_recipe_worse_than_what_serves_is_refused():
    found = verdict(rmse=0.95, serving_rmse=0.75)
    assert not found.accepted
    assert found.headline == "RMSE 0.9500 (limit 0.77)"
    assert found.reason.startswith(
        "RMSE 0.9500 on 412 held-out ratings is worse than the serving model's 0.7500 by 0.2000, "
        "more than the 0.02 allowed. "
    )


@pytest.mark.parametrize(
    ("rmse", "serving_rmse", "accepted"),
    [
        (1.0, None, False),  # "below" is strict
        (math.nextafter(1.0, 0.0), None, True),
        (0.5 + 0.25, 0.5, True),  # "not worse than" is not
        (math.nextafter(0.5 + 0.25, 1.0), 0.5, False),
    ],
)
def test_limits_are_exact(rmse, serving_rmse, accepted):
    assert verdict(rmse=rmse, serving_rmse=serving_rmse, max_rmse_worse=0.25).accepted is accepted


def test_too_few_held_out_ratings_prove_nothing():
    found = verdict(n_holdout=49)
    assert not found.accepted
    assert found.headline == "only 49 held-out ratings (50 wanted)"
    assert found.reason.startswith(
        "Only 49 ratings could be held out newer than all that version 4, which serves, was trained on; at "
        "least 50 are wanted to judge. Wait for more ratings, or change MARQUEE_HOLDOUT_SHARE or "
        "MARQUEE_MIN_HOLDOUT. "
    )
    assert verdict(n_holdout=50).accepted


def test_no_hold_out_at_all_is_refused_by_its_count_not_by_its_nan():
    found = verdict(n_holdout=0, rmse=math.nan, serving_rmse=None, serving_version=None)
    assert not found.accepted
    assert found.reason.startswith("Only 0 ratings could be held out; at least 50 are wanted")


@pytest.mark.parametrize("rmse", [math.nan, math.inf, -math.inf])
def test_an_rmse_that_is_no_number_is_refused(rmse):
    assert not verdict(rmse=rmse).accepted
    assert not verdict(serving_rmse=rmse).accepted
    assert "is not a number" in verdict(rmse=rmse).reason
    assert "serving artifact" in verdict(serving_rmse=rmse).reason


@given(
    rmse=st.floats(0, 3),
    better=st.floats(0, 3),
    serving=st.none() | st.floats(0, 3),
    held=st.integers(0, 100),
)
def test_a_better_recipe_never_fares_worse(rmse, better, serving, held):
    low, high = sorted([rmse, better])
    if verdict(rmse=high, serving_rmse=serving, n_holdout=held).accepted:
        assert verdict(rmse=low, serving_rmse=serving, n_holdout=held).accepted


@given(rmse=st.floats(0, 3), serving=st.none() | st.floats(0, 3))
def test_what_is_refused_has_a_headline_and_what_is_accepted_has_none(rmse, serving):
    found = verdict(rmse=rmse, serving_rmse=serving)
    assert found.accepted is (found.headline == "")
    assert found.accepted is (rmse < 1.0 and (serving is None or rmse <= serving + 0.02))


@pytest.mark.parametrize("rival", ["popularity", "serving"])
@pytest.mark.parametrize(("measure", "name"), [("ndcg_at_10", "nDCG@10"), ("recall_at_20", "recall@20")])
def test_lists_worse_than_a_rival_are_refused(rival, measure, name):
    found = lists(**{f"{rival}_{measure}": 0.75})
    whose = {"popularity": "popularity", "serving": "the serving model"}[rival]
    ours = getattr(LISTS, measure)
    assert not found.accepted
    assert found.headline == f"{name} {ours:.4f} ({whose}: 0.7500)"
    assert f"The lists of 50 users are worse than {whose} by more than the 0.015625 allowed" in found.reason
    assert f"{name} {ours:.4f}, {whose} 0.7500 ({ours - 0.75:+.4f} ± " in found.reason
    assert found.reason.startswith("RMSE 0.9731 on 412 held-out ratings is below 1")


def test_lists_worse_than_both_rivals_name_both_and_lead_with_the_worst():
    found = lists(ndcg_at_10=0.1, recall_at_20=0.02)
    assert "worse than popularity and the serving model by more" in found.reason
    assert found.headline == "recall@20 0.0200 (the serving model: 0.2500)"


@pytest.mark.parametrize(
    ("serving", "error", "accepted"),
    [
        (0.5 + 0.015625, 0.0, True),  # as much worse as is allowed
        (0.5 + 0.03125, 0.0, False),
        (0.5 + 0.03125, 0.03125 / 2.326 * 0.999, False),
        (0.5 + 0.03125, 0.03125 / 2.326 * 1.001, True),  # chance explains it
        (0.5 + 0.0078125, 0.0001, True),  # surely worse, but by little
    ],
)
def test_lists_are_refused_when_worse_than_allowed_and_beyond_chance(serving, error, accepted):
    found = lists(ndcg_at_10=0.5, serving_ndcg_at_10=serving, serving_ndcg_se=error)
    assert found.accepted is accepted


def test_the_lists_of_too_few_users_are_not_judged_and_the_reason_says_so():
    found = lists(ndcg_at_10=0.0, n_ranked_users=29)
    assert found.accepted
    assert found.reason.endswith(" Ranking was not judged: 29 users, 30 wanted.")
    assert not lists(ndcg_at_10=0.0, n_ranked_users=30).accepted


def test_figures_that_tell_nothing_of_chance_are_not_judged():
    found = verdict(ranking=Ranking(ndcg_at_10=0.0, popularity_ndcg_at_10=0.5, n_ranked_users=99))
    assert found.accepted
    assert "Ranking was not judged: " in found.reason


def test_without_a_serving_model_the_lists_are_judged_beside_popularity():
    alone = dict.fromkeys([name for name in Ranking.__slots__ if name.startswith("serving")])
    assert ", the serving model" not in lists(**alone).reason
    assert not lists(**alone, ndcg_at_10=0.0).accepted


def test_a_bad_rmse_leads_but_the_lists_are_reported_too():
    found = verdict(rmse=1.5, ranking=replace(LISTS, ndcg_at_10=0.0))
    assert found.headline == "RMSE 1.5000 (limit 1)"
    assert "nDCG@10 0.0000, popularity 0.2000" in found.reason


@given(ndcg=st.floats(0, 1), better=st.floats(0, 1), rival=st.floats(0, 1), error=st.floats(0, 0.2))
def test_better_lists_never_fare_worse(ndcg, better, rival, error):
    low, high = sorted([ndcg, better])
    beside = {"popularity_ndcg_at_10": rival, "popularity_ndcg_se": error}
    if lists(ndcg_at_10=low, **beside).accepted:
        assert lists(ndcg_at_10=high, **beside).accepted


def test_lists_that_go_to_the_wrong_users_are_refused_and_the_right_ones_accepted(make_ratings, make_model):
    # Two camps of thirty users; each has seen eight of the camp's twelve movies and goes on to the others.
    seen = [(user, user % 2 * 12 + (user + step) % 12) for user in range(60) for step in range(8)]
    new = [(user, user % 2 * 12 + (user + step) % 12) for user in range(60) for step in range(8, 12)]
    serving = make_model(make_ratings([(f"u{user}", f"m{movie}", 4) for user, movie in seen]))
    pairs = make_ratings([(f"u{user}", f"m{movie}", 4) for user, movie in new])[["user_id", "movie_id"]]
    arrays = serving._arrays
    swapped = Model(serving.meta, replace(arrays, user_lists=np.roll(arrays.user_lists, 1, axis=0)))
    assert verdict(ranking=rank(serving, pairs, seed=0, serving=serving)).accepted
    found = verdict(ranking=rank(swapped, pairs, seed=0, serving=serving))
    assert not found.accepted
    assert "The lists of 60 users are worse than popularity and the serving model" in found.reason
