"""Tell registry and people what became of a release: everybody, and people once only."""

import logging

from pipelines.alerts import Alert, Announce
from pipelines.release.entries import Release, State
from pipelines.release.world import World

log = logging.getLogger(__name__)


def publish(world: World, release: Release, became: State, alert: Alert, announce: Announce) -> None:
    """Tell the registry and people what a release became; the row is closed after it, so nothing is lost."""
    why = note(world, release, became)
    if trouble := world.registry.push():
        log.warning("the note on version %d stays on this machine for now: %s", release.version, trouble)
    tell(world, alert, announce)
    log.info("release %d of version %d is %s: %s", release.release_id, release.version, became, why)


def note(world: World, release: Release, became: State) -> str:
    """Note on the version in the registry what its release became, tag it with the reason; returns that."""
    why = (release.reverted_because if became is State.REVERTED else release.reason) or "no reason given"
    world.registry.annotate(release.version, became if became is State.PROMOTED else f"{became}: {why}")
    world.registry.tag(f"release-{release.release_id}-{became}", release.version, why)
    return why


def tell(world: World, alert: Alert, announce: Announce) -> None:
    """Announce what has not been announced; killed in between, the same alert comes again, never none."""
    if not world.ledger.was_told(alert.key):
        announce(alert)
        world.ledger.note_told(alert.key, alert.title)


def page(world: World, release: Release) -> str:
    """Return where a person finds the release."""
    return release.run_url or world.look_here
