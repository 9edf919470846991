"""The steps of a release: make the world match the ledger. Each may be killed at any point and run again.

A decision is written into the ledger before it is carried out. A step looks at what is there, does what
is missing and returns; done twice it changes nothing, and what people were told once they are not told again.
"""

import logging
from collections.abc import Sequence
from typing import Literal

from pipelines import alerts
from pipelines.alerts import Announce
from pipelines.errors import NothingNew, Refused, ReleaseError
from pipelines.release.entries import LET_OUT, Release, State
from pipelines.release.fleet import CANARY_REPLICA
from pipelines.release.judge import Verdict
from pipelines.release.plan import Plan
from pipelines.release.preflight import preflight as try_out
from pipelines.release.rollout import pack, serve, share, take_away, unshared
from pipelines.release.telling import page, publish, tell
from pipelines.release.world import World

log = logging.getLogger(__name__)


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
    pack(world, release)
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
        pack(world, release)
        if world.ledger.stable() is None:
            reason = "first version: nothing serves yet that it could be compared with"
            world.ledger.decide(release_id, State.PROMOTING, verdict="first version", reason=reason)
            return
        running = world.fleet.running().get(CANARY_REPLICA)
        if running is None or running.version != release.version:
            # The extra replica of the last release may still take viewers: it leaves the split first.
            world.router.apply(unshared(world))
        share(world, release)
        world.ledger.begin_watch(release_id)


def outcome(world: World, release_id: int) -> Literal["promote", "abort", "ask"]:
    """Return what is to be done; a release that something broke off without a verdict is aborted."""
    state = world.ledger.get(release_id).state
    if state in (State.PROMOTING, *LET_OUT):
        return "promote"
    return "ask" if state is State.ASKING else "abort"


def ask(world: World, release_id: int, *, announce: Announce) -> None:
    """Tell people that nothing could be measured and that they have to decide."""
    release = world.ledger.get(release_id)
    alert = alerts.asked(release_id, release.version, release.reason or "", page(world, release))
    tell(world, alert, announce)


def promote(world: World, release_id: int, *, announce: Announce) -> None:
    """Move the stable replicas to the version one at a time; the canary stays as extra capacity.

    Ends with the guard's beginning, or with the release when there is no guard or nothing to go back to.

    Raises:
        ReleaseError: nobody has decided to promote it.
    """
    with world.converging():
        release = world.ledger.get(release_id)
        if release.state in LET_OUT - {State.GUARDING}:
            return
        if release.state not in (State.PROMOTING, State.GUARDING):
            raise ReleaseError(
                f"release {release_id} is {release.state}: nobody has decided to promote it; "
                "look on, or approve it with the DAG `steer`"
            )
        if release.state is State.PROMOTING:
            serve(world, release.version, release_id)
            if release.plan.guard_s and release.previous not in (None, release.version):
                release = world.ledger.begin_guard(release_id)
        alert = alerts.promoted(
            release_id, release.version, release.previous, release.reason or "", page(world, release)
        )
        publish(world, release, State.PROMOTED, alert, announce)
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
                alert = alerts.not_guarded(release_id, release.version, blind, page(world, release))
                tell(world, alert, announce)
            release = world.ledger.end(release_id, State.PROMOTED)
        if release.state is State.REVERTING:
            assert release.previous is not None
            world.registry.export(release.previous, world.models_dir)
            serve(world, release.previous, release_id)
            reason = release.reverted_because or ""
            alert = alerts.reverted(
                release_id, release.version, release.previous, reason, page(world, release)
            )
            publish(world, release, State.REVERTED, alert, announce)
            release = world.ledger.end(release_id, State.REVERTED)
        if release.state not in (State.PROMOTED, State.REVERTED):
            raise ReleaseError(f"release {release_id} is {release.state}; only a promoted version is guarded")
        return "promoted" if release.state is State.PROMOTED else "reverted"


def abort(world: World, release_id: int, *, announce: Announce) -> None:
    """Take the candidate away, also without a decision; all viewers meet the stable version again.

    Raises:
        ReleaseError: it was promoted, or is being.
    """
    with world.converging():
        release = world.ledger.get(release_id)
        if release.state is State.ABORTED:
            return
        if release.state is not State.ABORTING:
            reason = "a step before the verdict failed; see the run's log"
            release = world.ledger.decide(release_id, State.ABORTING, verdict="not measured", reason=reason)
        take_away(world)
        reason = release.reason or ""
        alert = alerts.aborted(
            release_id, release.version, world.ledger.stable(), reason, page(world, release)
        )
        publish(world, release, State.ABORTED, alert, announce)
        world.ledger.end(release_id, State.ABORTED)


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
    if not looks or not looks[0].guard:
        return "nobody looked"
    return looks[0].reason if looks[0].verdict in (Verdict.INSTRUMENT_BROKEN, Verdict.NO_TRAFFIC) else ""


def _span(versions: list[int]) -> str:
    return f"versions {min(versions)} to {max(versions)}" if len(versions) > 1 else f"version {versions[0]}"
