"""The ledger: one row a release, one row a look; what the world is made to match.

States and the only ways between them::

    open ──► watching ──► promoting ──► promoted
     │          │    └──► asking ──┬──► promoting
     └──────────┴──────────────────┴──► aborting ──► aborted

``promoting`` and ``aborting`` are decisions already taken: whatever kills the process afterwards, the
step is run again to its end and never decided anew.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine, RowMapping, insert, select, update

from pipelines.errors import ReleaseError
from pipelines.records.database import naive_utc
from pipelines.records.tables import looks, releases
from pipelines.release.judge import Judgement
from pipelines.release.measure import Measurement
from pipelines.release.plan import Plan


class State(StrEnum):
    """Where a release is."""

    OPEN = "open"
    WATCHING = "watching"
    ASKING = "asking"
    PROMOTING = "promoting"
    PROMOTED = "promoted"
    ABORTING = "aborting"
    ABORTED = "aborted"


ENDED = frozenset({State.PROMOTED, State.ABORTED})
_NEXT: dict[State, frozenset[State]] = {
    State.OPEN: frozenset({State.WATCHING, State.PROMOTING, State.ABORTING}),
    State.WATCHING: frozenset({State.ASKING, State.PROMOTING, State.ABORTING}),
    State.ASKING: frozenset({State.PROMOTING, State.ABORTING}),
    State.PROMOTING: frozenset({State.PROMOTED}),
    State.ABORTING: frozenset({State.ABORTED}),
    State.PROMOTED: frozenset(),
    State.ABORTED: frozenset(),
}


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
    opened_at: datetime
    watch_from: datetime | None
    decided_at: datetime | None
    verdict: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Look:
    """One row of the looks at a candidate."""

    at: datetime
    measurement: dict[str, Any]
    verdict: str
    reason: str


class Ledger:
    """Reads and writes releases and looks."""

    def __init__(self, engine: Engine) -> None:
        """Use the records database behind ``engine``."""
        self._engine = engine

    def open(self, version: int, *, previous: int | None, plan: Plan, requested_by: str) -> Release:
        """Open a release, or return the one of ``version`` that is under way.

        Raises:
            ReleaseError: a release of another version is under way.
        """
        if current := self.under_way():
            if current.version != version:
                raise ReleaseError(
                    f"release {current.release_id} of version {current.version} is under way "
                    f"({current.state}); version {version} has to wait until it is promoted or aborted"
                )
            return current
        values = {
            "version": version,
            "previous": previous,
            "state": State.OPEN,
            "plan": plan.as_row(),
            "requested_by": requested_by,
            "opened_at": _now(),
        }
        with self._engine.begin() as connection:
            inserted = connection.execute(insert(releases).values(values)).inserted_primary_key
        assert inserted is not None
        return self.get(inserted[0])

    def get(self, release_id: int) -> Release:
        """Return one release.

        Raises:
            ReleaseError: there is none with this number.
        """
        found = self._select(releases.c.release_id == release_id)
        if not found:
            raise ReleaseError(f"there is no release {release_id}; `python -m pipelines status` lists them")
        return found[0]

    def under_way(self) -> Release | None:
        """Return the release that has not ended, if any."""
        found = self._select(releases.c.state.not_in(ENDED))
        return found[0] if found else None

    def stable(self) -> int | None:
        """Return the version that all viewers get: the newest promotion."""
        found = self._select(releases.c.state == State.PROMOTED, limit=1)
        return found[0].version if found else None

    def latest(self, limit: int = 10) -> list[Release]:
        """Return the newest releases, newest first."""
        return self._select(limit=limit)

    def opened_until(self, moment: datetime) -> list[Release]:
        """Return every release that was opened at ``moment`` or before, newest first."""
        return self._select(releases.c.opened_at <= naive_utc(moment))

    def move(self, release_id: int, state: State, **values: Any) -> Release:
        """Move a release to ``state`` and set ``values``; moving to where it is changes nothing.

        Raises:
            ReleaseError: there is no way from its state to ``state``.
        """
        with self._engine.begin() as connection:
            sources = [source for source, targets in _NEXT.items() if state in targets]
            moved = connection.execute(
                update(releases)
                .where(releases.c.release_id == release_id, releases.c.state.in_(sources))
                .values(state=state, **values)
            ).rowcount
        release = self.get(release_id)
        if not moved and release.state != state:
            raise ReleaseError(f"release {release_id} is {release.state} and cannot become {state}")
        return release

    def begin_watch(self, release_id: int) -> Release:
        """Note that the candidate meets viewers from now on; a second call does not move the window."""
        return self.move(release_id, State.WATCHING, watch_from=_now())

    def decide(self, release_id: int, state: State, *, verdict: str, reason: str) -> Release:
        """Write the decision down before it is carried out; the first one stands."""
        return self.move(release_id, state, verdict=verdict, reason=reason, decided_at=_now())

    def add_look(self, release_id: int, measurement: Measurement, judgement: Judgement) -> None:
        """Append one look."""
        values = {
            "release_id": release_id,
            "at": _now(),
            "measurement": measurement.as_row(),
            "verdict": judgement.verdict,
            "reason": judgement.reason,
        }
        with self._engine.begin() as connection:
            connection.execute(insert(looks).values(values))

    def looks(self, release_id: int, limit: int | None = None) -> list[Look]:
        """Return the looks at a release, newest first."""
        query = (
            select(looks)
            .where(looks.c.release_id == release_id)
            .order_by(looks.c.look_id.desc())
            .limit(limit)
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [
            Look(
                at=_utc(row["at"]),
                measurement=row["measurement"],
                verdict=row["verdict"],
                reason=row["reason"],
            )
            for row in rows
        ]

    def _select(self, *where: Any, limit: int | None = None) -> list[Release]:
        query = select(releases).where(*where).order_by(releases.c.release_id.desc()).limit(limit)
        with self._engine.connect() as connection:
            return [_release(row) for row in connection.execute(query).mappings()]


def _release(row: RowMapping) -> Release:
    return Release(
        release_id=row["release_id"],
        version=row["version"],
        previous=row["previous"],
        state=State(row["state"]),
        plan=Plan.from_row(row["plan"]),
        requested_by=row["requested_by"],
        opened_at=_utc(row["opened_at"]),
        watch_from=row["watch_from"] and _utc(row["watch_from"]),
        decided_at=row["decided_at"] and _utc(row["decided_at"]),
        verdict=row["verdict"],
        reason=row["reason"],
    )


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC)
