from dataclasses import replace

import numpy as np
import pytest

from pipelines.checks.drift import COLUMNS, compare, expected_new
from pipelines.checks.profile import Reference


@pytest.fixture
def model(profile):
    """A model of the profile, changed, that knows some users and movies."""

    def knowing(users=(), movies=(), **changes):
        known = (lambda ids: np.isin(ids, users)), (lambda ids: np.isin(ids, movies))
        return Reference(3, replace(profile, **changes), *known)

    return knowing


def only(rows):
    (row,) = rows.frame.to_dict("records")
    return row


def test_ratings_drift_by_the_star_that_moved_most(make_census, model):
    # Before 3 : 5 : 2.
    found = compare(make_census(stars=(0, 0, 10**9, 5 * 10**9, 4 * 10**9)), model())
    assert only(found)["rating_shift"] == pytest.approx(0.2, abs=1e-3)


def test_popularity_drifts_by_the_movies_on_top_before_and_all_others_together(make_census, model):
    # Before 6 : 3 : 1. Now c and d, which were among the others, have it all but for a tenth.
    now = make_census(movies=[("a", 10, 1, 0), ("c", 45, 1, 0), ("d", 45, 1, 0)], effective_viewings=1e9)
    before, after = np.array([0.6, 0.3, 0.1]), np.array([0.1, 0, 0.9])
    middle = (before + after) / 2
    bits = sum(
        0.5 * p * np.log2(p / m)
        for shares in (before, after)
        for p, m in zip(shares, middle, strict=True)
        if p
    )
    assert only(compare(now, model()))["popularity_shift"] == pytest.approx(bits)


def test_new_users_are_counted_by_their_days_and_compared_with_those_seen_once_before(make_census, model):
    days = 10**8
    now = make_census(users=[(1, 0, 0, 0, 2 * days, 0), (2, 0, 0, 0, 6 * days, 0), (3, 0, 0, 5, 0, 0)])
    row = only(compare(now, model(users=["1"])))
    assert row["new_user_share"] == 6 / 8
    assert row["new_user_excess"] == pytest.approx(6 / 8 - 0.4, abs=1e-3)


def test_new_movies_are_counted_by_their_viewers(make_census, model):
    viewers = 10**8
    now = make_census(movies=[("a", 0, 7 * viewers, 0), ("z", 0, 3 * viewers, 0)])
    row = only(compare(now, model(movies=["a"])))
    assert row["new_movie_share"] == 3 / 10
    assert row["new_movie_excess"] == pytest.approx(3 / 10 - 0.1, abs=1e-3)


def test_model_of_one_day_expects_everybody_to_be_new(make_census, model):
    young = model(visits=10**9, visits_once=10**9)
    row = only(compare(make_census(users=[(2, 0, 0, 0, 10**8, 0)]), young))
    assert (row["new_user_share"], row["new_user_excess"]) == (1, 0)


def test_little_is_not_compared_and_says_so(make_census, model):
    found = compare(make_census(stars=(0, 0, 99, 0, 0)), model())
    assert found.frame.isna().all(axis=None)
    assert found.unknown["rating_shift"] == (
        "too few to compare: 99 ratings, 10000000000 in the serving model's data; wanted are 100 each"
    )
    assert tuple(found.unknown) == tuple(found.frame) == COLUMNS


def test_those_seen_once_stand_for_those_not_seen():
    # A user of one day, one of two and one of three: of six visits one was its user's only one.
    assert expected_new(1, 1 + 2 + 3) == 1 / 6


def test_without_a_model_nothing_is_compared(make_census):
    found = compare(make_census(stars=(0, 0, 999, 0, 0)), "nothing serves")
    assert found.frame.isna().all(axis=None)
    assert set(found.unknown.values()) == {"nothing serves"}
