"""Plan and measurement in, verdict and reason out; nothing is touched, nothing remembered.

Silence is not success: no traffic, a broken instrument and a slow candidate are three different things.
Only PASS promotes, only FAIL aborts; everything else holds and finally asks a person.

Numbers may be arrays: the simulation in `tests/benchmarks/verdicts.py`, which prints how often this errs,
judges whole watches by this very code.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.release.figures import ArmFigures, Flags, Measurement, Number, ratio
from pipelines.release.plan import Plan
from pipelines.release.rules import (
    LEAST_ANSWERS,
    Finding,
    Need,
    Reading,
    needs,
    plain_rules,
    tested_rules,
)

LAG_S: Final = 15.0
"""How far apart receipts and Prometheus may see the present: a scrape, and the way of a receipt."""
_LAG_ANSWERS: Final = 10
"""Answers that the two may differ by however few there are."""
_LAG_MS: Final = 5.0
"""Response time that the two may differ by: they start their clocks at different places."""
_NOISE_SIGMAS: Final = 4.0


class Verdict(StrEnum):
    """What one look at a candidate says."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    UNDECIDED = "undecided"
    NO_TRAFFIC = "no traffic"
    INSTRUMENT_BROKEN = "instrument broken"


_IN_ORDER: Final = (Verdict.INSTRUMENT_BROKEN, Verdict.FAIL, Verdict.NO_TRAFFIC, Verdict.UNDECIDED)
"""The first of these that holds is the verdict; none of them is a pass."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, why, and whether the watch ends with it."""

    verdict: Verdict
    reason: str
    final: bool
    readings: tuple[Reading, ...] = ()
    progress: float = 0.0
    """Share of the answers that a pass needs, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Looks judged, element by element."""

    verdict: npt.NDArray[np.str_]
    final: Flags
    progress: Number
    findings: tuple[Finding, ...]
    needs: tuple[Need, ...]


def judge(plan: Plan, measurement: Measurement) -> Judgement:
    """Judge the candidate by one look taken ``measurement.elapsed_s`` into its window.

    A breach ends the watch at once; a pass counts when the window is over, or as soon as there are enough
    answers if the plan promotes early. A candidate that could not be measured is held for
    ``plan.extension_s`` more, then the watch ends without pass or fail.
    """
    judged = verdicts(plan, measurement)
    verdict = Verdict(judged.verdict.item())
    readings = tuple(finding.reading() for finding in judged.findings)
    reason = _reason(verdict, plan, measurement, readings, judged.needs)
    return Judgement(verdict, reason, bool(judged.final), readings, float(judged.progress))


def verdicts(plan: Plan, measurement: Measurement) -> Verdicts:
    """Judge one look, or each of an array of looks; the shape is that of ``measurement.elapsed_s``."""
    canary, stable = measurement.canary, measurement.stable
    elapsed_s = np.asarray(measurement.elapsed_s)
    over = elapsed_s >= plan.window_s
    plain = plain_rules(measurement)
    findings = (*plain, *tested_rules(plan, measurement, over))
    wanted = needs(plan, measurement)
    progress = np.minimum.reduce([np.minimum(1.0, need.have / need.answers) for need in wanted])
    surely = np.any([finding.breached for finding in plain], axis=0)
    doubtful = _apart(plan, measurement) | (np.asarray(stable.wrong_version) > 0)
    verdict = np.select(
        [
            np.broadcast_to(_dead(measurement) | (doubtful & ~surely), elapsed_s.shape),
            np.any([finding.breached for finding in findings], axis=0),
            np.asarray(canary.answers) == 0,
            (progress < 1) | ~(over | plan.early_promotion) | ~(canary.time.mean < plan.max_mean_ms),
        ],
        [name.value for name in _IN_ORDER],
        Verdict.PASS.value,
    )
    ends = (verdict == Verdict.FAIL.value) | (verdict == Verdict.PASS.value)
    return Verdicts(
        verdict, ends | (elapsed_s >= plan.window_s + plan.extension_s), progress, findings, wanted
    )


# --- instruments --------------------------------------------------------------------------------------------


def _dead(measurement: Measurement) -> bool:
    return measurement.scraped is None or bool(measurement.trouble)


def _apart(plan: Plan, measurement: Measurement) -> Flags:
    """Whether receipts and Prometheus disagree by more than the tolerance and what lag explains."""
    return _answers_apart(plan, measurement) | _means_apart(plan, measurement)


def _answers_apart(plan: Plan, measurement: Measurement) -> Flags:
    if measurement.scraped is None:
        return np.zeros(np.shape(measurement.elapsed_s), bool)
    ours, theirs = measurement.canary.answers, measurement.scraped.answers
    most = np.maximum(ours, theirs)
    lagging = most * np.minimum(1.0, ratio(LAG_S, measurement.elapsed_s, without=1.0))
    return np.asarray(np.abs(ours - theirs) > plan.instrument_tolerance * most + lagging + _LAG_ANSWERS)


def _means_apart(plan: Plan, measurement: Measurement) -> Flags:
    if measurement.scraped is None:
        return np.zeros(np.shape(measurement.elapsed_s), bool)
    time, scraped = measurement.canary.time, measurement.scraped
    noise_ms = _NOISE_SIGMAS * np.sqrt(ratio(time.variance, time.effective_n, without=0.0))
    apart = np.abs(time.mean - scraped.mean_ms) > plan.instrument_tolerance * time.mean + noise_ms + _LAG_MS
    return np.asarray(apart & (np.minimum(time.n, scraped.good) >= LEAST_ANSWERS))


# --- words --------------------------------------------------------------------------------------------------


def _reason(
    verdict: Verdict,
    plan: Plan,
    measurement: Measurement,
    readings: tuple[Reading, ...],
    needs: tuple[Need, ...],
) -> str:
    match verdict:
        case Verdict.INSTRUMENT_BROKEN:
            return _trouble(plan, measurement)
        case Verdict.FAIL:
            return next(reading.reason for reading in readings if reading.breached)
        case Verdict.NO_TRAFFIC:
            return "the candidate got no request in its window"
        case Verdict.UNDECIDED:
            return _wanting(plan, measurement, needs)
        case Verdict.PASS:
            return _fine(plan, measurement.canary)


def _trouble(plan: Plan, measurement: Measurement) -> str:
    if measurement.scraped is None or measurement.trouble:
        return measurement.trouble or "Prometheus did not answer"
    canary, scraped = measurement.canary, measurement.scraped
    if _answers_apart(plan, measurement):
        return (
            f"receipts tell of {canary.answers:.0f} answers of the candidate, Prometheus of "
            f"{scraped.answers:.0f}; they may differ by {plan.instrument_tolerance:.0%} and what is under way"
        )
    if _means_apart(plan, measurement):
        return (
            f"mean response time {canary.time.mean:.1f} ms by receipts, {scraped.mean_ms:.1f} ms by "
            f"Prometheus; they may differ by {plan.instrument_tolerance:.0%} and chance"
        )
    return (
        f"{measurement.stable.wrong_version:.0f} of stable's {measurement.stable.answers:.0f} answers came "
        "from another version than the candidate is compared with"
    )


def _wanting(plan: Plan, measurement: Measurement, needs: tuple[Need, ...]) -> str:
    left_s = plan.window_s - float(measurement.elapsed_s)
    to_go = f"; {left_s:.0f} s to go" if left_s > 0 else ""
    need = min(needs, key=lambda need: need.have / need.answers)
    if need.have < need.answers:
        share = need.have / need.answers
        return (
            f"{measurement.canary.answers:.0f} answers so far, worth {need.have:.0f} independent ones; "
            f"to see {need.effect} takes {need.answers:.0f} ({share:.0%}){to_go}"
        )
    return _fine(plan, measurement.canary) + to_go


def _fine(plan: Plan, canary: ArmFigures) -> str:
    mean_ms = float(canary.time.mean)
    is_so = "is below" if mean_ms < plan.max_mean_ms else "is not below"
    return (
        f"mean response time {mean_ms:.1f} ms over {canary.time.n:.0f} good answers "
        f"{is_so} {plan.max_mean_ms:g} ms, {canary.failed.share:.1%} failed"
    )
