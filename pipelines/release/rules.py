"""The rules a candidate is judged by: each reads a value, knows its limit and says whether it is broken.

Comparisons are sequential tests (:mod:`pipelines.release.evidence`) on counts of independent answers
(:mod:`pipelines.release.figures`): answers divided by how they cluster by user and by minute. However often
one looks, a sound candidate breaks any of them with a chance of ``plan.false_abort`` at most, which they
share evenly. Numbers may be arrays: one look, or many at once.
"""

from dataclasses import asdict, dataclass, field
from functools import lru_cache
from math import isfinite
from typing import Any, Final

import numpy as np

from pipelines.release import evidence
from pipelines.release.figures import (
    ArmFigures,
    Count,
    Doubles,
    Flags,
    Mean,
    Measurement,
    Number,
    Users,
    ratio,
)
from pipelines.release.plan import Plan

LEAST_ANSWERS: Final = 50
"""Good answers from which on response times and common shares are judged: fewer say too little of a mean."""
TESTED: Final = 9
"""Rules that test, and share ``plan.false_abort``."""
_FEW_BLOCKS: Final = 10.0
_IMPOSSIBLE: Final = 1e-9
_NO_ERROR: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Reading:
    """What one rule reads in a look."""

    rule: str
    value: float
    """NaN: nothing to read."""
    limit: float
    unit: str
    breached: bool
    reason: str

    def as_row(self) -> dict[str, Any]:
        """Return what the ledger keeps; None where there is nothing to read."""
        return asdict(self) | {
            "value": self.value if isfinite(self.value) else None,
            "limit": self.limit if isfinite(self.limit) else None,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule finds in a look, or in each of many."""

    rule: str
    value: Number
    limit: Number
    unit: str
    breached: Any
    """bool, or an array of them."""
    says: str
    """The sentence, with places for value, limit and ``facts``."""
    facts: dict[str, Number] = field(default_factory=dict)
    fine: str = ""
    """What is said instead where nothing is broken."""

    def reading(self) -> Reading:
        """Return the reading of a single look."""
        value, limit, breached = float(self.value), float(self.limit), bool(self.breached)
        says = self.says if breached or not self.fine else self.fine
        reason = says.format(value=value, limit=limit, **self.facts)
        if not isfinite(value) or not isfinite(limit):
            reason = "too few answers to read anything yet"
        elif not breached and value > limit:
            reason += "; that may be chance"
        return Reading(self.rule, value, limit, self.unit, breached, reason)


@dataclass(frozen=True, slots=True)
class Need:
    """How many independent answers of the candidate an effect takes to be seen, and how many there are."""

    effect: str
    answers: float
    have: Number


def plain_rules(measurement: Measurement) -> tuple[Finding, ...]:
    """Read what needs no test: the candidate is there, and it is the candidate."""
    scraped, canary = measurement.scraped, measurement.canary
    down = np.zeros(np.shape(measurement.elapsed_s)) if scraped is None else 1.0 - np.asarray(scraped.up)
    return (
        Finding(
            "up",
            down,
            0.0,
            "replicas",
            down > 0,
            "the candidate is down; the stable replicas answer its users",
            fine="the candidate is up",
        ),
        Finding(
            "version",
            canary.wrong_version,
            0.0,
            "answers",
            np.asarray(canary.wrong_version) > 0,
            "{value:.0f} of the canary's {n:.0f} answers came from another version than the candidate",
            {"n": canary.answers},
        ),
    )


def tested_rules(plan: Plan, measurement: Measurement, over: Flags) -> tuple[Finding, ...]:
    """Read what may be chance; ``over``: the window is."""
    alpha = plan.false_abort / TESTED
    canary, stable = measurement.canary, measurement.stable
    return (
        _mean(plan, canary.time, over, alpha),
        _cap(plan, canary.failed, alpha),
        _more_often("errors", "failed", canary.failed, stable.failed, plan.max_error_ratio, alpha),
        _more_often("short lists", "were short", canary.short, stable.short, plan.max_short_ratio, alpha),
        _below(plan, canary.below, stable.below, alpha),
        _tail(0.95, plan.max_p95_ratio, plan, canary, stable, alpha),
        _tail(0.99, plan.max_p99_ratio, plan, canary, stable, alpha),
        *(_split_rules(plan, measurement.users, alpha) if plan.canary_percent else ()),
    )


def _mean(plan: Plan, time: Mean, over: Flags, alpha: float) -> Finding:
    """Read the mean: the ancestor's rule once the window is over, before that what is surely too much."""
    excess = time.mean - plan.max_mean_ms
    error = np.sqrt(ratio(time.variance, time.effective_n, without=np.nan))
    # Where all answers are alike the error is 0, and all of them are above.
    surely = _shown(evidence.log_e_above(excess / np.maximum(error, _NO_ERROR), time.effective_n), alpha)
    return Finding(
        "mean",
        time.mean,
        plan.max_mean_ms,
        "ms",
        (np.asarray(time.n) >= LEAST_ANSWERS) & (surely | (over & (excess >= 0))),
        "mean response time {value:.1f} ms over {n:.0f} good answers; the limit is {limit:g} ms",
        {"n": time.n},
    )


def _cap(plan: Plan, failed: Count, alpha: float) -> Finding:
    k, n = failed.worth
    return Finding(
        "error cap",
        failed.share,
        plan.max_error_share,
        "share",
        evidence.shows_more(k, n, plan.max_error_share, alpha),
        "{value:.1%} of {n:.0f} answers failed; the limit is {limit:.1%}",
        {"n": failed.n},
    )


def _more_often(rule: str, what: str, ours: Count, theirs: Count, most: float, alpha: float) -> Finding:
    """Read whether the candidate has more of all such answers than ``most`` times its traffic explains."""
    (k, n), (k_stable, n_stable) = ours.worth, theirs.worth
    part = ratio(most * n, most * n + n_stable, without=0.5)
    part = np.clip(part, _IMPOSSIBLE, 1 - _IMPOSSIBLE)
    return Finding(
        rule,
        ours.share,
        most * theirs.share,
        "share",
        evidence.shows_more(k, k + k_stable, part, alpha),
        f"{{value:.2%}} of {{n:.0f}} answers {what}; the limit is {{limit:.2%}}, {most:g} x stable's",
        {"n": ours.n},
    )


def _below(plan: Plan, ours: Count, theirs: Count, alpha: float) -> Finding:
    n, n_stable = ours.worth[1], theirs.worth[1]
    error = np.sqrt(_variance(ours.share, n) + _variance(theirs.share, n_stable))
    limit = theirs.share + plan.max_below_worse
    both = ratio(n * n_stable, n + n_stable, without=0.0)
    return Finding(
        "below personal",
        ours.share,
        limit,
        "share",
        (np.minimum(ours.n, theirs.n) >= LEAST_ANSWERS)
        & _shown(evidence.log_e_above((ours.share - limit) / error, both), alpha),
        "{value:.1%} of {n:.0f} good answers from below the personal rung; "
        f"the limit is {{limit:.1%}}, {plan.max_below_worse:.1%} more than stable's",
        {"n": ours.n},
    )


def _tail(p: float, most: float, plan: Plan, canary: ArmFigures, stable: ArmFigures, alpha: float) -> Finding:
    """Read whether the candidate's quantile at its least is above the limit by stable's at its most."""
    low, _ = evidence.quantile_bounds(_slower(canary, p).worth[1], p, alpha / 2)
    _, high = evidence.quantile_bounds(_slower(stable, p).worth[1], p, alpha / 2)
    least_ms = canary.quantiles.at(low, "lower")
    most_ms = np.maximum(most * stable.quantiles.at(high, "upper"), plan.tail_floor_ms)
    return Finding(
        f"p{p * 100:.0f}",
        canary.quantiles.at(p, "upper"),
        np.maximum(most * stable.quantiles.at(p, "upper"), plan.tail_floor_ms),
        "ms",
        (np.asarray(canary.time.n) >= LEAST_ANSWERS) & (least_ms > most_ms),
        f"p{p * 100:.0f} {{value:.1f}} ms over {{n:.0f}} good answers; "
        f"the limit is {{limit:.1f}} ms, {most:g} x stable's and {plan.tail_floor_ms:g} ms at least",
        {"n": canary.time.n},
    )


def _split_rules(plan: Plan, users: Users, alpha: float) -> tuple[Finding, ...]:
    """Read whether as many users as should be met the candidate, and each only one arm."""
    wanted, n = plan.canary_percent / 100, users.total
    return (
        Finding(
            "split",
            ratio(users.canary, n, without=wanted),
            wanted,
            "share",
            # Nobody at all is no wrong split: it is no traffic.
            (np.asarray(users.canary) > 0) & _shown(evidence.log_e_other(users.canary, n, wanted), alpha),
            "{value:.1%} of {n:.0f} users met the candidate; the split is {limit:.0%}",
            {"n": n},
        ),
        Finding(
            "mixed users",
            ratio(users.mixed, n, without=0.0),
            plan.max_mixed_users,
            "share",
            evidence.shows_more(users.mixed, n, plan.max_mixed_users, alpha),
            "{value:.1%} of {n:.0f} users met both arms; the limit is {limit:.1%}",
            {"n": n},
        ),
    )


def _shown(log_e: Number, alpha: float) -> Flags:
    return np.asarray(log_e >= -np.log(alpha))


def _slower(arm: ArmFigures, p: float) -> Count:
    return arm.slower_p95 if p == 0.95 else arm.slower_p99


def _variance(share: Number, n: Number) -> Number:
    """Return the squared standard error of a share, never 0: as if half an answer more were on each side."""
    smooth = (share * n + 0.5) / (n + 1)
    return smooth * (1 - smooth) / (n + 1)


# --- enough answers ----------------------------------------------------------------------------------------


def needs(plan: Plan, measurement: Measurement) -> tuple[Need, ...]:
    """Return what the watch must be able to see, with the answers that takes and those there are."""
    canary, stable = measurement.canary, measurement.stable
    sizes = least_sizes(plan)
    p = 0.95 if sizes.p95 < sizes.p99 else 0.99

    def have(ours: Count, theirs: Count, seen: float = 0.0, usual: float = 0.0) -> Number:
        """Independent answers of the candidate; fewer where stable has too few beside them."""
        n, n_stable = ours.n / _effect_at(ours, seen), theirs.n / _effect_at(theirs, usual)
        alike = ratio((1 + 1 / _beside(plan)) * n * n_stable, n + n_stable, without=0.0)
        return np.minimum(n, alike)

    return (
        Need("a mean response time", LEAST_ANSWERS, canary.time.n),
        Need(
            f"failed answers rise from {plan.usual_error_share:.1%} to {plan.see_error_share:.1%}",
            sizes.errors,
            have(canary.failed, stable.failed, plan.see_error_share, plan.usual_error_share),
        ),
        Need(
            f"{plan.see_slow_share:.1%} of the answers beyond the limit of the p99",
            min(sizes.p95, sizes.p99),
            have(_slower(canary, p), _slower(stable, p)),
        ),
        Need(
            f"{plan.see_below_more:.1%} more answers from below the personal rung",
            sizes.below,
            have(canary.below, stable.below),
        ),
    )


def _effect_at(count: Count, share: float) -> Number:
    """Return the design effect were the share ``share``, if that is more: bursts are what they are.

    A minute of failures is much beside one failure in a thousand, and little beside twenty.
    """
    most = np.maximum(count.share, share)
    less = ratio(count.share * (1 - count.share), most * (1 - most), without=1.0)
    # How two or three blocks differ is chance: they say nothing of whether there are enough answers.
    blocks = ratio(count.n**2, count.blocks.nn, without=0.0)
    effect = np.where(blocks < _FEW_BLOCKS, count.users_effect, count.design_effect)
    return 1 + (effect - 1) * np.minimum(1.0, less)


@dataclass(frozen=True, slots=True)
class LeastSizes:
    """Independent answers of the candidate with which an effect is shown four times of five."""

    errors: float
    p95: float
    p99: float
    below: float


@lru_cache
def least_sizes(plan: Plan) -> LeastSizes:
    """Return how many answers the effects take that the plan wants to see; infinite: never to be seen."""
    alpha = plan.false_abort / TESTED
    beside = _beside(plan)

    def errors(n: Doubles) -> Flags:
        k, k_stable = n * plan.see_error_share, n * beside * plan.usual_error_share
        part = plan.max_error_ratio / (plan.max_error_ratio + beside)
        return evidence.shows_more(evidence.shortfall(k, k + k_stable), k + k_stable, part, alpha)

    def slow(p: float) -> float:
        def seen(n: Doubles) -> Flags:
            k = evidence.shortfall(n * plan.see_slow_share, n)
            return evidence.shows_more(k, n, 1 - p, alpha / 2) & (
                evidence.quantile_bounds(n * beside, p, alpha / 2)[1] <= 1
            )

        return evidence.least_size(seen)

    def below(n: Doubles) -> Flags:
        error = np.sqrt((1 + 1 / beside) / (4 * n))
        sigmas = evidence.sigmas_short((plan.see_below_more - plan.max_below_worse) / error)
        enough = n >= LEAST_ANSWERS
        return enough & _shown(evidence.log_e_above(sigmas, n * beside / (1 + beside)), alpha)

    return LeastSizes(evidence.least_size(errors), slow(0.95), slow(0.99), evidence.least_size(below))


def _beside(plan: Plan) -> float:
    """Return how many answers of stable there are for each of the candidate; a guard compares equal spans."""
    return (100 - plan.canary_percent) / plan.canary_percent if plan.canary_percent else 1.0
