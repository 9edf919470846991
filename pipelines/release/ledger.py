"""The ledger: a row for each release, each look and whatever a person did; what the world is made to match.

States and the only ways between them::

    open ──► watching ──► promoting ──► guarding ──► promoted
     │          │    └──► asking ──┬──► promoting  └──► reverting ──► reverted
     └──────────┴──────────────────┴──► aborting ──► aborted

    superseded: never opened, because a newer version was waiting, too

``promoting``, ``aborting`` and ``reverting`` are decisions already taken: whatever kills the process
afterwards, the step is run again to its end and never decided anew. Only a rollback by a person turns
``promoting`` into ``reverting``, when nobody carries it out any more.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, func, insert, select, update

from pipelines.errors import ReleaseError
from pipelines.records.database import naive_utc, upsert
from pipelines.records.tables import alerts, interventions, looks, releases
from pipelines.release.figures import Measurement
from pipelines.release.judge import Judgement
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
_NEXT: dict[State, frozenset[State]] = {
    State.OPEN: frozenset({State.WATCHING, State.PROMOTING, State.ABORTING}),
    State.WATCHING: frozenset({State.ASKING, State.PROMOTING, State.ABORTING}),
    State.ASKING: frozenset({State.PROMOTING, State.ABORTING}),
    State.PROMOTING: frozenset({State.GUARDING, State.PROMOTED, State.REVERTING}),
    State.GUARDING: frozenset({State.PROMOTED, State.REVERTING}),
    State.REVERTING: frozenset({State.REVERTED}),
    State.ABORTING: frozenset({State.ABORTED}),
    State.PROMOTED: frozenset(),
    State.REVERTED: frozenset(),
    State.ABORTED: frozenset(),
    State.SUPERSEDED: frozenset(),
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


@dataclass(frozen=True, slots=True)
class Look:
    """One row of the looks at a candidate, or at a promoted version while it is guarded."""

    at: datetime
    guard: bool
    measurement: dict[str, Any]
    verdict: str
    reason: str
    readings: list[dict[str, Any]]
    """Each rule with its value and limit; empty for a look of before they were kept."""
    progress: float | None
    """Share of the answers needed for a verdict."""


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


class Ledger:
    """Reads and writes releases, looks and interventions; notes which alerts were sent."""

    def __init__(self, engine: Engine) -> None:
        """Use the records database behind ``engine``."""
        self._engine = engine

    def open(
        self, version: int, *, previous: int | None, plan: Plan, requested_by: str, run_url: str = ""
    ) -> Release:
        """Open a release, or return the one of ``version`` that is under way.

        Raises:
            ReleaseError: a release of another version is under way.
        """
        if current := self.under_way():
            if current.version != version:
                raise ReleaseError(
                    f"release {current.release_id} of version {current.version} is under way "
                    f"({current.state}); version {version} has to wait until that has ended"
                )
            return current
        values = {
            "version": version,
            "previous": previous,
            "state": State.OPEN,
            "plan": plan.as_row(),
            "requested_by": requested_by,
            "run_url": run_url or None,
            "opened_at": _now(),
        }
        return self.get(self._insert(values))

    def supersede(self, version: int, *, by: int, plan: Plan, requested_by: str) -> None:
        """Note that ``version`` is not released, because ``by`` was waiting, too."""
        now = _now()
        values = {
            "version": version,
            "state": State.SUPERSEDED,
            "plan": plan.as_row(),
            "requested_by": requested_by,
            "opened_at": now,
            "decided_at": now,
            "ended_at": now,
            "verdict": str(State.SUPERSEDED),
            "reason": f"version {by} is newer and was waiting, too",
        }
        self._insert(values)

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
        """Return the version that all viewers get: the newest promotion that was not taken back."""
        found = self._select(releases.c.state.in_(SERVING), limit=1)
        return found[0].version if found else None

    def latest(self, limit: int | None = 10) -> list[Release]:
        """Return the newest releases, newest first; all of them without a limit."""
        return self._select(limit=limit)

    def versions(self) -> set[int]:
        """Return every version that was ever released, or superseded."""
        with self._engine.connect() as connection:
            return set(connection.execute(select(releases.c.version)).scalars())

    def opened_until(self, moment: datetime) -> list[Release]:
        """Return every release that was opened at ``moment`` or before, newest first."""
        return self._select(releases.c.opened_at <= naive_utc(moment))

    def move(self, release_id: int, state: State, **values: Any) -> Release:
        """Move a release to ``state`` and set ``values``; moving to where it is changes nothing.

        Raises:
            ReleaseError: there is no way from its state to ``state``.
        """
        with self._engine.begin() as connection:
            moved = _move(connection, release_id, state, values)
        return self._moved(release_id, state, moved)

    def begin_watch(self, release_id: int) -> Release:
        """Note that the candidate meets viewers from now on; a second call does not move the window."""
        return self.move(release_id, State.WATCHING, watch_from=_now())

    def packed(self, release_id: int, image: str) -> None:
        """Note the digest of the image that the release's replicas are made of."""
        with self._engine.begin() as connection:
            here = releases.c.release_id == release_id
            connection.execute(update(releases).where(here).values(image=image))

    def decide(self, release_id: int, state: State, *, verdict: str, reason: str) -> Release:
        """Write the decision down before it is carried out; the first one stands."""
        return self.move(release_id, state, verdict=verdict, reason=reason, decided_at=_now())

    def begin_guard(self, release_id: int) -> Release:
        """Note that all viewers have the version from now on; a second call does not move the window."""
        return self.move(release_id, State.GUARDING, served_from=_now())

    def revert(self, release_id: int, *, reason: str) -> Release:
        """Write down that a guarded version is to be taken back, and why; the promotion stays on record."""
        return self.move(release_id, State.REVERTING, reverted_because=reason)

    def end(self, release_id: int, state: State) -> Release:
        """Note that nothing is left to be done."""
        return self.move(release_id, state, ended_at=_now())

    def intervene(
        self,
        release_id: int,
        intervention: Intervention,
        *,
        request: str,
        state: State | None = None,
        **values: Any,
    ) -> Release:
        """Write down what a person did and, in the same moment, move the release to ``state`` (None: stay).

        The same ``request`` a second time changes nothing.

        Raises:
            ReleaseError: there is no way from its state to ``state``.
        """
        row = {
            "request": request,
            "release_id": release_id,
            "at": naive_utc(intervention.at),
            "who": intervention.who,
            "what": intervention.what,
            "why": intervention.why,
            "seconds": intervention.seconds,
        }
        moved = True
        with self._engine.begin() as connection:
            if _known(connection, request):
                return self.get(release_id)
            if state:
                moved = _move(connection, release_id, state, values)
            if moved:
                connection.execute(insert(interventions).values(row))
        return self._moved(release_id, state, moved) if state else self.get(release_id)

    def interventions(self, release_id: int) -> list[Intervention]:
        """Return what persons did to a release, oldest first."""
        query = select(interventions).where(interventions.c.release_id == release_id)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(interventions.c.intervention_id)).mappings().all()
        return [
            Intervention(_utc(row["at"]), row["who"], Action(row["what"]), row["why"], row["seconds"])
            for row in rows
        ]

    def add_look(
        self, release_id: int, measurement: Measurement, judgement: Judgement, *, guard: bool = False
    ) -> None:
        """Append one look."""
        values = {
            "release_id": release_id,
            "at": _now(),
            "guard": guard,
            "measurement": measurement.as_row(),
            "verdict": judgement.verdict,
            "reason": judgement.reason,
            "readings": [reading.as_row() for reading in judgement.readings],
            "progress": judgement.progress,
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
                guard=bool(row["guard"]),
                measurement=row["measurement"],
                verdict=row["verdict"],
                reason=row["reason"],
                readings=row["readings"] or [],
                progress=row["progress"],
            )
            for row in rows
        ]

    def was_told(self, key: str) -> bool:
        """Return whether the alert ``key`` has been sent."""
        with self._engine.connect() as connection:
            found = connection.execute(select(func.count()).where(alerts.c.key == key))
            return bool(found.scalar_one())

    def note_told(self, key: str, title: str) -> None:
        """Note that the alert ``key`` has been sent."""
        with self._engine.begin() as connection:
            upsert(connection, alerts, {"key": key, "title": title, "sent_at": _now()})

    def _insert(self, values: dict[str, Any]) -> int:
        with self._engine.begin() as connection:
            key = connection.execute(insert(releases).values(values)).inserted_primary_key
        assert key is not None
        return int(key[0])

    def _moved(self, release_id: int, state: State, moved: bool) -> Release:
        release = self.get(release_id)
        if not moved and release.state != state:
            raise ReleaseError(f"release {release_id} is {release.state} and cannot become {state}")
        return release

    def _select(self, *where: Any, limit: int | None = None) -> list[Release]:
        query = select(releases).where(*where).order_by(releases.c.release_id.desc()).limit(limit)
        with self._engine.connect() as connection:
            return [_release(row) for row in connection.execute(query).mappings()]


def _move(connection: Connection, release_id: int, state: State, values: dict[str, Any]) -> bool:
    """Take the only way there is to ``state``; false when the release is not at its beginning."""
    sources: Collection[State] = [source for source, targets in _NEXT.items() if state in targets]
    here = (releases.c.release_id == release_id) & releases.c.state.in_(sources)
    return bool(connection.execute(update(releases).where(here).values(state=state, **values)).rowcount)


def _known(connection: Connection, request: str) -> bool:
    found = connection.execute(select(func.count()).where(interventions.c.request == request))
    return bool(found.scalar_one())


def _release(row: RowMapping) -> Release:
    return Release(
        release_id=row["release_id"],
        version=row["version"],
        previous=row["previous"],
        state=State(row["state"]),
        plan=Plan.from_row(row["plan"]),
        requested_by=row["requested_by"],
        run_url=row["run_url"],
        opened_at=_utc(row["opened_at"]),
        watch_from=row["watch_from"] and _utc(row["watch_from"]),
        decided_at=row["decided_at"] and _utc(row["decided_at"]),
        verdict=row["verdict"],
        reason=row["reason"],
        served_from=row["served_from"] and _utc(row["served_from"]),
        reverted_because=row["reverted_because"],
        ended_at=row["ended_at"] and _utc(row["ended_at"]),
        image=row["image"],
    )


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC)
