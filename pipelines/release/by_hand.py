"""What persons do: steer a release under way, or put a version back for all viewers.

What they want goes into the ledger with who, when and why; everything else follows it.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from pipelines import alerts
from pipelines.alerts import Announce
from pipelines.errors import ReleaseError
from pipelines.records.database import naive_utc
from pipelines.release.entries import LET_OUT, Action, Intervention, Release, State
from pipelines.release.plan import Plan
from pipelines.release.rollout import pack, serve
from pipelines.release.steps import abort, settle
from pipelines.release.telling import note, page, publish
from pipelines.release.world import World

_BY_HAND = "by hand"
"""The verdict where no judge has spoken."""
_NO_REASON = "no reason given"


def intervene(
    world: World,
    release_id: int | None,
    what: Literal["approve", "extend", "abort"],
    *,
    who: str,
    why: str,
    seconds: float = 0.0,
    request: str = "",
) -> Release:
    """Write down what a person wants of a release (None: of the one under way), and let it be so.

    The next look at it sees that and ends the watch, or goes on for ``seconds`` more. The same ``request``
    a second time changes nothing.

    Raises:
        ReleaseError: no release is under way, or it is past what is wanted.
    """
    current = world.ledger.get(release_id) if release_id else world.ledger.under_way()
    if current is None:
        raise ReleaseError("no release is under way; `python -m pipelines status` lists those there were")
    action, now = Action(what), datetime.now(UTC)
    state, values = _leads_to(current, action, who=who, why=why, now=now)
    by_person = Intervention(now, who, action, why, seconds if action is Action.EXTEND else 0.0)
    return world.ledger.intervene(
        current.release_id, by_person, request=request or uuid4().hex, state=state, **values
    )


def rollback(
    world: World,
    version: int,
    *,
    plan: Plan,
    why: str,
    requested_by: str,
    announce: Announce,
    run_url: str = "",
) -> None:
    """Put a registered version back for all viewers at once; a release under way is broken off first.

    A promotion that is being carried out is waited for; one whose process died or failed is taken back. Tried
    again by the same ``requested_by``, it goes on where it was.

    Raises:
        RegistryError: there is no such version.
        FleetError, RouterError: a replica or NGINX did not take it.
        ReleaseError: another release has been opened meanwhile.
    """
    world.registry.export(version, world.models_dir)
    current = world.ledger.under_way()
    if current and (current.version, current.requested_by) != (version, requested_by):
        reason = f"rolled back to version {version} by {requested_by}: {why or _NO_REASON}"
        _break_off(world, current, version, reason, announce)
        current = None
    with world.converging():
        previous = world.ledger.stable()
        if previous == version and not current:
            serve(world, version)
            return
        release = world.ledger.open(
            version,
            previous=previous,
            plan=replace(plan, guard_s=0.0),
            requested_by=requested_by,
            run_url=run_url,
        )
        reason = f"rolled back from version {previous}: {why or _NO_REASON}"
        release = world.ledger.decide(release.release_id, State.PROMOTING, verdict=_BY_HAND, reason=reason)
        pack(world, release)
        serve(world, version, release.release_id)
        alert = alerts.rolled_back(release.release_id, version, release.previous, why, page(world, release))
        publish(world, release, State.PROMOTED, alert, announce)
        world.ledger.end(release.release_id, State.PROMOTED)


def _leads_to(
    current: Release, action: Action, *, who: str, why: str, now: datetime
) -> tuple[State | None, dict[str, Any]]:
    """Return the state that what a person wants leads to, and what is noted with it; None: it stays."""
    guarding = current.state is State.GUARDING
    if action is Action.EXTEND:
        if not guarding and current.state is not State.WATCHING:
            raise ReleaseError(
                f"release {current.release_id} is {current.state}, there is no window to extend; "
                "approve or abort it"
            )
        return None, {}
    if guarding and action is Action.ABORT:
        return State.REVERTING, {"reverted_because": _refused(who, why)}
    if guarding:
        return State.PROMOTED, {"ended_at": naive_utc(now)}
    approved = action is Action.APPROVE
    reason = _approved(who, why, current.reason) if approved else _refused(who, why)
    decided = {"verdict": _BY_HAND, "reason": reason, "decided_at": naive_utc(now)}
    return State.PROMOTING if approved else State.ABORTING, decided


def _break_off(world: World, current: Release, version: int, reason: str, announce: Announce) -> None:
    """End a release under way before ``version`` is served."""
    if current.state in (State.PROMOTING, *LET_OUT):
        _take_back(world, current.release_id, version, reason, announce)
    else:
        world.ledger.decide(current.release_id, State.ABORTING, verdict=_BY_HAND, reason=reason)
        abort(world, current.release_id, announce=announce)


def _take_back(world: World, release_id: int, version: int, reason: str, announce: Announce) -> None:
    # Who promotes holds this: from here on that is done, or its process died and nobody does it.
    with world.converging():
        release = world.ledger.get(release_id)
        if release.state in (State.PROMOTING, State.GUARDING):
            release = world.ledger.revert(release_id, reason=reason)
    if release.state is not State.REVERTING:
        return
    if release.previous == version:
        settle(world, release_id, announce=announce)
        return
    # What it would go back to does not matter any more: the rollback says what is served, and tells it.
    note(world, release, State.REVERTED)
    world.ledger.end(release_id, State.REVERTED)


def _approved(who: str, why: str, before: str | None) -> str:
    return f"approved by {who}: {why or before or 'not measured'}"


def _refused(who: str, why: str) -> str:
    return f"refused by {who}: {why or _NO_REASON}"
