"""Who serves what right now, and how the latest releases went: for the shell and for people on call."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from pipelines.release.entries import ENDED, Intervention, Look, Release
from pipelines.release.fleet import Running
from pipelines.release.world import World

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
    interventions: tuple[Intervention, ...]
    """What persons did to the newest release, oldest first."""

    def as_json(self) -> dict[str, Any]:
        """Return the snapshot for a program."""
        return asdict(self)


def snapshot(world: World) -> Snapshot:
    """Ask ledger, NGINX and replicas."""
    releases = world.ledger.latest()
    newest = releases[0].release_id if releases else 0
    return Snapshot(
        stable=world.ledger.stable(),
        split=world.router.current(),
        replicas=tuple(world.fleet.running().values()),
        releases=tuple(releases),
        looks=tuple(world.ledger.looks(newest, limit=_LOOKS)),
        interventions=tuple(world.ledger.interventions(newest)),
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
            release.reverted_because or release.reason or "",
        )
    newest = state.releases[0] if state.releases else None
    image = [f"Image of version {newest.version}: {newest.image}."] if newest and newest.image else []
    looks = Table("at", "of the", "verdict", "needed", "reason", title="Latest looks at the newest release")
    for look in state.looks:
        needed = "" if look.progress is None else f"{look.progress:.0%}"
        of_the = "guard" if look.guard else "watch"
        looks.add_row(f"{look.at:%H:%M:%S}", of_the, look.verdict, needed, look.reason)
    serving = f"version {state.stable}" if state.stable else "nothing yet"
    head = (
        f"Serving: {serving}. NGINX: {state.split or 'no split (it is away, or nothing was released yet)'}."
    )
    persons = [
        f"{each.at:%Y-%m-%d %H:%M} {each.who}: {each.what}{_hours(each.seconds)}. {each.why}".rstrip()
        for each in state.interventions
    ]
    return [head, replicas, releases, *image, looks, *persons, *_readings(state)]


def _readings(state: Snapshot) -> list[str | Table]:
    """Return each rule of the latest look as a row, if there was one."""
    if not state.looks or not state.looks[0].readings:
        return []
    table = Table("rule", "value", "limit", "", "reading", title="What the latest look read")
    for reading in state.looks[0].readings:
        mark = "[red]✗[/red]" if reading["breached"] else ""
        values = (_figure(reading[name], reading["unit"]) for name in ("value", "limit"))
        table.add_row(reading["rule"], *values, mark, escape(reading["reason"]))
    return [table]


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:.2%}" if unit == "share" else f"{value:,.4g} {unit}".rstrip()


def _hours(seconds: float) -> str:
    return f" by {seconds / 3_600:g} h" if seconds else ""
