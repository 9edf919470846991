"""Keep replicas and split as the ledger wants them, whoever was killed or made anew.

Steps move a release; here nothing is decided and nothing goes on, the world is put back where it was.
"""

import logging

from pipelines.release.entries import Release, State
from pipelines.release.fleet import CANARY_REPLICA, STABLE_REPLICAS
from pipelines.release.rollout import deploy_stable, serve, share, shared, unshared
from pipelines.release.router import fingerprint
from pipelines.release.world import World

log = logging.getLogger(__name__)

_MOVING = {State.OPEN, State.PROMOTING, State.ABORTING, State.REVERTING}
"""A step is at work, or will be run again."""


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
        serve(world, stable)
        return
    # They come first: a candidate that does not get ready must not keep the others away.
    deploy_stable(world, stable)
    world.registry.export(watched.version, world.models_dir)
    share(world, watched)


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
    split = shared(world, watched) if watched else unshared(world, canary)
    in_force = world.router.current().partition(" shadow=")[0]
    # An NGINX that is away finds its split again by itself.
    if in_force and in_force != fingerprint(split):
        found["split"] = f"NGINX says {in_force!r}, {fingerprint(split)!r} was wanted"
    return found


def _watched(world: World) -> Release | None:
    """Return the release whose candidate has its share of the users."""
    current = world.ledger.under_way()
    return current if current and current.state in (State.WATCHING, State.ASKING) else None
