"""Volume: how many lines came in each hour, beside the same hour of the days before."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

import numpy as np
import pandas as pd

from pipelines.checks.figures import EVENTS, Figures, no_rows
from pipelines.data.batches import BatchInfo

BACK_DAYS: Final = 7
"""Days before an hour whose same hours it is compared with: every day of the week once."""
LEAST_USUAL: Final = 50
"""Lines an hour below which an hour is not compared: of 50, less than a quarter come by chance once in 10^10
hours."""

_HOURS_A_DAY: Final = 24


def per_hour(new: Mapping[str, Sequence[BatchInfo]], before: Mapping[str, Sequence[BatchInfo]]) -> Figures:
    """Return a row for each hour of the new lines and each kind: ``ratio`` of its lines to the usual ones.

    ``usual`` is the median over the same hour of the ``BACK_DAYS`` days before, as far as these are known.
    Batches of all partitions and generations of a topic add up, and so do those in ``new`` and ``before``.
    Hours that are only begun say nothing: the first one of a topic and its newest one are left out. An hour
    is also left out when its usual lines are fewer than ``LEAST_USUAL``.

    Args:
        new: for each topic what its new batches say of themselves.
        before: the same of batches before them.
    """
    rows = [
        {"topic": topic, **row}
        for topic, infos in new.items()
        for row in _hours(infos, before.get(topic, ()))
    ]
    keys = ("topic", "kind", "hour", "lines", "usual")
    if not rows:
        return no_rows(keys, "no whole hour has the same hour of a day before to be compared with")
    return Figures(pd.DataFrame(rows), keys)


def _hours(new: Sequence[BatchInfo], before: Sequence[BatchInfo]) -> list[dict[str, str | float]]:
    """Return the rows of one topic, see :func:`per_hour`."""
    lines, uncounted = _lines_per_hour([*before, *new]), _uncounted([*before, *new])
    known = {hour for counts in lines.values() for hour in counts}
    arrived = {hour for counts in _lines_per_hour(new).values() for hour in counts}
    rows: list[dict[str, str | float]] = []
    if not arrived:
        return rows
    first, last = max(min(arrived), min(known) + 1), min(max(arrived), max(known) - 1)

    def whole(hour: int) -> bool:
        return hour > min(known) and not any(start <= hour <= end for start, end in uncounted)

    for kind, counts in lines.items():
        # An hour in which nothing came is to be looked at, too, where something came a day or more before.
        hours = {hour + _HOURS_A_DAY * days for hour in counts for days in range(1, BACK_DAYS + 1)}
        for hour in sorted(hour for hour in hours if first <= hour <= last and whole(hour)):
            same = [hour - _HOURS_A_DAY * days for days in range(1, BACK_DAYS + 1)]
            usual = median([counts.get(each, 0) for each in same if whole(each)] or [0])
            if usual >= LEAST_USUAL:
                came = counts.get(hour, 0)
                at = str(np.datetime64(hour, "h"))
                rows.append({"kind": kind, "hour": at, "lines": came, "usual": usual, "ratio": came / usual})
    return rows


def _lines_per_hour(infos: Sequence[BatchInfo]) -> dict[str, dict[int, int]]:
    """Return for each kind the lines of each hour, counted from 1970."""
    lines: dict[str, dict[int, int]] = {kind: {} for kind in EVENTS}
    for info in infos:
        for text, counts in info.hours.items():
            for kind, count in counts.items():
                lines[kind][_hour(text)] = lines[kind].get(_hour(text), 0) + count
    return lines


def _uncounted(infos: Sequence[BatchInfo]) -> list[tuple[int, int]]:
    """Return the first and last hour of each batch that does not say how many lines each hour has."""
    return [
        (_hour(info.first_time.isoformat()[:13]), _hour(info.last_time.isoformat()[:13]))
        for info in infos
        if not info.hours and info.first_time and info.last_time
    ]


def _hour(text: str) -> int:
    return int(np.datetime64(text, "h").astype(np.int64))
