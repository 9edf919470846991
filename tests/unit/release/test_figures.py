import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import MeasurementError
from pipelines.release.figures import (
    GRID,
    ArmFigures,
    Clusters,
    Count,
    Mean,
    Measurement,
    Quantiles,
    Scraped,
    Users,
)


def clusters(x, of) -> Clusters:
    """Add up values by the cluster that each is of."""
    x, n = np.bincount(of, x), np.bincount(of)
    return Clusters(float(x @ x), float(x @ n), float(n @ n))


def count(flags, users, blocks) -> Count:
    return Count(sum(flags), len(flags), clusters(flags, users), clusters(flags, blocks))


def each_alone(flags) -> Count:
    alone = np.arange(len(flags))
    return count(flags, alone, alone)


def test_answers_of_different_users_and_minutes_are_worth_themselves():
    failed = each_alone([1, 0, 0, 0])
    assert failed.share == 0.25
    assert failed.design_effect == pytest.approx(1)
    assert failed.worth == (pytest.approx(1), pytest.approx(4))


def test_users_who_always_get_the_same_are_worth_one_answer_each():
    # Four users, three answers each, one always from below: (3² · ¾² + 3 · 3² · ¼²) / (12 · ¼ · ¾) = 3
    below = count([1] * 3 + [0] * 9, np.repeat(range(4), 3), range(12))
    assert below.design_effect == pytest.approx(3)
    assert below.worth[1] == pytest.approx(4)


def test_clusters_of_both_kinds_add_up():
    users, minutes = np.repeat(range(4), 3), np.tile(range(3), 4)
    by_both = count([1] * 3 + [0] * 9, users, minutes)
    assert by_both.users.design_effect(0.25, 12 * 3 / 16) == pytest.approx(3)
    # Each minute has one of four: they do not differ at all, which is no reason to believe more.
    assert by_both.design_effect == pytest.approx(3)


@pytest.mark.parametrize("flags", [[0, 0, 0], [1, 1, 1]])
def test_a_share_without_variation_has_no_design_effect(flags):
    assert count(flags, [0, 0, 0], [0, 0, 0]).design_effect == 1


def test_nothing_is_worth_nothing():
    nothing = Count(0, 0, Clusters(0, 0, 0), Clusters(0, 0, 0))
    assert (nothing.share, nothing.design_effect, nothing.worth) == (0, 1, (0, 0))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60))
def test_clustered_answers_are_never_worth_more_than_themselves(answers):
    flags, users, blocks = (np.array(column, dtype=int) for column in zip(*answers, strict=True))
    counted = count(flags, users, blocks)
    k, n = counted.worth
    assert 0 <= k <= counted.k
    assert n <= counted.n


def time_of(times, users, blocks) -> Mean:
    return Mean(
        len(times), sum(times), sum(t * t for t in times), clusters(times, users), clusters(times, blocks)
    )


def test_slow_minutes_make_a_mean_worth_less():
    times = [10.0, 10.0, 30.0, 30.0]
    apart, together = time_of(times, range(4), range(4)), time_of(times, range(4), [0, 0, 1, 1])
    assert (apart.mean, apart.variance) == (20, 100)
    assert apart.effective_n == pytest.approx(4)
    assert together.effective_n == pytest.approx(2)


def test_equal_times_have_no_variance_however_they_round():
    assert time_of([700.1] * 997, range(997), range(997)).variance == 0


def test_quantiles_are_order_statistics_of_the_answers():
    quantiles = Quantiles.of(np.arange(1.0, 1_001.0))
    assert quantiles.at(0.95, "upper") == quantiles.at(0.95, "lower") == 950
    assert quantiles.at(0.99, "upper") == 990
    assert quantiles.at(1.0, "upper") == 1_000


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=200), st.floats(0.5, 1))
def test_a_bound_lies_on_its_side(times, probability):
    times = np.array(times)
    quantiles, exact = Quantiles.of(times), np.quantile(times, probability, method="inverted_cdf")
    assert quantiles.at(probability, "lower") <= exact <= quantiles.at(probability, "upper")


def test_what_cannot_be_known_is_no_bound():
    quantiles = Quantiles.of(np.array([10.0, 20.0]))
    assert quantiles.at(-1.0, "lower") == 0
    assert quantiles.at(2.0, "upper") == np.inf
    assert Quantiles.of(np.array([])).at(0.99, "lower") == 0
    assert Quantiles.of(np.array([])).at(0.99, "upper") == np.inf


def test_many_looks_read_their_quantiles_at_once():
    looks = np.stack([Quantiles.of(np.arange(1.0, n + 1)).values_ms for n in (100, 1_000)])
    at = Quantiles(GRID, looks).at(np.array([0.95, 2.0]), "upper")
    assert at.tolist() == [95, np.inf]
    assert Quantiles(GRID, looks).at(0.95, "upper").tolist() == [95, 950]


def arm(times) -> ArmFigures:
    failed = each_alone([0] * len(times))
    alone = range(len(times))
    return ArmFigures(
        users=len(times),
        answers=len(times),
        failed=failed,
        below=failed,
        short=failed,
        slower_p95=failed,
        slower_p99=failed,
        time=time_of(times, alone, alone),
        quantiles=Quantiles.of(np.array(times)),
        wrong_version=0,
    )


@pytest.mark.parametrize("scraped", [None, Scraped(3.5, 3.0, 20.0, True), Scraped(0.0, 0.0, np.nan, False)])
def test_a_look_comes_back_from_its_row(scraped):
    look = Measurement(60.0, arm([10.0, 20.0, 30.0]), arm([15.0]), Users(3, 4, 0), scraped, "why")
    row = look.as_row()
    back = Measurement.from_row(json.loads(json.dumps(row, allow_nan=False)))
    assert back.as_row() == row
    assert back.canary.time == look.canary.time
    assert back.canary.quantiles.at(0.99, "upper") == 30


def test_a_look_without_answers_comes_back_too():
    look = Measurement(60.0, arm([]), arm([]), Users(0, 0, 0), None, "silent")
    back = Measurement.from_row(json.loads(json.dumps(look.as_row(), allow_nan=False)))
    assert np.isnan(back.canary.time.mean)
    assert back.canary.quantiles.at(0.99, "upper") == np.inf


def test_rows_of_older_releases_are_refused_with_the_reason():
    old = {"elapsed_s": 60.0, "canary": {"requests": 10, "good": 10, "good_ms": 50.0}, "canary_up": True}
    with pytest.raises(MeasurementError, match="releases before"):
        Measurement.from_row(old)
