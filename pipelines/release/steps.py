"""Make the world match the ledger. Every step may be killed at any point and run again.

A decision is written into the ledger before it is carried out. A step looks at what is there, does what
is missing and returns; done twice it changes nothing.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock

from pipelines import alerts
from pipelines.alerts import Alert, Announce
from pipelines.errors import Refused, ReleaseError
from pipelines.model.registry import Registry
from pipelines.release.fleet import CANARY_REPLICA, STABLE_REPLICAS, Fleet
from pipelines.release.judge import Judgement, Verdict, judge
from pipelines.release.ledger import Ledger, Release, State
from pipelines.release.measure import Prometheus, measure
from pipelines.release.plan import Plan
from pipelines.release.preflight import check
from pipelines.release.router import Router, Split

log = logging.getLogger(__name__)

BY_HAND = "by hand"
_LOCK_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class World:
    """Everything a release touches."""

    ledger: Ledger
    fleet: Fleet
    router: Router
    registry: Registry
    prometheus: Prometheus
    models_dir: Path
    look_here: str
    """Where a person finds the release, for alerts."""

    def converging(self) -> FileLock:
        """Return the lock that keeps two steps from moving the same replicas at once."""
        self.models_dir.mkdir(parents=True, exist_ok=True)
        return FileLock(self.models_dir / ".release.lock", timeout=_LOCK_TIMEOUT_S)


def open_release(world: World, *, version: int | None, plan: Plan, requested_by: str) -> Release:
    """Open the release of ``version`` (None: the newest), or return the one that is under way.

    Raises:
        ReleaseError: there is no such version, it serves already, or another release is under way.
    """
    known = [info.number for info in world.registry.versions()]
    if not known:
        raise ReleaseError(
            "the registry holds no version yet; run the DAG `retrain` (python -m pipelines retrain) first"
        )
    wanted = version or max(known)
    if wanted not in known:
        raise ReleaseError(f"version {wanted} is not in the registry; it holds {_span(known)}")
    with world.converging():
        stable = world.ledger.stable()
        if wanted == stable and not world.ledger.under_way():
            raise ReleaseError(f"version {wanted} is the one that serves already; nothing is to be released")
        return world.ledger.open(wanted, previous=stable, plan=plan, requested_by=requested_by)


def preflight(world: World, release_id: int) -> str:
    """Try the candidate before any viewer meets it; what fails is decided as an abort.

    Raises:
        Refused: the candidate cannot be read or answers badly.
    """
    release = world.ledger.get(release_id)
    model_dir = world.registry.export(release.version, world.models_dir)
    trouble = check(model_dir, release.version)
    if trouble:
        world.ledger.decide(release_id, State.ABORTING, verdict="preflight failed", reason=trouble)
        raise Refused(f"version {release.version} failed its preflight: {trouble}")
    return f"version {release.version} answers known users and strangers"


def start_canary(world: World, release_id: int) -> None:
    """Give the candidate its share of the users; the very first version has nobody to be compared with."""
    with world.converging():
        release = world.ledger.get(release_id)
        if release.state not in (State.OPEN, State.WATCHING):
            return
        if world.ledger.stable() is None:
            reason = "first version: nothing serves yet that it could be compared with"
            world.ledger.decide(release_id, State.PROMOTING, verdict="first version", reason=reason)
            return
        world.registry.export(release.version, world.models_dir)
        running = world.fleet.running().get(CANARY_REPLICA)
        if running is None or running.version != release.version:
            # The extra replica of the last release may still take viewers: it leaves the split first.
            world.router.apply(Split(_stable_addresses(world)))
        world.fleet.deploy(CANARY_REPLICA, release.version, arm="canary")
        canary = world.fleet.address(CANARY_REPLICA)
        world.router.apply(Split(_stable_addresses(world), canary, release.plan.canary_percent))
        world.ledger.begin_watch(release_id)


def look(world: World, release_id: int, *, now: datetime | None = None) -> Judgement:
    """Measure and judge once; a final verdict is written down as the decision."""
    release = world.ledger.get(release_id)
    if release.state is not State.WATCHING or release.watch_from is None:
        return _already_decided(release)
    elapsed_s = ((now or datetime.now(UTC)) - release.watch_from).total_seconds()
    measurement = measure(world.prometheus, version=release.version, elapsed_s=elapsed_s)
    judgement = judge(release.plan, measurement)
    world.ledger.add_look(release_id, measurement, judgement)
    if judgement.final:
        state = {Verdict.PASS: State.PROMOTING, Verdict.FAIL: State.ABORTING}.get(
            judgement.verdict, State.ASKING
        )
        world.ledger.decide(release_id, state, verdict=judgement.verdict, reason=judgement.reason)
    return judgement


def outcome(world: World, release_id: int) -> Literal["promote", "abort", "ask"]:
    """Return what is to be done; a release that something broke off without a verdict is aborted."""
    state = world.ledger.get(release_id).state
    if state in (State.PROMOTING, State.PROMOTED):
        return "promote"
    return "ask" if state is State.ASKING else "abort"


def ask(world: World, release_id: int, *, announce: Announce) -> None:
    """Tell people that nothing could be measured and that they have to decide."""
    release = world.ledger.get(release_id)
    announce(alerts.asked(release.version, release.reason or "", world.look_here))


def promote(world: World, release_id: int, *, announce: Announce, decided_by: str = "") -> None:
    """Move the stable replicas to the version one at a time; the canary stays as extra capacity."""
    with world.converging():
        release = world.ledger.get(release_id)
        if release.state is State.PROMOTED:
            return
        if release.state is not State.PROMOTING:
            reason = f"approved by {decided_by or 'a person'}; {release.reason or 'not measured'}"
            release = world.ledger.decide(release_id, State.PROMOTING, verdict=BY_HAND, reason=reason)
        _serve(world, release.version)
        alert = alerts.promoted(release.version, release.previous, release.reason or "", world.look_here)
        _end(world, release, State.PROMOTED, alert, announce)


def abort(world: World, release_id: int, *, announce: Announce, decided_by: str = "") -> None:
    """Take the candidate away; all viewers meet the stable version again."""
    with world.converging():
        release = world.ledger.get(release_id)
        if release.state is State.ABORTED:
            return
        if release.state is not State.ABORTING:
            verdict, reason = _why_aborted(decided_by)
            release = world.ledger.decide(release_id, State.ABORTING, verdict=verdict, reason=reason)
        world.router.apply(Split(_stable_addresses(world)))
        world.fleet.remove(CANARY_REPLICA)
        alert = alerts.aborted(release.version, world.ledger.stable(), release.reason or "", world.look_here)
        _end(world, release, State.ABORTED, alert, announce)


def rollback(
    world: World, version: int, *, plan: Plan, why: str, requested_by: str, announce: Announce
) -> None:
    """Put a registered version back for all viewers at once; a release under way is broken off first.

    Raises:
        ReleaseError: a promotion is being carried out right now.
    """
    world.registry.export(version, world.models_dir)
    _break_off(
        world, f"rolled back to version {version} by {requested_by}: {why or 'no reason given'}", announce
    )
    with world.converging():
        previous = world.ledger.stable()
        release = world.ledger.open(version, previous=previous, plan=plan, requested_by=requested_by)
        reason = f"rolled back from version {previous}: {why or 'no reason given'}"
        release = world.ledger.decide(release.release_id, State.PROMOTING, verdict=BY_HAND, reason=reason)
        _serve(world, version)
        _end(world, release, State.PROMOTED, alerts.rolled_back(version, previous, why), announce)


def restore(world: World) -> None:
    """Make replicas and split match the ledger again, after the machine or the stack was down."""
    with world.converging():
        current, stable = world.ledger.under_way(), world.ledger.stable()
        if stable is None:
            return
        world.registry.export(stable, world.models_dir)
        watched = current if current and current.state in (State.WATCHING, State.ASKING) else None
        if watched:
            world.fleet.deploy(CANARY_REPLICA, watched.version, arm="canary")
            canary = world.fleet.address(CANARY_REPLICA)
            world.router.apply(Split(_stable_addresses(world), canary, watched.plan.canary_percent))
            _deploy_stable(world, stable)
        else:
            _serve(world, stable)


def _serve(world: World, version: int) -> None:
    """Bring every stable replica to ``version``; one at a time, so that the others cover for it."""
    canary = world.fleet.running().get(CANARY_REPLICA)
    if canary and canary.version != version:
        # Whatever the canary has is not what viewers shall get.
        world.router.apply(Split(_stable_addresses(world)))
        world.fleet.remove(CANARY_REPLICA)
        canary = None
    _deploy_stable(world, version)
    world.router.apply(Split(_stable_addresses(world), canary.address if canary else None))


def _deploy_stable(world: World, version: int) -> None:
    for replica in STABLE_REPLICAS:
        world.fleet.deploy(replica, version, arm="stable")


def _end(world: World, release: Release, state: State, alert: Alert, announce: Announce) -> None:
    """Tell people and the registry, then close the row: killed in between, it is told again, never lost."""
    note = "promoted" if state is State.PROMOTED else f"aborted: {release.reason}"
    world.registry.annotate(release.version, note)
    if trouble := world.registry.push():
        log.warning("the note on version %d stays on this machine for now: %s", release.version, trouble)
    announce(alert)
    world.ledger.move(release.release_id, state)
    log.info("release %d of version %d: %s", release.release_id, release.version, note)


def _break_off(world: World, reason: str, announce: Announce) -> None:
    current = world.ledger.under_way()
    if current is None:
        return
    if current.state is State.PROMOTING:
        raise ReleaseError(
            f"version {current.version} is being promoted right now; wait until it is done, then roll back"
        )
    world.ledger.decide(current.release_id, State.ABORTING, verdict=BY_HAND, reason=reason)
    abort(world, current.release_id, announce=announce)


def _already_decided(release: Release) -> Judgement:
    if release.state is State.OPEN:
        raise ReleaseError(
            f"release {release.release_id} has not met viewers yet; run the step start_canary first"
        )
    verdict = {State.PROMOTING: Verdict.PASS, State.PROMOTED: Verdict.PASS}.get(release.state, Verdict.FAIL)
    return Judgement(verdict, release.reason or f"the release is {release.state} already", final=True)


def _why_aborted(decided_by: str) -> tuple[str, str]:
    if decided_by:
        return BY_HAND, f"refused by {decided_by}"
    return "not measured", "a step before the verdict failed; see the run's log"


def _stable_addresses(world: World) -> tuple[str, ...]:
    return tuple(world.fleet.address(replica) for replica in STABLE_REPLICAS)


def _span(versions: list[int]) -> str:
    return f"versions {min(versions)} to {max(versions)}" if len(versions) > 1 else f"version {versions[0]}"
