"""Who serves what right now, and how the latest releases went: for the shell and for people on call."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from pipelines.release.fleet import Running
from pipelines.release.ledger import ENDED, Look, Release
from pipelines.release.steps import World

_LOOKS = 5


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The world at one moment."""

    stable: int | None
    """Version that all viewers get, by the ledger."""
    split: str
    """What NGINX says it does; empty when it does not answer."""
    replicas: tuple[Running, ...]
    releases: tuple[Release, ...]
    """Newest first."""
    looks: tuple[Look, ...]
    """Latest looks at the newest release, newest first."""

    def as_json(self) -> dict[str, Any]:
        """Return the snapshot for a program."""
        return asdict(self)


def snapshot(world: World) -> Snapshot:
    """Ask ledger, NGINX and replicas."""
    releases = world.ledger.latest()
    return Snapshot(
        stable=world.ledger.stable(),
        split=world.router.current(),
        replicas=tuple(world.fleet.running().values()),
        releases=tuple(releases),
        looks=tuple(world.ledger.looks(releases[0].release_id, limit=_LOOKS)) if releases else (),
    )


def as_tables(state: Snapshot) -> list[str | Table]:
    """Lay the snapshot out for a terminal."""
    replicas = Table("replica", "address", "arm", "version", title="Replicas")
    for running in state.replicas:
        version = f"v{running.version}" if running.version else "not ready"
        replicas.add_row(running.replica, running.address, running.arm, version)
    releases = Table("release", "version", "before", "state", "opened", "verdict", "reason", title="Releases")
    for release in state.releases:
        releases.add_row(
            str(release.release_id),
            f"v{release.version}",
            f"v{release.previous}" if release.previous else "",
            release.state if release.state in ENDED else f"[bold]{release.state}[/bold]",
            f"{release.opened_at:%Y-%m-%d %H:%M}",
            release.verdict or "",
            release.reason or "",
        )
    looks = Table("at", "verdict", "reason", title="Latest looks at the newest release")
    for look in state.looks:
        looks.add_row(f"{look.at:%H:%M:%S}", look.verdict, look.reason)
    serving = f"version {state.stable}" if state.stable else "nothing yet"
    head = f"Serving: {serving}. NGINX: {state.split or 'not there'}."
    return [head, replicas, releases, looks]
