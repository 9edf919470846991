import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.model.evaluate import Evaluation
from pipelines.model.gate import judge

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
    ndcg_at_10=0.3,
    popularity_ndcg_at_10=0.2,
    n_ranked_users=50,
)


def verdict(max_rmse=1.0, max_rmse_worse=0.02, min_holdout=50, **changes):
    return judge(
        replace(GOOD, **changes), max_rmse=max_rmse, max_rmse_worse=max_rmse_worse, min_holdout=min_holdout
    )


def test_a_good_recipe_is_accepted_with_its_figures():
    found = verdict()
    assert found.accepted
    assert found.reason == (
        "RMSE 0.9731 on 412 held-out ratings is below 1 and not worse than the serving model's 0.9802 + 0.02."
    )
    assert (found.rmse, found.limit) == (0.9731, 1.0)


def test_without_a_serving_model_only_the_absolute_limit_counts():
    found = verdict(serving_rmse=None, serving_version=None)
    assert found.accepted
    assert found.reason == (
        "RMSE 0.9731 on 412 held-out ratings is below 1; no model serves yet to compare it with."
    )


def test_a_high_rmse_is_refused_beside_what_else_was_measured():
    found = verdict(rmse=1.25)
    assert not found.accepted
    assert found.reason == (
        "RMSE 1.2500 on 412 held-out ratings is not below 1 "
        "(the serving model: 0.9802; the movies' mean ratings alone: 0.9900)."
    )
    assert "none serves" in verdict(rmse=1.25, serving_rmse=None, serving_version=None).reason


def test_a_recipe_worse_than_what_serves_is_refused():
    found = verdict(rmse=0.95, serving_rmse=0.75)
    assert not found.accepted
    assert found.reason == (
        "RMSE 0.9500 on 412 held-out ratings is worse than the serving model's 0.7500 by 0.2000, "
        "more than the 0.02 allowed."
    )
    assert found.limit == 0.75 + 0.02


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
    assert found.reason == (
        "Only 49 ratings could be held out newer than all that version 4, which serves, was trained on; at "
        "least 50 are wanted to judge. Wait for more ratings, or change MARQUEE_HOLDOUT_SHARE or "
        "MARQUEE_MIN_HOLDOUT."
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
def test_the_limit_is_the_line_between_yes_and_no(rmse, serving):
    found = verdict(rmse=rmse, serving_rmse=serving)
    if found.accepted:
        assert found.rmse <= found.limit
    else:
        assert found.rmse >= found.limit
