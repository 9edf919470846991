"""The ledger: a row for each release, look and thing a person did; what the world is made to match."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, insert, select, update

from pipelines.errors import ReleaseError
from pipelines.records.database import naive_utc, upsert
from pipelines.records.tables import alerts, interventions, looks, releases
from pipelines.release.entries import BEFORE, ENDED, SERVING, Intervention, Look, Release, State
from pipelines.release.figures import Measurement
from pipelines.release.judge import Judgement, Verdict
from pipelines.release.plan import Plan

_THIN_ROWS = 500
"""Looks that one transaction thins, some 4 MB: the recorder waits no longer than that."""


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
            rows = connection.execute(query.order_by(interventions.c.intervention_id)).mappings()
            return [Intervention.from_row(row) for row in rows]

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
            return [Look.from_row(row) for row in connection.execute(query).mappings()]

    def thin_looks(self, before: datetime) -> int:
        """Let go of what was measured in looks at releases that ended ``before``; returns in how many.

        Whole stay the first and the last look of each watch and each guard, and those that decided. Of the
        others stay time, verdict and reason. Killed anywhere and run again, it ends the same.
        """
        query = (
            select(looks.c.look_id, looks.c.release_id, looks.c.guard, looks.c.verdict)
            .join(releases)
            .where(releases.c.ended_at < naive_utc(before), looks.c.readings.is_not(None))
            .order_by(looks.c.look_id)
        )
        with self._engine.connect() as connection:
            spare = _spare(connection.execute(query))
        for start in range(0, len(spare), _THIN_ROWS):
            here = looks.c.look_id.in_(spare[start : start + _THIN_ROWS])
            with self._engine.begin() as connection:
                connection.execute(update(looks).where(here).values(measurement={}, readings=None))
        return len(spare)

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
            return [Release.from_row(row) for row in connection.execute(query).mappings()]


def _move(connection: Connection, release_id: int, state: State, values: dict[str, Any]) -> bool:
    """Take the only way there is to ``state``; false when the release is not at its beginning."""
    here = (releases.c.release_id == release_id) & releases.c.state.in_(BEFORE[state])
    return bool(connection.execute(update(releases).where(here).values(state=state, **values)).rowcount)


def _known(connection: Connection, request: str) -> bool:
    found = connection.execute(select(func.count()).where(interventions.c.request == request))
    return bool(found.scalar_one())


def _spare(whole: Iterable[Row[Any]]) -> list[int]:
    """Return the numbers of the looks between the first and the last of their window that decided nothing."""
    windows: dict[tuple[int, bool], list[Row[Any]]] = {}
    for look in whole:
        windows.setdefault((look.release_id, bool(look.guard)), []).append(look)
    return [
        look.look_id
        for window in windows.values()
        for look in window[1:-1]
        if look.verdict not in (Verdict.PASS, Verdict.FAIL)
    ]


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
