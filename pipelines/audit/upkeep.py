"""What housekeeping looks after: receipts that wait too long or were lost, and what is old enough to go.

What was told stands in a file, so that the same trouble is told once however often it is seen.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from pipelines import alerts
from pipelines.alerts import Alert, Announce
from pipelines.audit.books import Books, open_books
from pipelines.durable import write_whole
from pipelines.errors import MeasurementError
from pipelines.records.archive import Archived, archive
from pipelines.records.lookup import Lost
from pipelines.records.recorder import shipped_bytes
from pipelines.records.spool import SpoolFile, spool_files
from pipelines.release import world
from pipelines.release.prometheus import Prometheus
from pipelines.settings import Settings

log = logging.getLogger(__name__)

LONGEST_WAIT = timedelta(minutes=15)
"""How long a receipt may wait in the spool; an hour of outage is what the spool is for, silence is not."""
COUNTED_OVER = timedelta(minutes=15)
"""Span in which Prometheus counts losses; longer than the pause between two looks."""
LOSSES_WITHIN = timedelta(days=1)
"""How far back losses on record are looked at."""

_LOSING = (
    f"counted by Prometheus in the last {COUNTED_OVER.total_seconds() / 60:g} minutes; by which replica and "
    "since when is written down as soon as the disk takes it"
)
_TIMES = ("away_since", "losing_since")

Key = tuple[str, str]
"""Replica, and when its loss began (ISO 8601)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look."""

    now: datetime
    oldest_waiting: datetime | None
    """When the oldest receipt was written that is not in the database yet; None: none waits."""
    database_trouble: str
    """Why the database did not answer; empty: it did."""
    losses: tuple[Lost, ...]
    """On record; empty when the database did not answer."""
    lost_of_late: float
    """Answers without a receipt that Prometheus counted; 0 when it did not answer."""


@dataclass(frozen=True, slots=True)
class Told:
    """What people know already."""

    waiting: bool = False
    away_since: datetime | None = None
    """First look at which the database did not answer; None: it did at the last."""
    losing_since: datetime | None = None
    """Look at which the losses began that Prometheus still counts."""
    losses: frozenset[Key] = frozenset()

    def as_json(self) -> dict[str, Any]:
        """Return what the file keeps."""
        return {
            "waiting": self.waiting,
            "away_since": self.away_since and self.away_since.isoformat(),
            "losing_since": self.losing_since and self.losing_since.isoformat(),
            "losses": sorted(self.losses),
        }

    @classmethod
    def of_json(cls, kept: dict[str, Any]) -> "Told":
        """Read back what :meth:`as_json` gave."""
        away, losing = (kept[name] and datetime.fromisoformat(kept[name]) for name in _TIMES)
        return cls(kept["waiting"], away, losing, frozenset((who, since) for who, since in kept["losses"]))


def watch_receipts(config: Settings, *, announce: Announce, now: datetime | None = None) -> bool:
    """Look at spool, losses and counters, tell what is new, and return whether the database answers."""
    path = config.var_dir / "housekeeping.json"
    told = Told.of_json(json.loads(path.read_text())) if path.exists() else Told()
    seen = look(open_books(config), config.spool_dir, Prometheus(config.prometheus), now or datetime.now(UTC))
    news, told = decide(told, seen, where=str(config.spool_dir))
    for alert in news:
        announce(alert)
    # Last: killed before it, the same is told twice, and never not at all.
    write_whole(path, json.dumps(told.as_json(), indent=2) + "\n")
    return not seen.database_trouble


def archive_receipts(config: Settings, *, now: datetime | None = None) -> list[Archived]:
    """Move the receipts that are older than the settings keep them into Parquet files, one a day.

    Raises:
        Locked: another process is at it.
    """
    before = (now or datetime.now(UTC)) - timedelta(days=config.receipts_keep_days)
    return archive(world.records(config), config.receipts_dir, before=before)


def thin_looks(config: Settings, *, now: datetime | None = None) -> int:
    """Let go of most looks' figures at releases that ended long ago; returns at how many looks."""
    before = (now or datetime.now(UTC)) - timedelta(days=config.looks_keep_days)
    return world.ledger(config).thin_looks(before)


def look(books: Books, spool_dir: Path, prometheus: Prometheus, now: datetime) -> Seen:
    """Ask database, spool and Prometheus; one that is silent is part of what is seen."""
    trouble = books.database_trouble()
    return Seen(
        now=now,
        oldest_waiting=None if trouble else oldest_waiting(books.engine, spool_dir),
        database_trouble=trouble,
        losses=() if trouble else tuple(books.receipts.lost_between(now - LOSSES_WITHIN, now)),
        lost_of_late=_lost_of_late(prometheus, now),
    )


def decide(told: Told, seen: Seen, *, where: str) -> tuple[list[Alert], Told]:
    """Return what is to be told now, and what will have been told then; touches nothing."""
    away_since = (told.away_since or seen.now) if seen.database_trouble else None
    since = min(filter(None, (away_since, seen.oldest_waiting)), default=seen.now)
    waiting = seen.now - since > LONGEST_WAIT
    known = {_key(lost): lost for lost in seen.losses}
    new = [lost for key, lost in known.items() if key not in told.losses and not _same_loss(told, lost)]
    news = []
    if waiting and not told.waiting:
        news.append(alerts.receipts_waiting(since, seen.now, seen.database_trouble, where))
    if new:
        news.append(
            alerts.receipts_lost(sum(lost.count for lost in new), [_line(lost) for lost in new], where)
        )
    elif seen.lost_of_late and not told.losing_since:
        news.append(alerts.receipts_lost(round(seen.lost_of_late), [_LOSING], where))
    return news, Told(
        waiting=waiting,
        away_since=away_since,
        losing_since=(told.losing_since or seen.now) if seen.lost_of_late else None,
        # What the database could not be asked about stays told.
        losses=told.losses if seen.database_trouble else frozenset(known),
    )


def oldest_waiting(engine: Engine, spool_dir: Path) -> datetime | None:
    """Return when the oldest receipt in the spool was written that the recorder has not shipped.

    Raises:
        SQLAlchemyError: the database, which knows what was shipped, is away.
    """
    files = spool_files(spool_dir)
    return first_waiting(files, shipped_bytes(engine) if files else {})


def first_waiting(files: Iterable[SpoolFile], shipped: Mapping[str, int]) -> datetime | None:
    """Return when the oldest receipt was written that stands behind the bytes ``shipped`` of its file."""
    moments = (_first_unshipped(file, shipped.get(file.key, 0)) for file in files)
    return min(filter(None, moments), default=None)


def _first_unshipped(file: SpoolFile, start: int) -> datetime | None:
    """Return the time in the first line after byte ``start``; None: there is none, or it is no receipt."""
    try:
        with file.open() as opened:
            opened.seek(start)
            line = json.loads(opened.readline() or b"{}")
        return datetime.fromisoformat(line["served_at"] if "served_at" in line else line["until"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # shipped meanwhile, or half a line that is being written


def _lost_of_late(prometheus: Prometheus, now: datetime) -> float:
    span = f"{COUNTED_OVER.total_seconds():.0f}s"
    try:
        return prometheus.number(f"sum(increase(marquee_receipts_lost_total[{span}]))", now) or 0.0
    except MeasurementError as error:
        log.warning("losses cannot be counted: %s", error)
        return 0.0


def _same_loss(told: Told, lost: Lost) -> bool:
    """Whether the counter has told of this loss before it was on record."""
    return told.losing_since is not None and lost.since <= told.losing_since


def _key(lost: Lost) -> Key:
    return lost.replica, lost.since.isoformat()


def _line(lost: Lost) -> str:
    return (
        f"{lost.count:,} of {lost.replica}, from {lost.since:%Y-%m-%d %H:%M:%S} to {lost.until:%H:%M:%S} UTC"
    )
