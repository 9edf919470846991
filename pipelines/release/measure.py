"""Two instruments in, figures of both arms out: where receipts and counted seconds become figures.

The receipts say what is judged: each answer with its user, its time and its list. Prometheus has counted the
same answers another way; it says whether the receipts can be believed, and whether the candidate is up.

The candidate is measured by its own answers in its own window, never by an average over all versions or all
time.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from sqlalchemy import Engine, Integer, String, case, cast, func, select, type_coerce

from pipelines.errors import MeasurementError
from pipelines.model.arrays import LIST_LENGTH
from pipelines.model.recommender import PERSONAL
from pipelines.records.database import naive_utc
from pipelines.records.tables import reccom
from pipelines.release.figures import (
    BLOCK_S,
    GOOD,
    ArmFigures,
    Clusters,
    Count,
    Doubles,
    Flags,
    Mean,
    Measurement,
    Quantiles,
    Scraped,
    Users,
)
from pipelines.release.prometheus import Prometheus

SETTLED_S = 6.0
"""Answers younger than this are left to the next look. The recorder ships every second and Prometheus scrapes
every 5: by then both have seen them, so that both speak of the same answers."""
UP_WINDOW_S = 30.0

_CANARY = "canary"
_LOOK_BACK_S = 300.0
"""So far before the window a counter is looked for; one without a sample there began at zero."""
_METRIC = "flask_http_request_duration_seconds"
_ROUTE = 'path=~"/recommend/.*"'
_PORTION = 5_000

_KINDS: tuple[npt.DTypeLike, ...] = (
    "datetime64[us]",
    object,
    np.int64,
    np.bool_,
    np.float64,
    np.int64,
    np.bool_,
    np.int64,
)

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Watched:
    """What is looked at: a candidate beside the stable version, or a promoted version under guard."""

    version: int
    previous: int | None
    """The version that it is compared with."""
    since: datetime
    """When its viewers had it; aware."""
    guard_s: float = 0.0
    """0: a canary. Else all viewers have the version, and it is compared with this long before ``since``."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Receipts as columns, one entry an answer."""

    at_s: Doubles
    """Seconds since 1970."""
    user: Whole
    """A number for each user, the same within one reading."""
    version: Whole
    canary: Flags
    """Given on the arm of the canary."""
    latency_ms: Doubles
    status: Whole
    below: Flags
    """From a rung below the personal one."""
    listed: Whole
    """Movies in the list."""

    def __len__(self) -> int:
        return len(self.at_s)

    @property
    def block(self) -> Whole:
        """Number of the block of time; a slow minute is slow for everybody."""
        numbers: Whole = np.unique(self.at_s // BLOCK_S, return_inverse=True)[1]
        return numbers

    def where(self, wanted: Flags) -> Self:
        """Return the answers that are ``wanted``."""
        return type(self)(*(getattr(self, field.name)[wanted] for field in fields(self)))


def measure(records: Engine, prometheus: Prometheus, *, watched: Watched, now: datetime) -> Measurement:
    """Measure by both instruments, up to `SETTLED_S` before ``now``; Prometheus may be silent."""
    until = now - timedelta(seconds=SETTLED_S)
    answers = read_answers(records, since=watched.since, until=until, split=not watched.guard_s)
    if watched.guard_s:
        begin = watched.since - timedelta(seconds=watched.guard_s)
        before = read_answers(records, since=begin, until=watched.since)
        canary, stable = answers, before.where(before.version == watched.previous)
        users = Users(canary=_distinct(answers.user), total=_distinct(answers.user), mixed=0)
    else:
        canary, stable = answers.where(answers.canary), answers.where(~answers.canary)
        users = users_of(answers)
    scraped, trouble = None, ""
    try:
        scraped = scrape(prometheus, watched=watched, until=until, now=now)
    except MeasurementError as error:
        trouble = str(error)
    return Measurement(
        elapsed_s=(now - watched.since).total_seconds(),
        canary=figures_of(canary, version=watched.version),
        stable=figures_of(stable, version=watched.previous),
        users=users,
        scraped=scraped,
        trouble=trouble,
    )


def read_answers(records: Engine, *, since: datetime, until: datetime, split: bool = False) -> Answers:
    """Read the receipts from ``since`` until before ``until``; those asked past NGINX are left out.

    ``split``: only those that were asked while NGINX gave a share of the users to a candidate. After a change
    it still answers for seconds by the split of before, on connections that were open.
    """
    column = reccom.c
    commas = func.length(column.movie_ids) - func.length(func.replace(column.movie_ids, ",", ""))
    query = select(
        # As text, which numpy reads by the thousand; a datetime each would cost as much as all the rest.
        cast(column.served_at, String),
        column.user_id,
        column.version_number,
        type_coerce(column.arm == _CANARY, Integer),
        column.latency_ms,
        column.status,
        type_coerce(column.source != PERSONAL, Integer),
        case((column.movie_ids == "", 0), else_=commas + 1),
    ).where(
        column.served_at >= naive_utc(since),
        column.served_at < naive_utc(until),
        column.canary_percent >= int(split),
    )
    with records.connect() as connection:
        found = connection.execution_options(stream_results=True).execute(query)
        return _as_columns(found.partitions(_PORTION))


def answers_of(receipts: Iterable[Mapping[str, Any]]) -> Answers:
    """Return rows of ``reccom``, as `pipelines.records.lines.parse` gives them, as columns."""
    rows = [
        (
            row["served_at"],
            row["user_id"],
            row["version_number"],
            row["arm"] == _CANARY,
            row["latency_ms"],
            row["status"],
            row["source"] != PERSONAL,
            len(row["movie_ids"].split(",")) if row["movie_ids"] else 0,
        )
        for row in receipts
    ]
    return _as_columns([rows])


def figures_of(answers: Answers, *, version: int | None) -> ArmFigures:
    """Return what an arm did that should have answered with ``version``."""
    good = answers.where(answers.status == GOOD)
    quantiles = Quantiles.of(good.latency_ms)
    return ArmFigures(
        users=_distinct(answers.user),
        answers=len(answers),
        failed=_count(answers.status != GOOD, answers),
        below=_count(good.below, good),
        short=_count(good.listed < LIST_LENGTH, good),
        slower_p95=_count(good.latency_ms > quantiles.at(0.95, "lower"), good),
        slower_p99=_count(good.latency_ms > quantiles.at(0.99, "lower"), good),
        time=Mean(
            n=len(good),
            total=float(good.latency_ms.sum()),
            squares=float(good.latency_ms @ good.latency_ms),
            users=_clusters(good.latency_ms, good.user),
            blocks=_clusters(good.latency_ms, good.block),
        ),
        quantiles=quantiles,
        wrong_version=int(np.count_nonzero(answers.version != version)),
    )


def users_of(answers: Answers) -> Users:
    """Count the users of both arms; mixed are those whom the canary answered, but stable more often.

    A split that holds nobody makes nearly everybody mixed. Who met stable because the canary was restarting,
    or had failed to answer, comes back to the canary and is not.
    """
    asked = np.bincount(answers.user)
    on_canary = np.bincount(answers.user, weights=answers.canary)
    met = on_canary > 0
    return Users(
        canary=int(np.count_nonzero(met)),
        total=int(np.count_nonzero(asked)),
        mixed=int(np.count_nonzero(met & (on_canary < asked / 2))),
    )


def scrape(prometheus: Prometheus, *, watched: Watched, until: datetime, now: datetime) -> Scraped:
    """Return what Prometheus counted of ``watched`` until ``until``; ``up`` is of ``now``.

    Raises:
        MeasurementError: it does not answer, or has not tried to scrape the replica.
    """
    arm = "stable" if watched.guard_s else _CANARY
    lived_s = max(0.0, (now - watched.since).total_seconds())
    # Who has not lived as long as the look back cannot have been down for it.
    up = not _is_down(prometheus, arm, now) or lived_s < UP_WINDOW_S
    labels = f'version="{watched.version}"' + ("" if watched.guard_s else f',arm="{arm}"')
    # Samples, not `increase`: that guesses what a counter did before its first sample and after its last.
    query = f'{{__name__=~"{_METRIC}_(count|sum)",{_ROUTE},{labels}}}[{math.ceil(lived_s + _LOOK_BACK_S)}s]'
    answers = good = good_s = 0.0
    for series in prometheus.samples(query, now):
        gained = series.gained(watched.since, until)
        is_good = series.labels["status"] == str(GOOD)
        if series.labels["__name__"].endswith("_count"):
            answers += gained
            good += gained * is_good
        else:
            good_s += gained * is_good
    return Scraped(answers=answers, good=good, mean_ms=1_000 * good_s / good if good else math.nan, up=up)


def _is_down(prometheus: Prometheus, arm: str, now: datetime) -> bool:
    """Whether no replica of the arm answered a scrape in `UP_WINDOW_S`, tried for half of it at least.

    A candidate is down when stable meanwhile was not: a machine that comes up again has nobody yet.
    """
    scrapes = prometheus.samples(f'up{{job="replicas"}}[{UP_WINDOW_S:.0f}s]', now)
    own = [target for target in scrapes if target.labels.get("arm") == arm]
    if not own:
        # A target that does not answer is scraped as 0; none at all is the instrument's fault.
        raise MeasurementError(f"Prometheus has not tried to scrape the {arm} replica; see its page /targets")
    since_s = -math.inf
    if arm == _CANARY:
        others = [target for target in scrapes if target.labels.get("arm") != arm]
        since_s = min(
            (float(at) for each in others for at in each.times_s[each.values > 0]), default=math.inf
        )
    # A machine that was off comes up in its own order: Prometheus may be there before the replica.
    tried = [target.times_s[target.times_s >= since_s] for target in own]
    tried_s = max(float(np.ptp(times)) if len(times) else 0.0 for times in tried)
    return tried_s >= UP_WINDOW_S / 2 and not any(target.values.any() for target in own)


def _as_columns(portions: Iterable[Sequence[Sequence[Any]]]) -> Answers:
    """Turn rows (time, user, version, on the canary, ms, status, below, listed) into columns."""
    parts: list[list[npt.NDArray[Any]]] = [[np.empty(0, kind) for kind in _KINDS]]
    for portion in filter(None, portions):
        columns = zip(*portion, strict=True)
        parts.append([np.array(column, kind) for column, kind in zip(columns, _KINDS, strict=True)])
    at, user, version, canary, latency_ms, status, below, listed = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    return Answers(
        at_s=at.astype(np.int64) / 1e6,
        user=pd.factorize(user)[0],
        version=version,
        canary=canary,
        latency_ms=latency_ms,
        status=status,
        below=below,
        listed=listed,
    )


def _count(marked: Flags, of: Answers) -> Count:
    k = int(np.count_nonzero(marked))
    return Count(k, len(of), users=_clusters(marked, of.user), blocks=_clusters(marked, of.block))


def _clusters(x: npt.NDArray[Any], cluster: Whole) -> Clusters:
    n = np.bincount(cluster).astype(np.float64)
    sums = np.bincount(cluster, weights=x)
    return Clusters(xx=float(sums @ sums), xn=float(sums @ n), nn=float(n @ n))


def _distinct(values: Whole) -> int:
    return len(np.unique(values))
