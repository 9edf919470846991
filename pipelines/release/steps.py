"""Make the world match the ledger. Every step may be killed at any point and run again.

A decision is written into the ledger before it is carried out. A step looks at what is there, does what
is missing and returns; done twice it changes nothing, and what people were told once they are not told again.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import uuid4

from pipelines import alerts
from pipelines.alerts import Alert, Announce
from pipelines.errors import NothingNew, Refused, ReleaseError
from pipelines.records.database import naive_utc
from pipelines.release.fleet import CANARY_REPLICA, STABLE_REPLICAS, Running
from pipelines.release.judge import Judgement, Verdict, judge
from pipelines.release.ledger import Action, Intervention, Release, State
from pipelines.release.measure import Watched, measure
from pipelines.release.plan import Plan
from pipelines.release.preflight import preflight as try_out
from pipelines.release.router import Split, fingerprint
from pipelines.release.world import World
from pipelines.settings import OnDeadline

log = logging.getLogger(__name__)

BY_HAND = "by hand"
_LET_OUT = {State.GUARDING, State.PROMOTED, State.REVERTING, State.REVERTED}
"""All viewers have the version, or had it."""
_MOVING = {State.OPEN, State.PROMOTING, State.ABORTING, State.REVERTING}
"""A step is at work, or will be run again."""
_AT_DEADLINE = {
    OnDeadline.ASK: State.ASKING,
    OnDeadline.ABORT: State.ABORTING,
    OnDeadline.PROMOTE: State.PROMOTING,
}


def open_release(
    world: World,
    *,
    version: int | None,
    plan: Plan,
    requested_by: str,
    run_url: str = "",
    automatic: bool = False,
) -> Release:
    """Open the release of ``version`` (None: the newest), or return the one that is under way.

    ``automatic``: nobody asked for this very version, it has come by itself. Then the newest is released and
    what else has been waiting is marked as superseded.

    Raises:
        NothingNew: ``automatic``, and the newest version had its release already.
        ReleaseError: there is no such version, it serves already, or another release is under way.
    """
    known = [info.number for info in world.registry.versions()]
    if not known:
        raise ReleaseError(
            "the registry holds no version yet; run the DAG `retrain` (python -m pipelines retrain) first"
        )
    wanted = max(known) if automatic else version or max(known)
    if wanted not in known:
        raise ReleaseError(f"version {wanted} is not in the registry; it holds {_span(known)}")
    with world.converging():
        current, stable = world.ledger.under_way(), world.ledger.stable()
        if automatic and current and current.requested_by == requested_by:
            return current
        if automatic and not current:
            _pass_over(world, known, plan=plan, requested_by=requested_by)
        if wanted == stable and not current:
            raise ReleaseError(f"version {wanted} is the one that serves already; nothing is to be released")
        return world.ledger.open(
            wanted, previous=stable, plan=plan, requested_by=requested_by, run_url=run_url
        )


def preflight(world: World, release_id: int) -> str:
    """Try the candidate before any viewer meets it; what fails is decided as an abort.

    Raises:
        Refused: the candidate cannot be read or answers badly.
    """
    release = world.ledger.get(release_id)
    _pack(world, release)
    trouble, told = try_out(world, release)
    if trouble:
        world.ledger.decide(release_id, State.ABORTING, verdict="preflight failed", reason=trouble)
        raise Refused(f"version {release.version} failed its preflight: {trouble}")
    return told


def start_canary(world: World, release_id: int) -> None:
    """Give the candidate its share of the users; the very first version has nobody to be compared with."""
    with world.converging():
        release = world.ledger.get(release_id)
        if release.state not in (State.OPEN, State.WATCHING):
            return
        _pack(world, release)
        if world.ledger.stable() is None:
            reason = "first version: nothing serves yet that it could be compared with"
            world.ledger.decide(release_id, State.PROMOTING, verdict="first version", reason=reason)
            return
        running = world.fleet.running().get(CANARY_REPLICA)
        if running is None or running.version != release.version:
            # The extra replica of the last release may still take viewers: it leaves the split first.
            world.router.apply(Split(_stable_addresses(world)))
        world.fleet.deploy(CANARY_REPLICA, release.version, arm="canary", release=release_id)
        world.router.apply(_shared(world, release))
        world.ledger.begin_watch(release_id)


def look(
    world: World, release_id: int, *, announce: Announce | None = None, now: datetime | None = None
) -> Judgement:
    """Measure and judge once: the candidate or, once it serves, what was promoted.

    A final verdict is written down as the decision, but for a guard that has nothing against the version:
    `settle` ends that one. ``announce`` is told when the instruments have been broken for a while.
    """
    now = now or datetime.now(UTC)
    release = world.ledger.get(release_id)
    if release.state is State.GUARDING and release.served_from:
        return _look_after(world, release, release.served_from, now)
    if release.state is not State.WATCHING or release.watch_from is None:
        return _already_decided(release)
    plan = _extended(world, release, release.plan, since=release.watch_from)
    watched = Watched(release.version, release.previous, since=release.watch_from)
    measurement = measure(world.records, world.prometheus, watched=watched, now=now)
    judgement = judge(plan, measurement)
    world.ledger.add_look(release_id, measurement, judgement)
    if judgement.final:
        return _decide(world, release, judgement)
    if announce and judgement.verdict is Verdict.INSTRUMENT_BROKEN:
        _tell_of_broken_instrument(world, release, now, announce)
    return judgement


def outcome(world: World, release_id: int) -> Literal["promote", "abort", "ask"]:
    """Return what is to be done; a release that something broke off without a verdict is aborted."""
    state = world.ledger.get(release_id).state
    if state in (State.PROMOTING, *_LET_OUT):
        return "promote"
    return "ask" if state is State.ASKING else "abort"


def ask(world: World, release_id: int, *, announce: Announce) -> None:
    """Tell people that nothing could be measured and that they have to decide."""
    release = world.ledger.get(release_id)
    alert = alerts.asked(release_id, release.version, release.reason or "", _page(world, release))
    _tell(world, alert, announce)


def promote(world: World, release_id: int, *, announce: Announce) -> None:
    """Move the stable replicas to the version one at a time; the canary stays as extra capacity.

    Ends with the guard's beginning, or with the release when there is no guard or nothing to go back to.

    Raises:
        ReleaseError: nobody has decided to promote it.
    """
    with world.converging():
        release = world.ledger.get(release_id)
        if release.state in _LET_OUT - {State.GUARDING}:
            return
        if release.state not in (State.PROMOTING, State.GUARDING):
            raise ReleaseError(
                f"release {release_id} is {release.state}: nobody has decided to promote it; "
                "look on, or approve it with the DAG `steer`"
            )
        if release.state is State.PROMOTING:
            _serve(world, release.version, release_id)
            if release.plan.guard_s and release.previous not in (None, release.version):
                release = world.ledger.begin_guard(release_id)
        alert = alerts.promoted(
            release_id, release.version, release.previous, release.reason or "", _page(world, release)
        )
        _publish(world, release, State.PROMOTED, "promoted", alert, announce)
        if release.state is State.PROMOTING:
            world.ledger.end(release_id, State.PROMOTED)


def settle(world: World, release_id: int, *, announce: Announce) -> Literal["promoted", "reverted"]:
    """End a guard: what it had nothing against stays, what it judged bad gives way to the version before.

    Raises:
        ReleaseError: the release was never promoted.
    """
    with world.converging():
        release = world.ledger.get(release_id)
        if release.state is State.GUARDING:
            if blind := _blind(world, release_id):
                alert = alerts.not_guarded(release_id, release.version, blind, _page(world, release))
                _tell(world, alert, announce)
            release = world.ledger.end(release_id, State.PROMOTED)
        if release.state is State.REVERTING:
            assert release.previous is not None
            world.registry.export(release.previous, world.models_dir)
            _serve(world, release.previous, release_id)
            reason = release.reverted_because or ""
            alert = alerts.reverted(
                release_id, release.version, release.previous, reason, _page(world, release)
            )
            _publish(world, release, State.REVERTED, f"reverted: {reason}", alert, announce)
            release = world.ledger.end(release_id, State.REVERTED)
        if release.state not in (State.PROMOTED, State.REVERTED):
            raise ReleaseError(f"release {release_id} is {release.state}; only a promoted version is guarded")
        return "promoted" if release.state is State.PROMOTED else "reverted"


def abort(world: World, release_id: int, *, announce: Announce) -> None:
    """Take the candidate away, also without a decision; all viewers meet the stable version again."""
    with world.converging():
        release = world.ledger.get(release_id)
        if release.state is State.ABORTED:
            return
        if release.state is not State.ABORTING:
            reason = "a step before the verdict failed; see the run's log"
            release = world.ledger.decide(release_id, State.ABORTING, verdict="not measured", reason=reason)
        world.router.apply(Split(_stable_addresses(world)))
        world.fleet.remove(CANARY_REPLICA)
        reason = release.reason or ""
        alert = alerts.aborted(
            release_id, release.version, world.ledger.stable(), reason, _page(world, release)
        )
        _publish(world, release, State.ABORTED, f"aborted: {reason}", alert, announce)
        world.ledger.end(release_id, State.ABORTED)


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

    A promotion that is being carried out is waited for; one whose process died or failed is taken back.
    """
    world.registry.export(version, world.models_dir)
    why = why or "no reason given"
    current = world.ledger.under_way()
    if current and (current.version, current.requested_by) != (version, requested_by):
        reason = f"rolled back to version {version} by {requested_by}: {why}"
        _break_off(world, current, version, reason, announce)
        current = None
    with world.converging():
        previous = world.ledger.stable()
        if previous == version and not current:
            _serve(world, version)
            return
        release = world.ledger.open(
            version,
            previous=previous,
            plan=replace(plan, guard_s=0.0),
            requested_by=requested_by,
            run_url=run_url,
        )
        reason = f"rolled back from version {previous}: {why}"
        release = world.ledger.decide(release.release_id, State.PROMOTING, verdict=BY_HAND, reason=reason)
        _pack(world, release)
        _serve(world, version, release.release_id)
        alert = alerts.rolled_back(release.release_id, version, release.previous, why, _page(world, release))
        _publish(world, release, State.PROMOTED, "promoted", alert, announce)
        world.ledger.end(release.release_id, State.PROMOTED)


def restore(world: World) -> None:
    """Make replicas and split match the ledger again, after the machine or the stack was down."""
    with world.converging():
        stable = world.ledger.stable()
        if stable is not None:
            _restore(world, stable)


def keep(world: World) -> list[str]:
    """Restore what does not match the ledger, and return what that was; to be called every few seconds.

    Asks ledger, replicas and NGINX, and does nothing when all is well. While a release is being moved that
    is its steps' business, also when they died and are run again; then only a stable replica that is not
    there at all is put there, because viewers are waiting.

    Raises:
        filelock.Timeout: a step is at work.
        FleetError, RegistryError, RouterError: not all of it could be restored.
    """
    with world.converging(patience_s=0):
        stable = world.ledger.stable()
        if stable is None:
            return []
        current = world.ledger.under_way()
        moving = current is not None and current.state in _MOVING
        found = _missing(world, stable) if moving else _drift(world, stable)
        if found:
            log.warning("this does not match the ledger and is mended: %s", "; ".join(found.values()))
        if found and moving:
            world.registry.export(stable, world.models_dir)
            for replica in found:
                world.fleet.deploy(replica, stable, arm="stable")
        elif found:
            _restore(world, stable)
        return list(found.values())


def _restore(world: World, stable: int) -> None:
    world.registry.export(stable, world.models_dir)
    watched = _watched(world)
    if not watched:
        _serve(world, stable)
        return
    # They come first: a candidate that does not get ready must not keep the others away.
    _deploy_stable(world, stable)
    world.registry.export(watched.version, world.models_dir)
    world.fleet.deploy(CANARY_REPLICA, watched.version, arm="canary", release=watched.release_id)
    world.router.apply(_shared(world, watched))


def _missing(world: World, stable: int) -> dict[str, str]:
    """Say which stable replicas are not there at all, by name."""
    running = world.fleet.running()
    return {
        replica: f"{replica} is not there, version {stable} was wanted"
        for replica in STABLE_REPLICAS
        if replica not in running
    }


def _drift(world: World, stable: int) -> dict[str, str]:
    """Say what is not as the ledger wants it, by what it is; copies to a shadow are left alone."""
    running, watched = world.fleet.running(), _watched(world)
    canary = running.get(CANARY_REPLICA)
    wanted = dict.fromkeys(STABLE_REPLICAS, stable)
    if watched:
        wanted[CANARY_REPLICA] = watched.version
    elif canary and canary.version:
        wanted[CANARY_REPLICA] = stable
    has = {replica: running[replica].version if replica in running else None for replica in wanted}
    found = {
        replica: f"{replica} answers {f'version {has[replica]}' if has[replica] else 'nothing'}, "
        f"version {version} was wanted"
        for replica, version in wanted.items()
        if has[replica] != version
    }
    split = _shared(world, watched) if watched else _covered(world, canary)
    in_force = world.router.current().partition(" shadow=")[0]
    # An NGINX that is away finds its split again by itself.
    if in_force and in_force != fingerprint(split):
        found["split"] = f"NGINX says {in_force!r}, {fingerprint(split)!r} was wanted"
    return found


def _watched(world: World) -> Release | None:
    """Return the release whose candidate has its share of the users."""
    current = world.ledger.under_way()
    return current if current and current.state in (State.WATCHING, State.ASKING) else None


def _covered(world: World, canary: Running | None) -> Split:
    """Return the split without a candidate; after a promotion its replica stays and helps the others."""
    return Split(_stable_addresses(world), canary.address if canary else None)


def _shared(world: World, release: Release) -> Split:
    canary = world.fleet.address(CANARY_REPLICA)
    return Split(_stable_addresses(world), canary, release.plan.canary_percent)


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
    decided = {"verdict": BY_HAND, "reason": reason, "decided_at": naive_utc(now)}
    return State.PROMOTING if approved else State.ABORTING, decided


def _pass_over(world: World, known: Sequence[int], *, plan: Plan, requested_by: str) -> None:
    """Mark what has been waiting beside the newest version as superseded."""
    released, newest = world.ledger.versions(), max(known)
    if newest in released:
        raise NothingNew(f"version {newest}, the newest, had its release already")
    for waiting in sorted(set(known) - {newest}):
        if waiting > max(released, default=0):
            world.ledger.supersede(waiting, by=newest, plan=plan, requested_by=requested_by)
            log.info("version %d is not released: version %d is newer", waiting, newest)


def _blind(world: World, release_id: int) -> str:
    """Say why the guard's last look saw nothing; empty: it saw something, and nothing against the version."""
    looks = world.ledger.looks(release_id, limit=1)
    if not looks:
        return "nobody looked"
    return looks[0].reason if looks[0].verdict in (Verdict.INSTRUMENT_BROKEN, Verdict.NO_TRAFFIC) else ""


def _extended(world: World, release: Release, plan: Plan, *, since: datetime) -> Plan:
    """Return ``plan`` with what persons have added to the window that began at ``since``."""
    done = world.ledger.interventions(release.release_id)
    return replace(plan, window_s=plan.window_s + sum(each.seconds for each in done if each.at >= since))


def _look_after(world: World, release: Release, served_from: datetime, now: datetime) -> Judgement:
    """Look at a promoted version beside what the version before it had done."""
    plan = _extended(world, release, release.plan.for_guard(), since=served_from)
    watched = Watched(release.version, release.previous, since=served_from, guard_s=release.plan.guard_s)
    measurement = measure(world.records, world.prometheus, watched=watched, now=now)
    judgement = judge(plan, measurement)
    world.ledger.add_look(release.release_id, measurement, judgement, guard=True)
    if judgement.verdict is Verdict.FAIL:
        try:
            world.ledger.revert(release.release_id, reason=judgement.reason)
        except ReleaseError:
            # A person was faster, and theirs stands.
            return _already_decided(world.ledger.get(release.release_id))
    return judgement


def _decide(world: World, release: Release, judgement: Judgement) -> Judgement:
    """Write a final verdict down; when somebody was faster, theirs stands."""
    state = {Verdict.PASS: State.PROMOTING, Verdict.FAIL: State.ABORTING}.get(judgement.verdict)
    reason = judgement.reason
    if state is None:
        state = _AT_DEADLINE[release.plan.on_deadline]
        if state is not State.ASKING:
            reason = (
                f"{judgement.verdict} at the deadline, and the plan says {release.plan.on_deadline}: {reason}"
            )
    try:
        world.ledger.decide(release.release_id, state, verdict=judgement.verdict, reason=reason)
    except ReleaseError:
        return _already_decided(world.ledger.get(release.release_id))
    return judgement


def _tell_of_broken_instrument(world: World, release: Release, now: datetime, announce: Announce) -> None:
    """Tell once when no look could be measured for a while: a watch is of no use without its instruments."""
    looks = world.ledger.looks(release.release_id, limit=_LOOKS_BACK)
    measured = next((each.at for each in looks if each.verdict != Verdict.INSTRUMENT_BROKEN), looks[-1].at)
    if now - measured >= _BROKEN_FOR:
        alert = alerts.instrument_broken(
            release.release_id, release.version, looks[0].reason, measured, _page(world, release)
        )
        _tell(world, alert, announce)


_BROKEN_FOR = timedelta(minutes=5)
_LOOKS_BACK = 400
"""More looks than fit between a look a second and `_BROKEN_FOR`."""


def _pack(world: World, release: Release) -> None:
    """Have what replicas of the release's version need, and note the image that they are made of."""
    world.registry.export(release.version, world.models_dir)
    image = world.fleet.pack(release.version)
    if image and image != release.image:
        world.ledger.packed(release.release_id, image)


def _serve(world: World, version: int, release_id: int | None = None) -> None:
    """Bring every stable replica to ``version``; one at a time, so that the others cover for it."""
    canary = world.fleet.running().get(CANARY_REPLICA)
    if canary and canary.version == version:
        _deploy_stable(world, version, release_id)
        world.router.apply(Split(_stable_addresses(world), canary.address))
        return
    # Whatever the canary has is not what viewers shall get.
    world.router.apply(Split(_stable_addresses(world)))
    _deploy_stable(world, version, release_id)
    # Last, for viewers wait for the others; and always, for a killed step may have begun to.
    world.fleet.remove(CANARY_REPLICA)


def _deploy_stable(world: World, version: int, release_id: int | None = None) -> None:
    running = world.fleet.running()
    # Who does not answer anyway comes first: whoever covers for it must not stop before it is back.
    for replica in sorted(STABLE_REPLICAS, key=lambda name: name in running and bool(running[name].version)):
        world.fleet.deploy(replica, version, arm="stable", release=release_id)


def _publish(
    world: World, release: Release, became: State, note: str, alert: Alert, announce: Announce
) -> None:
    """Tell the registry and people what a release became; the row is closed after it, so nothing is lost."""
    world.registry.annotate(release.version, note)
    world.registry.tag(f"release-{release.release_id}-{became}", release.version, release.reason or note)
    if trouble := world.registry.push():
        log.warning("the note on version %d stays on this machine for now: %s", release.version, trouble)
    _tell(world, alert, announce)
    log.info("release %d of version %d: %s", release.release_id, release.version, note)


def _tell(world: World, alert: Alert, announce: Announce) -> None:
    """Announce what has not been announced; killed in between, the same alert comes again, never none."""
    if not world.ledger.was_told(alert.key):
        announce(alert)
        world.ledger.note_told(alert.key, alert.title)


def _page(world: World, release: Release) -> str:
    return release.run_url or world.look_here


def _break_off(world: World, current: Release, version: int, reason: str, announce: Announce) -> None:
    """End a release under way before ``version`` is served."""
    if current.state in (State.PROMOTING, *_LET_OUT):
        _take_back(world, current.release_id, version, reason, announce)
    else:
        world.ledger.decide(current.release_id, State.ABORTING, verdict=BY_HAND, reason=reason)
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
    note = f"reverted: {release.reverted_because}"
    world.registry.annotate(release.version, note)
    world.registry.tag(f"release-{release_id}-{State.REVERTED}", release.version, note)
    world.ledger.end(release_id, State.REVERTED)


def _already_decided(release: Release) -> Judgement:
    if release.state is State.OPEN:
        raise ReleaseError(
            f"release {release.release_id} has not met viewers yet; run the step start_canary first"
        )
    passed = release.state in (State.PROMOTING, State.GUARDING, State.PROMOTED)
    verdict = Verdict.PASS if passed else Verdict.FAIL
    reason = release.reverted_because or release.reason or f"the release is {release.state} already"
    return Judgement(verdict, reason, final=True, readings=(), progress=1.0)


def _approved(who: str, why: str, before: str | None) -> str:
    return f"approved by {who}: {why or before or 'not measured'}"


def _refused(who: str, why: str) -> str:
    return f"refused by {who}: {why or 'no reason given'}"


def _stable_addresses(world: World) -> tuple[str, ...]:
    return tuple(world.fleet.address(replica) for replica in STABLE_REPLICAS)


def _span(versions: list[int]) -> str:
    return f"versions {min(versions)} to {max(versions)}" if len(versions) > 1 else f"version {versions[0]}"
