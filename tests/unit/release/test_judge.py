from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.release.judge import Verdict, judge
from pipelines.release.measure import ArmFigures, Measurement
from pipelines.release.plan import Plan

PLAN = Plan(
    canary_percent=20,
    window_s=43_200,
    extension_s=3_600,
    max_mean_ms=500,
    min_requests=50,
    max_error_share=0.05,
)
GOOD = ArmFigures(requests=1_000, good=1_000, good_ms=1_000 * 80.0)
OVER = 43_200.0


def measured(
    canary: ArmFigures | None = GOOD, *, elapsed_s: float = OVER, up: bool = True, trouble: str = ""
) -> Measurement:
    return Measurement(elapsed_s=elapsed_s, canary=canary, stable=GOOD, canary_up=up, trouble=trouble)


def test_fast_candidate_passes_when_its_window_is_over():
    judgement = judge(PLAN, measured())
    assert (judgement.verdict, judgement.final) == (Verdict.PASS, True)
    assert "80.0 ms over 1000 good answers" in judgement.reason


def test_fast_candidate_is_undecided_before_its_window_is_over():
    judgement = judge(PLAN, measured(elapsed_s=OVER - 60))
    assert (judgement.verdict, judgement.final) == (Verdict.UNDECIDED, False)
    assert "60 s to go" in judgement.reason


def test_slow_candidate_fails_at_once_with_observed_and_limit():
    judgement = judge(PLAN, measured(replace(GOOD, good_ms=1_000 * 700.0), elapsed_s=30))
    assert (judgement.verdict, judgement.final) == (Verdict.FAIL, True)
    assert "700.0 ms" in judgement.reason
    assert "500 ms" in judgement.reason


def test_mean_at_the_limit_is_not_below_it():
    assert judge(PLAN, measured(replace(GOOD, good_ms=1_000 * 500.0))).verdict is Verdict.FAIL


def test_failing_candidate_fails_though_its_good_answers_are_fast():
    judgement = judge(PLAN, measured(ArmFigures(requests=100, good=94, good_ms=94 * 5.0)))
    assert judgement.verdict is Verdict.FAIL
    assert "6.0%" in judgement.reason


def test_errors_at_the_limit_pass():
    assert judge(PLAN, measured(ArmFigures(requests=100, good=95, good_ms=95 * 5.0))).verdict is Verdict.PASS


def test_candidate_that_only_fails_is_not_mistaken_for_one_without_traffic():
    assert judge(PLAN, measured(ArmFigures(requests=60, good=0, good_ms=0))).verdict is Verdict.FAIL


def test_few_slow_answers_are_no_verdict_yet():
    judgement = judge(PLAN, measured(ArmFigures(requests=49, good=49, good_ms=49 * 900.0), elapsed_s=30))
    assert (judgement.verdict, judgement.final) == (Verdict.UNDECIDED, False)


def test_silence_is_neither_pass_nor_fail():
    nothing = ArmFigures(requests=0, good=0, good_ms=0)
    assert judge(PLAN, measured(nothing)) == judge(PLAN, measured(nothing, elapsed_s=OVER + 3_599))
    assert judge(PLAN, measured(nothing)).verdict is Verdict.NO_TRAFFIC
    assert not judge(PLAN, measured(nothing)).final


def test_broken_instrument_is_neither_pass_nor_fail():
    judgement = judge(PLAN, measured(None, up=False, trouble="Prometheus gave no answer"))
    assert (judgement.verdict, judgement.final) == (Verdict.INSTRUMENT_BROKEN, False)
    assert judgement.reason == "Prometheus gave no answer"


@pytest.mark.parametrize("canary", [None, ArmFigures(0, 0, 0), ArmFigures(10, 10, 50)])
def test_unmeasured_candidate_ends_without_pass_or_fail_after_the_extension(canary):
    judgement = judge(PLAN, measured(canary, elapsed_s=OVER + 3_600, trouble="silent"))
    assert judgement.final
    assert judgement.verdict not in (Verdict.PASS, Verdict.FAIL)


def test_dead_candidate_fails():
    judgement = judge(PLAN, measured(up=False))
    assert (judgement.verdict, judgement.final) == (Verdict.FAIL, True)
    assert "down for 30 s" in judgement.reason


counts = st.integers(0, 10_000)


@given(
    requests=counts,
    bad=counts,
    mean_ms=st.floats(0, 5_000),
    elapsed_s=st.floats(0, 2 * OVER),
    up=st.booleans(),
)
def test_only_a_measured_candidate_passes_and_only_after_its_window(requests, bad, mean_ms, elapsed_s, up):
    good = max(0, requests - bad)
    figures = ArmFigures(requests, good, good * mean_ms)
    judgement = judge(PLAN, measured(figures, elapsed_s=elapsed_s, up=up))
    if judgement.verdict is Verdict.PASS:
        assert up
        assert good >= PLAN.min_requests
        assert elapsed_s >= PLAN.window_s
        assert figures.mean_ms < PLAN.max_mean_ms
    assert judgement.reason
