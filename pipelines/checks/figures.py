"""Figures: what the suites about more than single rows look at. Pure functions; small tables come out.

A figure that is not known is null, and ``unknown`` says why: nothing that was not looked at has passed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
import pandas as pd

from pipelines.checks.census import Census
from pipelines.checks.profile import Profile
from pipelines.data.batches import BatchInfo

EVENTS: Final = ("watch", "rating", "request")
"""Kinds of lines that can be read."""

LEAST_LINES: Final = 1_000
"""Lines, ratings or requests in all below which nobody's share of them says anything."""
LEAST_MINUTES: Final = 10_000
"""The same of watched minutes, of which a single viewing has a hundred."""
LEAST_REJECTS: Final = 30
"""Rejects of a reason below which their share is not compared with the one before."""


@dataclass(frozen=True, slots=True)
class Figures:
    """A table that a suite is held against."""

    frame: pd.DataFrame
    keys: tuple[str, ...] = ()
    """Columns that say which row it is; a report shows them."""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Why a column has no value in any row; under "" why there is no row."""


def stream(infos: Sequence[BatchInfo], now: datetime) -> Figures:
    """Return one row of what the batches say of themselves."""
    lines = sum(info.lines for info in infos)
    counts = {kind: sum(info.counts[kind] for info in infos) for kind in (*EVENTS, "reject")}
    bad_ratings = sum(info.rejects.get("bad-rating", 0) for info in infos)
    duplicates = sum(info.duplicates for info in infos)
    newest = max((info.last_time for info in infos if info.last_time), default=None)
    row = {
        "lines": lines,
        **counts,
        "duplicates": duplicates,
        "reject_share": _share(counts["reject"], lines),
        "rating_reject_share": _share(bad_ratings, counts["rating"] + bad_ratings),
        "duplicates_share": _share(duplicates, lines),
        "newest_age_s": (now - newest).total_seconds() if newest else None,
        "late_share": _share(sum(info.late for info in infos), lines),
        "latest_s": max((info.latest_s for info in infos), default=None),
    }
    return Figures(pd.DataFrame([row]).astype("float64"))


def rejects(infos: Sequence[BatchInfo], before: Profile | str) -> Figures:
    """Return a row for each reason of a reject: ``reason``, ``lines``, ``share`` of all lines, ``times``.

    ``times``: how many times the share it had in the data of ``before``, where half a line more is counted so
    that a reason that is new has a figure, too. Null for fewer than ``LEAST_REJECTS`` lines.
    """
    total = sum(info.lines for info in infos)
    if total < LEAST_LINES:
        return no_rows(("reason",), f"there are {total} lines, wanted are {LEAST_LINES}")
    reasons = sorted({reason for info in infos for reason in info.rejects})
    if not reasons:
        return no_rows(("reason",), "not one line was rejected")
    lines = np.array([sum(info.rejects.get(reason, 0) for info in infos) for reason in reasons])
    times, unknown = np.full(len(lines), np.nan), {}
    if isinstance(before, str):
        unknown["times"] = before
    else:
        usual = np.array([before.rejects.get(reason, 0) + 0.5 for reason in reasons]) / (before.lines + 1)
        times = np.where(lines >= LEAST_REJECTS, lines / total / usual, np.nan)
        unknown["times"] = f"no reason has {LEAST_REJECTS} lines"
    frame = pd.DataFrame({"reason": reasons, "lines": lines, "share": lines / total, "times": times})
    return Figures(frame, ("reason", "lines"), unknown)


def movies(census: Census) -> Figures:
    """Return a row for each movie: ``movie_id``, ``minutes_share`` and ``ratings_share`` of all there are."""
    return _one_each(census.movies, "movie_id", {"minutes": LEAST_MINUTES, "ratings": LEAST_LINES}, {})


def users(census: Census) -> Figures:
    """Return a row for each user: ``user_id``, ``minutes_share``, ``ratings_share`` and ``requests_share`` of
    all there are, ``lines_a_day``, and ``repeats`` as in the census.
    """
    there = census.users
    lines = there[["minutes", "ratings", "requests"]].sum(axis="columns")
    more = {"lines_a_day": lines / max(1, census.days), "repeats": there["repeats"]}
    least = {"minutes": LEAST_MINUTES, "ratings": LEAST_LINES, "requests": LEAST_LINES}
    return _one_each(there, "user_id", least, more)


def _one_each(
    counts: pd.DataFrame, key: str, least: Mapping[str, int], more: Mapping[str, pd.Series]
) -> Figures:
    """Return a row for each row of ``counts``, with its share of those columns that ``least`` names."""
    shares = {f"{what}_share": _shares(counts[what], enough, what) for what, enough in least.items()}
    columns = {name: column for name, (column, _) in shares.items()} | dict(more)
    frame = pd.DataFrame({key: counts.index.to_series(), **columns}).reset_index(drop=True)
    unknown = {name: why for name, (_, why) in shares.items() if why}
    return Figures(frame, (key,), unknown | {"": "there was nobody and nothing"})


def _shares(counts: pd.Series, least: int, what: str) -> tuple[pd.Series, str]:
    """Return each count's share of all, or nulls and why."""
    total = int(counts.sum())
    if total >= least:
        return counts / total, ""
    return counts * np.nan, f"there are {total} {what}, wanted are {least}"


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def no_rows(columns: Sequence[str], why: str) -> Figures:
    """Return a table that has nothing to look at, and why."""
    return Figures(pd.DataFrame(columns=list(columns)), tuple(columns), {"": why})
