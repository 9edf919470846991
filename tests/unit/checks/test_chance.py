import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.checks.chance import SIGMAS, divergence, excess, largest_move

STARS = np.array([0.008, 0.032, 0.30, 0.48, 0.18])
EVEN = np.full(100, 0.01)
counts = st.lists(st.integers(1, 10_000), min_size=5, max_size=5).map(np.array)


# --- the largest move ---------------------------------------------------------------------------------


def test_largest_move_of_many_is_the_difference_of_the_share_that_moved_most():
    before, after = np.array([0, 0, 5, 3, 2]) * 10**9, np.array([0, 0, 1, 5, 4]) * 10**9
    assert largest_move(before, after) == pytest.approx(0.5 - 0.1, abs=1e-3)


def test_largest_move_of_few_is_less_by_what_chance_gives():
    before, after = np.array([50, 50]), np.array([0, 100])
    noise = SIGMAS * (0.25 * 0.75 * (1 / 100 + 1 / 100)) ** 0.5  # a quarter of all 200 are in the first
    assert largest_move(before, after) == pytest.approx(0.5 - noise)


@given(counts)
def test_nothing_has_moved_from_a_sample_to_itself(sample):
    assert largest_move(sample, sample) == 0


@pytest.mark.parametrize("n", [100, 300, 1_600, 100_000])
def test_samples_of_one_world_do_not_move_beyond_chance(n):
    draw = np.random.default_rng(n)
    moves = [largest_move(draw.multinomial(10_000, STARS), draw.multinomial(n, STARS)) for _ in range(1_000)]
    # Five shares, each beyond four sigmas once in 15,000 times: one sample in 3,000; then by very little.
    assert np.count_nonzero(moves) <= 5
    assert max(moves) < 0.05


def test_three_hundred_ratings_show_that_dice_are_rolled():
    before, after = np.round(STARS * 100_000).astype(int), np.full(5, 60)
    assert largest_move(before, after) > 0.1


# --- divergence ---------------------------------------------------------------------------------------


def test_divergence_of_many_is_that_of_jensen_and_shannon():
    # Half of each lies where the other has nothing: half a bit.
    before, after = np.array([0.5, 0.5, 0]), np.array([0, 0.5, 0.5])
    assert divergence(before, after, 1e12, 1e12) == pytest.approx(0.5)
    assert divergence(before, before, 1e12, 1e12) == 0


def test_divergence_of_worlds_without_anything_in_common_is_one_bit():
    assert divergence(np.array([1.0, 0]), np.array([0, 1.0]), 1e12, 1e12) == pytest.approx(1)


@pytest.mark.parametrize("n", [100, 1_000, 100_000])
def test_samples_of_one_world_do_not_diverge_beyond_chance(n):
    draw = np.random.default_rng(n)
    before, after = draw.multinomial(50_000, EVEN, 1_000) / 50_000, draw.multinomial(n, EVEN, 1_000) / n
    assert max(map(divergence, before, after, [50_000] * 1_000, [n] * 1_000)) < 0.01


def test_chance_of_two_samples_is_what_their_sizes_say():
    # With 8 ln 2 / (1/n + 1/m) times the divergence being chi-squared, its mean says how far they diverge.
    draw, n, m = np.random.default_rng(1), 4_000, 1_000
    pairs = zip(draw.multinomial(n, EVEN, 500) / n, draw.multinomial(m, EVEN, 500) / m, strict=True)
    found = np.mean([divergence(before, after, 1e12, 1e12) for before, after in pairs])
    freedom = len(EVEN) - 1
    assert found == pytest.approx(freedom * (1 / n + 1 / m) / (8 * np.log(2)), rel=0.05)


@given(counts, counts)
def test_divergence_is_the_same_both_ways_and_within_a_bit(one, other):
    shares = one / one.sum(), other / other.sum()
    there, back = divergence(*shares, 1e12, 1e12), divergence(*reversed(shares), 1e12, 1e12)
    assert there == pytest.approx(back)
    assert 0 <= there <= 1


# --- excess -------------------------------------------------------------------------------------------


def test_excess_is_what_is_more_than_expected_and_than_chance():
    assert excess(0.7, 0.2, 1e12, 1e12) == pytest.approx(0.5, abs=1e-4)
    assert excess(0.2, 0.7, 1e12, 1e12) == 0
    assert excess(0.55, 0.5, 100, 100) == 0
    noise = SIGMAS * (0.75 * 0.25 * (1 / 100 + 1 / 100)) ** 0.5
    assert excess(1.0, 0.5, 100, 100) == pytest.approx(0.5 - noise)
