"""Simulated watches: what both arms would measure at every minute of twelve hours, for the judge to judge.

Every request is drawn by itself: its user (a few ask often, most once or twice), its arm, its response time,
whether it fails. What makes real traffic hard to judge is there: the rhythm of the day, response times that
drift for minutes on end in both arms or in one, hiccups of a minute or two in one arm, users who always get
an answer from below the personal rung, users who fail more often than others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from pipelines.release.figures import (
    ArmFigures,
    Clusters,
    Count,
    Doubles,
    Mean,
    Measurement,
    Number,
    Scraped,
    Users,
)

MINUTES = 720
REQUESTS_PER_S = 4.25
USERS = 60_000
CANARY_SHARE = 0.2

MEAN_MS = 72.0
P99_MS = 242.0
"""Of a calm minute, as the mean; the median is 60 ms."""
_SIGMA = 0.6
_MEDIAN_LOG_MS = float(np.log(60.0))
DRIFT_SHARED, DRIFT_OWN, DRIFT_KEEPS = 0.15, 0.05, 0.9
"""Spread of the log of response times between minutes (in both arms, in one), and what a minute hands on."""
HICCUPS_PER_HOUR = 0.1
"""In each arm and of each kind: four times slower, or a tenth of the answers fails."""
HICCUP_SLOWER = 4.0
HICCUP_FAILS = 0.1
STRANGERS = 0.3
_SHORT = 0.003
_FRAIL, _FRAIL_FACTOR, _HARDY_FACTOR = 0.1, 3.0, 7 / 9
"""A tenth of the users fails three times as often, the others less: the mean stays."""
_SCRAPE_NOISE = 0.005

_BINS = 96
_LOW_LOG_MS = float(np.log(2.0))
_BIN = (float(np.log(30_000.0)) - _LOW_LOG_MS) / _BINS
_MIDDLES_MS: Doubles = np.exp(_LOW_LOG_MS + (np.arange(_BINS) + 0.5) * _BIN)
_EDGES_MS: Doubles = np.exp(_LOW_LOG_MS + np.arange(_BINS + 1) * _BIN)

_STABLE, _CANARY = 0, 1

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class World:
    """What is true of a watch; as it stands both arms are alike."""

    name: str
    errors: float = 0.01
    """Share of failed answers, in both arms."""
    canary_errors: float | None = None
    """The same of the candidate alone."""
    slower: float = 1.0
    """How many times longer the candidate takes."""
    slow_share: float = 0.0
    """Share of the candidate's answers that take ``slow_ms`` or so instead."""
    slow_ms: float = 0.0
    strangers_more: float = 0.0
    """So many more of the candidate's users get answers from below the personal rung."""
    empty_users: float = 0.0
    """Share of the candidate's users whose lists are empty."""
    canary_share: float = CANARY_SHARE
    """Share of the users who really meet the candidate."""
    flipping: float = 0.0
    """Share of the users who meet an arm by chance at each request."""
    unrest: float = 1.0
    """How many times more often each arm has hiccups, and how many times more it drifts by itself."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Where each request stands among those of its client."""

    order: Whole
    """Requests by client, then by time."""
    place: Whole
    """Of each request in ``order``."""
    rank: Whole
    """Requests of the same client before it."""
    end: Whole
    """Where the client's requests end in ``order``."""

    @classmethod
    def by(cls, client: Whole) -> Self:
        """Sort requests, which are in the order of time, by client."""
        order = np.argsort(client, kind="stable")
        begins = np.flatnonzero(np.diff(client[order], prepend=-1))
        sizes = np.diff(begins, append=len(client))
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        begin, end = np.repeat(begins, sizes)[place], np.repeat(begins + sizes, sizes)[place]
        return cls(order, place, place - begin, end)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who asks when: requests in the order of time. Watches of one traffic differ in all else."""

    user: Whole
    minute: Whole
    asked: Asked
    minutes: int

    @classmethod
    def draw(cls, rng: np.random.Generator, minutes: int = MINUTES) -> Self:
        """Draw some hours of a day that goes from a quiet morning to a busy evening."""
        rate = 60 * REQUESTS_PER_S * (1 - 0.5 * np.cos(2 * np.pi * np.arange(minutes) / minutes))
        minute = np.repeat(np.arange(minutes), rng.poisson(rate))
        appetite = np.cumsum(rng.exponential(size=USERS))
        user = np.searchsorted(appetite, rng.random(len(minute)) * appetite[-1])
        return cls(user, minute, Asked.by(user), minutes)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Response times as counts at or above the edges of bins: (..., looks, bins + 1), the first is all."""

    above: Whole

    def at(self, probability: Number, side: Literal["lower", "upper"]) -> Number:
        """Return the edge of the order statistic's bin that is further out on ``side``, in ms."""
        place = self.bin(probability)
        if side == "lower":
            return np.where(np.asarray(probability) < 0, 0.0, _EDGES_MS[np.maximum(place, 0)])
        return np.where(np.asarray(probability) > 1, np.inf, _EDGES_MS[place + 1])

    def bin(self, probability: Number) -> Whole:
        """Return the bin of the order statistic; -1 without any answer."""
        left_out = (1 - np.asarray(probability))[..., np.newaxis] * self.above[..., :1]
        place: Whole = (self.above > left_out).sum(axis=-1) - 1
        return np.minimum(place, _BINS - 1)


def measure(world: World, traffic: Traffic, rng: np.random.Generator) -> Measurement:
    """Return what the looks at the ends of all minutes measure: each figure an array of that length."""
    arm = _arms(world, traffic, rng)
    client = 2 * traffic.user + arm
    asked = Asked.by(client) if world.flipping else traffic.asked
    cell = 2 * traffic.minute + arm
    fails = _failure_rates(world, traffic.minutes, rng)[cell] * _frailty(rng)[traffic.user]
    failed = np.flatnonzero(rng.random(len(cell), dtype=np.float32) < fails)
    stranger = _chosen(STRANGERS, world.strangers_more, rng)[client]
    empty = _chosen(_SHORT, world.empty_users, rng)[client]

    def by_minute(cells: Whole, weights: Any = None, *, kinds: int = 1) -> Any:
        """Add up per (minute, arm, kind)."""
        shape = (traffic.minutes, 2, kinds)
        return np.bincount(cells, weights, minlength=int(np.prod(shape))).reshape(shape)

    kind = 4 * cell + 2 * stranger + empty
    n_of, lost_of = by_minute(kind, kinds=4), by_minute(kind[failed], kinds=4)
    nn_of = by_minute(kind, 2 * asked.rank + 1, kinds=4)
    again, later = failed_again(asked, failed)
    fail_xx = by_minute(cell[failed], 2 * again + 1)[..., 0]
    fail_xn = (by_minute(cell[failed], asked.rank[failed] + 1) + by_minute(cell[later]))[..., 0]
    slots = _BINS * cell + _bins(world, cell, traffic.minutes, rng)
    times = by_minute(slots, kinds=_BINS) - by_minute(slots[failed], kinds=_BINS)
    fresh = by_minute(cell[asked.rank == 0])[..., 0]
    canary, stable = (
        _arm_figures(
            n_of[:, a], nn_of[:, a], lost_of[:, a], fail_xx[:, a], fail_xn[:, a], times[:, a], fresh[:, a]
        )
        for a in (_CANARY, _STABLE)
    )
    mixed = np.cumsum(_mixed(client, traffic)) if world.flipping else np.zeros(traffic.minutes)
    return Measurement(
        elapsed_s=60.0 * np.arange(1, traffic.minutes + 1),
        canary=canary,
        stable=stable,
        users=Users(canary=canary.users, total=canary.users + stable.users - mixed, mixed=mixed),
        scraped=_scraped(canary, rng),
    )


def stacked(watches: Sequence[Measurement]) -> Measurement:
    """Put watches beside each other: each figure an array (watches, looks)."""
    return each(lambda *arrays: np.stack(arrays), *watches)


def each(do: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Return dataclasses (or dictionaries) of one form with ``do`` done to their arrays, however deep."""
    if is_dataclass(first):
        parts = {
            part.name: each(do, getattr(first, part.name), *(getattr(other, part.name) for other in others))
            for part in fields(first)
        }
        return replace(first, **parts)
    if isinstance(first, dict):
        return {name: each(do, part, *(other[name] for other in others)) for name, part in first.items()}
    return do(first, *others) if isinstance(first, np.ndarray) else first


# --- who, and what goes wrong -------------------------------------------------------------------------------


def _arms(world: World, traffic: Traffic, rng: np.random.Generator) -> Whole:
    arm = (rng.random(USERS) < world.canary_share).astype(np.int64)[traffic.user]
    if world.flipping:
        flips = (rng.random(USERS) < world.flipping)[traffic.user]
        arm = np.where(flips, rng.random(len(arm)) < world.canary_share, arm)
    return arm


def _chosen(share: float, more: float, rng: np.random.Generator) -> Whole:
    """Choose users, more of them when they are with the candidate; 0 or 1 per client."""
    lot = rng.random(USERS)
    return np.stack([lot < share, lot < share + more], axis=1).astype(np.int64).ravel()


def _frailty(rng: np.random.Generator) -> Doubles:
    return np.where(rng.random(USERS) < _FRAIL, _FRAIL_FACTOR, _HARDY_FACTOR)


def _failure_rates(world: World, minutes: int, rng: np.random.Generator) -> Doubles:
    """Return the chance of a failure for each (minute, arm), flat."""
    canary = world.errors if world.canary_errors is None else world.canary_errors
    return (np.array([world.errors, canary]) + HICCUP_FAILS * _hiccups(world, minutes, rng)).ravel()


def _hiccups(world: World, minutes: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Choose (minute, arm) of short trouble: one or two minutes each time."""
    begins = rng.random((minutes, 2)) < world.unrest * HICCUPS_PER_HOUR / 60
    lasts = begins & (rng.random((minutes, 2)) < 0.5)
    begins[1:] |= lasts[:-1]
    return begins


def failed_again(asked: Asked, failed: Whole) -> tuple[Whole, Whole]:
    """Return how often the client of each failed request had failed before, and its later requests."""
    place = asked.place[failed]
    by_client = np.argsort(place)
    begin = (place - asked.rank[failed])[by_client]
    again = np.empty_like(failed)
    again[by_client] = np.arange(len(failed)) - np.searchsorted(begin, begin)
    left = asked.end[failed] - place - 1
    within = np.arange(left.sum()) - np.repeat(np.cumsum(left) - left, left)
    return again, asked.order[np.repeat(place + 1, left) + within]


def _mixed(client: Whole, traffic: Traffic) -> Whole:
    """Return how many users meet their second arm in each minute."""
    first = np.full(2 * USERS, traffic.minutes)
    np.minimum.at(first, client, traffic.minute)
    both = first.reshape(USERS, 2).max(axis=1)
    return np.bincount(both, minlength=traffic.minutes + 1)[: traffic.minutes]


# --- response times -----------------------------------------------------------------------------------------


def _bins(world: World, cell: Whole, minutes: int, rng: np.random.Generator) -> Whole:
    """Draw the bin of each request's response time."""
    log_ms = _SIGMA * rng.standard_normal(len(cell), dtype=np.float32)
    log_ms += _log_medians(world, minutes, rng)[cell]
    if world.slow_share:
        slow = np.flatnonzero((cell % 2 == _CANARY) & (rng.random(len(cell)) < world.slow_share))
        log_ms[slow] = np.log(world.slow_ms) + _SIGMA / 3 * rng.standard_normal(len(slow))
    return np.clip((log_ms - _LOW_LOG_MS) / _BIN, 0, _BINS - 1).astype(np.int64)


def _log_medians(world: World, minutes: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return the log of the median time for each (minute, arm), flat."""
    drift = _drift(DRIFT_SHARED, (minutes, 1), rng) + _drift(world.unrest * DRIFT_OWN, (minutes, 2), rng)
    hiccups = np.log(HICCUP_SLOWER) * _hiccups(world, minutes, rng)
    change = np.array([0.0, np.log(world.slower)])
    return (_MEDIAN_LOG_MS + drift + hiccups + change).ravel().astype(np.float32)


def _drift(spread: float, shape: tuple[int, int], rng: np.random.Generator) -> Doubles:
    """Draw autoregressive drift along the minutes, with standard deviation ``spread``."""
    steps = spread * rng.standard_normal(shape)
    steps[1:] *= np.sqrt(1 - DRIFT_KEEPS**2)
    drift: Doubles = lfilter([1.0], [1.0, -DRIFT_KEEPS], steps, axis=0)
    return drift


# --- figures ------------------------------------------------------------------------------------------------


def _arm_figures(
    n_of: Any, nn_of: Any, lost_of: Any, fail_xx: Any, fail_xn: Any, times: Any, fresh: Any
) -> ArmFigures:
    """Add up one arm from its minutes; the last axis of the first three is 2 x stranger + empty list.

    Clusters by user of good answers keep the hundredth that failed. Response times do not depend on the user:
    each answer is a cluster of its own.
    """
    n, lost, good_of = n_of.sum(1), lost_of.sum(1), n_of - lost_of
    users_nn = np.cumsum(nn_of.sum(1))

    def of_good(kinds: list[int]) -> Count:
        xx = np.cumsum(nn_of[:, kinds].sum(1))
        return _count(good_of[:, kinds].sum(1), n - lost, Clusters(xx, xx, users_nn))

    above = np.zeros((len(n), _BINS + 1), dtype=np.int64)
    above[:, :_BINS] = times[:, ::-1].cumsum(axis=1)[:, ::-1]
    histogram = Histogram(above.cumsum(axis=0))
    total, squares = times @ _MIDDLES_MS, np.cumsum(times @ _MIDDLES_MS**2)
    return ArmFigures(
        users=np.cumsum(fresh),
        answers=np.cumsum(n),
        failed=_count(lost, n, Clusters(np.cumsum(fail_xx), np.cumsum(fail_xn), users_nn)),
        below=of_good([2, 3]),
        short=of_good([1, 3]),
        slower_p95=_slower(0.95, above, histogram),
        slower_p99=_slower(0.99, above, histogram),
        time=Mean(
            n=np.cumsum(n - lost),
            total=np.cumsum(total),
            squares=squares,
            users=Clusters(squares, np.cumsum(total), np.cumsum(n - lost)),
            blocks=_blocks(total, n - lost),
        ),
        quantiles=histogram,
        wrong_version=np.zeros(len(n)),
    )


def _count(k: Any, n: Any, users: Clusters) -> Count:
    return Count(np.cumsum(k), np.cumsum(n), users, _blocks(k, n))


def _blocks(x: Any, n: Any) -> Clusters:
    return Clusters(np.cumsum(x**2.0), np.cumsum(x * n * 1.0), np.cumsum(n**2.0))


def _slower(p: float, above: Whole, histogram: Histogram) -> Count:
    """Count the answers above the arm's own quantile at each look, with the minutes they fall into."""
    at = (np.arange(len(above)), histogram.bin(p) + 1)
    k, n, per_minute = histogram.above[at], histogram.above[:, 0], above[:, 0]
    blocks = Clusters(
        np.cumsum(above**2, axis=0)[at],
        np.cumsum(above * per_minute[:, np.newaxis], axis=0)[at],
        np.cumsum(per_minute**2),
    )
    return Count(k, n, Clusters(k, k, n), blocks)


def _scraped(canary: ArmFigures, rng: np.random.Generator) -> Scraped:
    wrong = 1 + _SCRAPE_NOISE * rng.standard_normal(len(np.atleast_1d(canary.answers)))
    return Scraped(
        answers=canary.answers * wrong,
        good=canary.time.n * wrong,
        mean_ms=canary.time.mean * wrong,
        up=np.ones(len(wrong), dtype=bool),
    )
