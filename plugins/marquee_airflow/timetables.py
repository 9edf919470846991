"""When a DAG runs by itself."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pendulum
from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction, Timetable

ANCHOR = datetime(2026, 1, 1, 3, tzinfo=UTC)
"""Periods are counted from here, so that every process finds the same moments: at night, UTC."""

GRACE = timedelta(minutes=10)
"""How late the very first run may start; every parse of the DAG asks anew when it is due."""


class EveryDays(Timetable):
    """Every ``days`` days at 03:00 UTC.

    Airflow's own delta timetable starts a first run the moment a DAG is switched on, and cron cannot count
    days across the end of a month. Here the first run waits for its turn; one that was missed while Airflow
    was down is made up for once. ``start_date`` and ``catchup`` of the DAG play no part.

    ``at_once``: the very first run makes up for the turn before it, as where nothing serves yet.
    """

    def __init__(self, days: int, *, at_once: bool = False) -> None:
        self.days = days
        self.at_once = at_once
        self.description = f"Every {days} days at {ANCHOR:%H:%M} UTC"

    @property
    def summary(self) -> str:
        """What the UI shows as the schedule."""
        return f"every {self.days} days"

    def serialize(self) -> dict[str, Any]:
        """Return what ``deserialize`` takes."""
        return {"days": self.days, "at_once": self.at_once}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> Timetable:
        """Build the timetable from what ``serialize`` returned."""
        return cls(data["days"], at_once=data["at_once"])

    def infer_manual_data_interval(self, *, run_after: pendulum.DateTime) -> DataInterval:
        """Give a run by hand the moment it was asked for."""
        return DataInterval.exact(run_after)

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo:
        """Return the next run; one that lies in the past is due at once."""
        # Plain datetimes: pendulum's intervals cannot be divided by a timedelta.
        last = last_automated_data_interval and datetime.fromtimestamp(
            last_automated_data_interval.end.timestamp(), UTC
        )
        turn = next_run(last, datetime.now(UTC), self.days, at_once=self.at_once)
        return DagRunInfo.exact(pendulum.instance(turn))


def every_days(days: int, *, at_once: bool = False) -> EveryDays | None:
    """Return the schedule of a DAG that runs every ``days`` days; with 0 it is started by hand only."""
    return EveryDays(days, at_once=at_once) if days else None


def next_run(last: datetime | None, now: datetime, days: int, *, at_once: bool = False) -> datetime:
    """Return the moment of the run after ``last`` (None: there was none yet), as seen at ``now``."""
    period = timedelta(days=days)
    newest = ANCHOR + (now - ANCHOR) // period * period
    if last is not None:
        return max(newest, ANCHOR + ((last - ANCHOR) // period + 1) * period)
    return newest if at_once or now - newest < GRACE else newest + period
