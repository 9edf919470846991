"""Alerts that fire in Prometheus, told once when they begin and once when they are over.

Nobody runs an Alertmanager: housekeeping looks every ten minutes. What was told stands in a file, so that an
alert that goes on is told once, however often it is seen. The rules are docker/prometheus/rules.yml.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Self

from pipelines import alerts
from pipelines.alerts import Alert, Announce
from pipelines.durable import write_whole
from pipelines.errors import MeasurementError
from pipelines.release.prometheus import Prometheus
from pipelines.settings import Settings

LONGEST_SILENCE = timedelta(minutes=15)
"""How long Prometheus may not answer before that is told; it is restarted in less."""
TOLD_BY = "told_by"
"""Label of a rule whose trouble something else tells, in words of its own."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alert of Prometheus that fires, or would soon."""

    name: str
    key: str
    """Name and labels: the same for as long as it goes on, and when it comes back."""
    fires: bool
    """False: its condition holds, but not for long enough."""
    since: datetime
    summary: str
    description: str = ""
    where: str = ""
    runbook: str = ""

    @classmethod
    def of_json(cls, alert: Mapping[str, Any]) -> Self:
        """Read one entry of Prometheus's ``/api/v1/alerts``."""
        labels, told = alert["labels"], alert["annotations"]
        return cls(
            name=labels["alertname"],
            key=json.dumps(labels, sort_keys=True),
            fires=alert["state"] == "firing",
            # Nanoseconds.
            since=datetime.fromisoformat(alert["activeAt"][:19]).replace(tzinfo=UTC),
            summary=told.get("summary", labels["alertname"]),
            description=told.get("description", ""),
            where=told.get("where", ""),
            runbook=told.get("runbook", ""),
        )


@dataclass(frozen=True, slots=True)
class Told:
    """What people know already."""

    firing: Mapping[str, str] = field(default_factory=dict)
    """Summary of each alarm that was told and is not over, by its key."""
    away_since: datetime | None = None
    """First look at which Prometheus did not answer; None: it did at the last."""
    away: bool = False
    """That was told."""

    def as_json(self) -> dict[str, Any]:
        """Return what the file keeps."""
        since = self.away_since and self.away_since.isoformat()
        return {"firing": dict(self.firing), "away_since": since, "away": self.away}

    @classmethod
    def of_json(cls, kept: Mapping[str, Any]) -> Self:
        """Read back what :meth:`as_json` gave."""
        since = kept["away_since"] and datetime.fromisoformat(kept["away_since"])
        return cls(kept["firing"], since, kept["away"])


def watch_alarms(config: Settings, *, announce: Announce, now: datetime | None = None) -> list[str]:
    """Ask Prometheus what fires, tell what is new and what is over; return what people know to be firing."""
    path = config.var_dir / "alarms.json"
    told = Told.of_json(json.loads(path.read_text())) if path.exists() else Told()
    now = now or datetime.now(UTC)
    try:
        news, told = decide(told, look(Prometheus(config.prometheus)))
    except MeasurementError as error:
        news, told = silent(told, str(error), now=now, where=config.prometheus)
    for alert in news:
        announce(alert)
    # Last: killed before it, the same is told twice, and never not at all.
    write_whole(path, json.dumps(told.as_json(), indent=2) + "\n")
    return sorted(told.firing.values())


def look(prometheus: Prometheus) -> list[Alarm]:
    """Return what nobody else tells of.

    Raises:
        MeasurementError: Prometheus does not answer.
    """
    return [Alarm.of_json(alert) for alert in prometheus.alerts() if TOLD_BY not in alert["labels"]]


def decide(told: Told, seen: list[Alarm]) -> tuple[list[Alert], Told]:
    """Return what is to be told now, and what will have been told then; touches nothing."""
    new = [alarm for alarm in seen if alarm.fires and alarm.key not in told.firing]
    new.sort(key=lambda alarm: (alarm.name, alarm.since, alarm.key))
    news = [_begun(list(alike)) for _, alike in groupby(new, key=lambda alarm: alarm.name)]
    # One that is pending has not been over for long.
    there = {alarm.key for alarm in seen}
    over = sorted(summary for key, summary in told.firing.items() if key not in there)
    if over:
        news.append(alerts.alarms_over(over))
    still = {key: summary for key, summary in told.firing.items() if key in there}
    return news, Told(firing=still | {alarm.key: alarm.summary for alarm in new})


def silent(told: Told, trouble: str, *, now: datetime, where: str) -> tuple[list[Alert], Told]:
    """Return what is to be told while Prometheus does not answer; what was firing stays told."""
    since = told.away_since or now
    away = now - since >= LONGEST_SILENCE
    news = [alerts.prometheus_silent(since, now, trouble, where)] if away and not told.away else []
    return news, Told(told.firing, since, away)


def _begun(alike: list[Alarm]) -> Alert:
    first = alike[0]
    return alerts.alarmed(
        [alarm.summary for alarm in alike],
        [f"{alarm.description} Since {alarm.since:%Y-%m-%d %H:%M} UTC." for alarm in alike],
        first.where,
        first.runbook,
        key=f"alarm-{first.name}-{first.since:%Y%m%dT%H%M%S}",
    )
