"""Plan and measurement in, verdict and reason out; nothing is touched, nothing remembered.

Silence is not success: no traffic, a broken instrument and a slow candidate are three different
things. Only PASS promotes, only FAIL aborts; everything else holds and finally asks a person.
"""

from dataclasses import dataclass
from enum import StrEnum

from pipelines.release.measure import ArmFigures, Measurement
from pipelines.release.plan import Plan


class Verdict(StrEnum):
    """What one look at a candidate says."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    UNDECIDED = "undecided"
    NO_TRAFFIC = "no traffic"
    INSTRUMENT_BROKEN = "instrument broken"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, why, and whether the watch ends with it."""

    verdict: Verdict
    reason: str
    final: bool


def judge(plan: Plan, measurement: Measurement) -> Judgement:
    """Judge the candidate by one measurement taken ``measurement.elapsed_s`` into its window.

    A breach ends the watch at once; a pass only counts when the window is over. A candidate that could
    not be measured is held for ``plan.extension_s`` more, then the watch ends without pass or fail.
    """
    if measurement.canary is None:
        return _hold(plan, measurement, Verdict.INSTRUMENT_BROKEN, measurement.trouble)
    if not measurement.canary_up:
        return Judgement(Verdict.FAIL, _DOWN.format(seconds=measurement.up_window_s), final=True)
    if breach := _breach(plan, measurement.canary):
        return Judgement(Verdict.FAIL, breach, final=True)
    if measurement.canary.requests == 0:
        return _hold(plan, measurement, Verdict.NO_TRAFFIC, "the candidate got no request in its window")
    if measurement.canary.good < plan.min_requests:
        return _hold(plan, measurement, Verdict.UNDECIDED, _few(plan, measurement.canary))
    if measurement.elapsed_s < plan.window_s:
        left_s = plan.window_s - measurement.elapsed_s
        return Judgement(
            Verdict.UNDECIDED, f"{_fine(plan, measurement.canary)}; {left_s:.0f} s to go", final=False
        )
    return Judgement(Verdict.PASS, _fine(plan, measurement.canary), final=True)


_DOWN = "the candidate has been down for {seconds:.0f} s; the stable replicas answer its users"


def _hold(plan: Plan, measurement: Measurement, verdict: Verdict, reason: str) -> Judgement:
    final = measurement.elapsed_s >= plan.window_s + plan.extension_s
    return Judgement(verdict, reason, final)


def _breach(plan: Plan, canary: ArmFigures) -> str:
    """Name the limit that enough answers of the candidate break, or return nothing."""
    if canary.requests >= plan.min_requests and canary.error_share > plan.max_error_share:
        return (
            f"{canary.error_share:.1%} of {canary.requests:.0f} answers failed; "
            f"the limit is {plan.max_error_share:.1%}"
        )
    if canary.good >= plan.min_requests and canary.mean_ms >= plan.max_mean_ms:
        return (
            f"mean response time {canary.mean_ms:.1f} ms over {canary.good:.0f} good answers; "
            f"the limit is {plan.max_mean_ms:g} ms"
        )
    return ""


def _few(plan: Plan, canary: ArmFigures) -> str:
    return f"only {canary.good:.0f} good answers so far; a verdict needs {plan.min_requests}"


def _fine(plan: Plan, canary: ArmFigures) -> str:
    return (
        f"mean response time {canary.mean_ms:.1f} ms over {canary.good:.0f} good answers "
        f"is below {plan.max_mean_ms:g} ms, {canary.error_share:.1%} failed"
    )
