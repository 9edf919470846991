from math import comb, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.release.evidence import (
    least_share,
    least_size,
    log_e_above,
    log_e_more,
    log_e_other,
    quantile_bounds,
    shortfall,
    shows_more,
)

shares = st.floats(0.001, 0.999)
sizes = st.integers(1, 10_000)


def mean_e(log_e, n: int, p: float) -> float:
    """Return the exact mean of the e-value of a binomial count."""
    k = np.arange(n + 1)
    chances = np.array([comb(n, i) * p**i * (1 - p) ** (n - i) for i in k])
    return float(chances @ np.exp(log_e(k, n)))


@given(shares, st.integers(1, 12))
def test_a_fair_bet_earns_nothing_on_average(p, n):
    assert mean_e(lambda k, n: log_e_more(k, n, p), n, p) == pytest.approx(1)
    assert mean_e(lambda k, n: log_e_other(k, n, p), n, p) == pytest.approx(1)


@given(shares, st.floats(0.01, 1), st.integers(1, 12))
def test_a_claim_of_up_to_p_loses_nothing_on_smaller_shares(p, smaller, n):
    assert mean_e(lambda k, n: log_e_more(k, n, p), n, smaller * p) <= 1 + 1e-9


@given(shares, st.integers(1, 8), st.data())
def test_a_look_more_is_as_fair_as_the_last(p, n, data):
    # A martingale: whatever was seen, the mean of the next e-value is the present one.
    k = data.draw(st.integers(0, n))
    for log_e in (log_e_more, log_e_other):
        later = p * np.exp(log_e(k + 1, n + 1, p)) + (1 - p) * np.exp(log_e(k, n + 1, p))
        assert later == pytest.approx(np.exp(log_e(k, n, p)))


@given(shares, sizes, st.data())
def test_more_of_them_is_more_evidence(p, n, data):
    k = data.draw(st.integers(0, n - 1))
    assert log_e_more(k + 1, n, p) >= log_e_more(k, n, p)


@given(shares, sizes, st.data(), st.floats(0.001, 0.2))
def test_the_short_way_answers_as_the_long_one(p, n, data, alpha):
    k = data.draw(st.integers(0, n))
    assert shows_more(k, n, p, alpha) == (log_e_more(k, n, p) >= -log(alpha))


@pytest.mark.parametrize(("p", "alpha"), [(0.01, 0.0005), (0.05, 0.01), (0.5, 0.05), (0.99, 0.0005)])
def test_the_least_share_is_where_evidence_begins(p, alpha):
    n = np.geomspace(1, 1e5, 500)
    share = least_share(n, p, alpha)
    reachable = share <= 1
    more, less = np.minimum(1, share * 1.001), p + (share - p) * 0.999
    assert (share > p).all()
    assert shows_more(more * n, n, p, alpha)[reachable].all()
    assert not shows_more(less * n, n, p, alpha)[reachable].any()
    # Just before the first size that can show it, interpolation may say "not yet" too early: never too late.
    assert shows_more(n, n, p, alpha)[reachable].all()
    assert not shows_more(n, n, p, alpha)[~reachable][:-20].any()


@pytest.mark.parametrize("p", [0.05, 0.5, 0.95, 0.99])
def test_bounds_of_a_quantile_hold_it_and_close_in(p):
    n = np.array([10.0, 100.0, 1_000.0, 10_000.0, 1e6])
    low, high = quantile_bounds(n, p, 0.001)
    assert (low < p).all()
    assert (high > p).all()
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) <= 0).all()
    assert high[-1] - low[-1] < 0.01


def test_a_p99_has_no_upper_bound_from_few_answers():
    # 0.99^-n must reach 1 / alpha, the mixture costs a little more: log(1000) / -log(0.99) = 687
    n = least_size(lambda sizes: quantile_bounds(sizes, 0.99, 0.001)[1] <= 1)
    assert 687 < n < 1_000


def test_peeking_at_every_answer_keeps_the_error():
    rng, p, alpha, n = np.random.default_rng(1), 0.05, 0.05, np.arange(1, 1_001)
    k = np.cumsum(rng.random((1_000, len(n))) < p, axis=1)
    alarmed = shows_more(k, n, p, alpha).any(axis=1).mean()
    assert alarmed <= alpha


def test_a_mean_that_is_looked_at_all_the_time_keeps_the_error():
    rng, alpha, n = np.random.default_rng(1), 0.05, np.arange(1, 1_001)
    sums = np.cumsum(rng.standard_normal((1_000, len(n))), axis=1)
    alarmed = (log_e_above(sums / np.sqrt(n), n) >= -log(alpha)).any(axis=1).mean()
    assert alarmed <= alpha


@given(st.floats(-50, 50), st.floats(0, 10), st.integers(50, 100_000))
def test_further_above_is_more_evidence(sigmas, further, n):
    assert log_e_above(sigmas + further, n) >= log_e_above(sigmas, n)


def test_equal_answers_above_the_limit_are_decided_at_once():
    assert log_e_above(np.inf, 50) > 50
    assert log_e_above(-np.inf, 50) < 0


def test_least_size_is_the_one_from_which_on_it_holds():
    assert 100 <= least_size(lambda sizes: sizes >= 100) <= 102
    assert least_size(lambda sizes: sizes > 0) == 1
    assert least_size(lambda sizes: sizes < 0) == np.inf


def test_a_count_falls_short_of_its_shortfall_once_in_five():
    rng = np.random.default_rng(1)
    least = shortfall(np.array(300.0), np.array(1_000.0))
    assert (rng.binomial(1_000, 0.3, size=20_000) > least).mean() == pytest.approx(0.8, abs=0.02)
