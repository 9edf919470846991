"""What stands in the ledger: releases with their states, the looks at them, and what persons did.

States and the only ways between them::

    open ──► watching ──► promoting ──► guarding ──► promoted
     │          │    └──► asking ──┬──► promoting  └──► reverting ──► reverted
     └──────────┴──────────────────┴──► aborting ──► aborted

    superseded: never opened, because a newer version was waiting, too

``promoting``, ``aborting`` and ``reverting`` are decisions already taken: whatever kills the process
afterwards, the step is run again to its end and never decided anew. Only a rollback by a person turns
``promoting`` into ``reverting``, when nobody carries it out any more. Only a person takes an ``open`` one
straight to ``promoting``, and the very first version goes there by itself: nobody serves beside it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from sqlalchemy import RowMapping

from pipelines.release.plan import Plan


class State(StrEnum):
    """Where a release is."""

    OPEN = "open"
    WATCHING = "watching"
    ASKING = "asking"
    PROMOTING = "promoting"
    GUARDING = "guarding"
    PROMOTED = "promoted"
    REVERTING = "reverting"
    REVERTED = "reverted"
    ABORTING = "aborting"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"


ENDED = frozenset({State.PROMOTED, State.REVERTED, State.ABORTED, State.SUPERSEDED})
SERVING = frozenset({State.GUARDING, State.PROMOTED})
"""The newest release in one of these gave all viewers their version."""
LET_OUT = SERVING | {State.REVERTING, State.REVERTED}
"""All viewers have the version, or had it."""
BEFORE = {
    State.WATCHING: frozenset({State.OPEN}),
    State.ASKING: frozenset({State.WATCHING}),
    State.PROMOTING: frozenset({State.OPEN, State.WATCHING, State.ASKING}),
    State.GUARDING: frozenset({State.PROMOTING}),
    State.PROMOTED: frozenset({State.PROMOTING, State.GUARDING}),
    State.REVERTING: frozenset({State.PROMOTING, State.GUARDING}),
    State.REVERTED: frozenset({State.REVERTING}),
    State.ABORTING: frozenset({State.OPEN, State.WATCHING, State.ASKING}),
    State.ABORTED: frozenset({State.ABORTING}),
}
"""The states that lead to a state; the others are begun with."""


@dataclass(frozen=True, slots=True)
class Release:
    """One row of the ledger; times are UTC."""

    release_id: int
    version: int
    previous: int | None
    """The version that served when the release was opened."""
    state: State
    plan: Plan
    requested_by: str
    run_url: str | None
    """Page of the run that carries it out; None: it was asked for on a shell."""
    opened_at: datetime
    watch_from: datetime | None
    decided_at: datetime | None
    verdict: str | None
    reason: str | None
    served_from: datetime | None
    """When all viewers had the version; its guard begins then."""
    reverted_because: str | None
    ended_at: datetime | None
    """When nothing was left to be done for it."""
    image: str | None = None
    """Digest of the image that its replicas are made of; None: not packed yet, or replicas need none."""

    @classmethod
    def from_row(cls, row: RowMapping) -> Self:
        """Read a release back from its row."""
        return cls(**_aware(row) | {"state": State(row["state"]), "plan": Plan.from_row(row["plan"])})


@dataclass(frozen=True, slots=True)
class Look:
    """One row of the looks at a candidate, or at a promoted version while it is guarded."""

    at: datetime
    guard: bool
    measurement: dict[str, Any]
    """What was measured; empty once the look was thinned, see `Ledger.thin_looks`."""
    verdict: str
    reason: str
    readings: list[dict[str, Any]]
    """Each rule with its value and limit; empty where they were not kept yet, or no longer."""
    progress: float | None
    """Share of the answers needed for a verdict."""

    @classmethod
    def from_row(cls, row: RowMapping) -> Self:
        """Read a look back from its row."""
        values = {name: value for name, value in _aware(row).items() if name not in ("look_id", "release_id")}
        return cls(**values | {"guard": bool(row["guard"]), "readings": row["readings"] or []})


class Action(StrEnum):
    """What a person may do to a release under way."""

    APPROVE = "approve"
    EXTEND = "extend"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Intervention:
    """What a person did to a release."""

    at: datetime
    who: str
    what: Action
    why: str
    seconds: float
    """By how much the window was extended."""

    @classmethod
    def from_row(cls, row: RowMapping) -> Self:
        """Read an intervention back from its row."""
        return cls(row["at"].replace(tzinfo=UTC), row["who"], Action(row["what"]), row["why"], row["seconds"])


def _aware(row: RowMapping) -> dict[str, Any]:
    """Return the columns by name; times know that they are UTC."""
    return {
        name: value.replace(tzinfo=UTC) if isinstance(value, datetime) else value
        for name, value in row.items()
    }
