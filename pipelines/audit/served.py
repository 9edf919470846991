"""Who served whom: at a time, a user, by a version. Shapes what the books hold; asks nothing itself."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from pipelines.audit.decisions import InForce, in_force
from pipelines.records.lookup import Lost, VersionShare
from pipelines.release.entries import Release


@dataclass(frozen=True, slots=True)
class ServedAt:
    """What the ledger wanted at a moment, and what replicas did around it."""

    at: datetime
    """UTC."""
    window: timedelta
    """How far before and after ``at`` answers are counted."""
    wanted: InForce
    shares: tuple[VersionShare, ...]
    """Stable first, then by version."""
    lost: tuple[Lost, ...]
    """Receipts that are missing from the counts."""

    @property
    def answers(self) -> int:
        """Answers of all versions together."""
        return sum(share.answers for share in self.shares)

    def as_json(self) -> dict[str, Any]:
        """Return it for a program: times as ISO text."""
        return {
            "at": self.at.isoformat(),
            "window_s": self.window.total_seconds(),
            "stable": _wanted_json(self.wanted.stable),
            "candidate": _wanted_json(self.wanted.candidate),
            "served": [_iso(asdict(share)) for share in self.shares],
            "lost": [_iso(asdict(lost)) for lost in self.lost],
        }


def around(at: datetime, window_s: float) -> tuple[datetime, datetime]:
    """Return from when until when answers are counted for the moment ``at``."""
    return at - timedelta(seconds=window_s), at + timedelta(seconds=window_s)


def served_at(
    at: datetime,
    window_s: float,
    releases: Sequence[Release],
    shares: Sequence[VersionShare],
    lost: Sequence[Lost],
) -> ServedAt:
    """Put ledger and receipts side by side."""
    in_order = sorted(shares, key=lambda share: (share.arm != "stable", share.version, share.first))
    return ServedAt(at, timedelta(seconds=window_s), in_force(releases, at), tuple(in_order), tuple(lost))


def _wanted_json(release: Release | None) -> dict[str, Any] | None:
    if release is None:
        return None
    return {
        "release": release.release_id,
        "version": release.version,
        "canary_percent": release.plan.canary_percent,
        "reason": release.reason,
    }


def _iso(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in row.items()}
