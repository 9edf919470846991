"""Move replicas and the split to a version, in an order in which somebody answers all the time.

Nothing here asks what the ledger wants, and everything may be done twice.
"""

from pipelines.release.entries import Release
from pipelines.release.fleet import CANARY_REPLICA, STABLE_REPLICAS, Running
from pipelines.release.router import Split
from pipelines.release.world import World


def pack(world: World, release: Release) -> None:
    """Have what replicas of the release's version need, and note the image that they are made of."""
    world.registry.export(release.version, world.models_dir)
    image = world.fleet.pack(release.version)
    if image and image != release.image:
        world.ledger.packed(release.release_id, image)


def serve(world: World, version: int, release_id: int | None = None) -> None:
    """Bring every stable replica to ``version``, which is exported, and let only it meet viewers.

    A canary that has it already stays as extra capacity.
    """
    canary = world.fleet.running().get(CANARY_REPLICA)
    if canary and canary.version == version:
        deploy_stable(world, version, release_id)
        world.router.apply(unshared(world, canary))
        return
    # Whatever the canary has is not what viewers shall get.
    world.router.apply(unshared(world))
    deploy_stable(world, version, release_id)
    # Last, for viewers wait for the others; and always, for a killed step may have begun to.
    world.fleet.remove(CANARY_REPLICA)


def deploy_stable(world: World, version: int, release_id: int | None = None) -> None:
    """Bring every stable replica to ``version``; one at a time, so that the others cover for it."""
    running = world.fleet.running()
    # Who does not answer anyway comes first: whoever covers for it must not stop before it is back.
    for replica in sorted(STABLE_REPLICAS, key=lambda name: name in running and bool(running[name].version)):
        world.fleet.deploy(replica, version, arm="stable", release=release_id)


def share(world: World, release: Release) -> None:
    """Make the canary the release's candidate, and give it its share of the users."""
    world.fleet.deploy(CANARY_REPLICA, release.version, arm="canary", release=release.release_id)
    world.router.apply(shared(world, release))


def take_away(world: World) -> None:
    """Let all viewers meet the stable replicas, then remove the canary."""
    world.router.apply(unshared(world))
    world.fleet.remove(CANARY_REPLICA)


def shared(world: World, release: Release) -> Split:
    """Return the split in which the canary has its share of the users."""
    return Split(_stable(world), world.fleet.address(CANARY_REPLICA), release.plan.canary_percent)


def unshared(world: World, canary: Running | None = None) -> Split:
    """Return the split in which all users meet one version; a ``canary`` that has it helps the others."""
    return Split(_stable(world), canary.address if canary else None)


def _stable(world: World) -> tuple[str, ...]:
    return tuple(world.fleet.address(replica) for replica in STABLE_REPLICAS)
