"""Versions and what becomes of them, on the shell."""

import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from pipelines.commands.shell import Exit, announce, log, print_json
from pipelines.settings import Settings, read

if TYPE_CHECKING:
    from pipelines.release.world import World


def versions(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the versions in the registry with RMSE, commit and what became of them."""
    from pipelines.release import world

    config = read()
    known = world.registry(config).versions()
    if as_json:
        print_json([info.as_json() for info in known])
        return
    table = Table("version", "created", "RMSE", "commit", "became")
    for info in known:
        table.add_row(
            str(info.number),
            f"{info.created_at:%Y-%m-%d %H:%M}",
            f"{info.rmse:.4f}",
            info.commit[:10],
            info.note,
        )
    Console().print(table)


def release(
    version: Annotated[
        int | None, typer.Option(min=1, help="Version to release; default: the newest.")
    ] = None,
) -> None:
    """Release a version as Airflow would: preflight, canary, watch, then promote or abort."""
    from pipelines.release import steps
    from pipelines.release.plan import Plan
    from pipelines.release.world import world

    config = read()
    here = world(config)
    opened = steps.open_release(here, version=version, plan=Plan.of(config), requested_by="shell")
    _conclude(config, opened.release_id)


def steer(
    what: Annotated[Literal["approve", "extend", "abort"], typer.Argument(help="What is to become of it.")],
    who: Annotated[str, typer.Option(help="Who wants it; kept in the ledger.")],
    why: Annotated[str, typer.Option(help="Reason; kept in the ledger.")] = "",
    hours: Annotated[float, typer.Option(min=0.0, help="extend: by how much.")] = 1.0,
    release_id: Annotated[
        int | None, typer.Option("--release", help="Number of the release; default: the one under way.")
    ] = None,
) -> None:
    """Approve, extend or abort a release under way, whatever the judge has said so far."""
    from pipelines.release import by_hand
    from pipelines.release.world import world

    config = read()
    here = world(config)
    release = by_hand.intervene(here, release_id, what, who=who, why=why, seconds=hours * 3_600)
    typer.echo(f"release {release.release_id} of version {release.version} is {release.state}")
    if release.run_url:
        typer.echo(f"its run carries it out: {release.run_url}")
    elif what != "extend":
        _finish(here, release.release_id, config.look_every_s)


def rollback(
    version: Annotated[int, typer.Argument(min=1, help="Version to put back.")],
    why: Annotated[str, typer.Option(help="Reason, kept in the ledger.")] = "",
) -> None:
    """Put any registered version back for all viewers, without training or network."""
    from pipelines.release import by_hand
    from pipelines.release.plan import Plan
    from pipelines.release.world import world

    config = read()
    by_hand.rollback(
        world(config), version, plan=Plan.of(config), why=why, requested_by="shell", announce=announce
    )


def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show who serves what, the split, and the latest releases with their verdicts."""
    from pipelines.release.status import as_tables, snapshot
    from pipelines.release.world import world

    state = snapshot(world(read()))
    if as_json:
        print_json(state.as_json())
    else:
        Console().print(*as_tables(state), sep="\n")


def _conclude(config: Settings, release_id: int) -> None:
    """Bring an open release to its end, looking at it from here."""
    from pipelines.release import steps
    from pipelines.release.world import world

    here = world(config)
    try:
        log.info("%s", steps.preflight(here, release_id))
        steps.start_canary(here, release_id)
        _watch(here, release_id, config.look_every_s)
    finally:
        # Whatever happened, the candidate does not stay without a verdict.
        _finish(here, release_id, config.look_every_s)


def _finish(world: "World", release_id: int, look_every_s: float) -> None:
    """Carry out what was decided about a release; a promoted version is guarded from here, too."""
    from pipelines.release import steps

    what = steps.outcome(world, release_id)
    if what == "ask":
        steps.ask(world, release_id, announce=announce)
        raise typer.Exit(Exit.UNDECIDED)
    if what == "abort":
        steps.abort(world, release_id, announce=announce)
        raise typer.Exit(Exit.REFUSED)
    steps.promote(world, release_id, announce=announce)
    _watch(world, release_id, look_every_s)
    if steps.settle(world, release_id, announce=announce) == "reverted":
        raise typer.Exit(Exit.REFUSED)


def _watch(world: "World", release_id: int, look_every_s: float) -> None:
    from pipelines.release import watch

    while not (judgement := watch.look(world, release_id, announce=announce)).final:
        log.info("%s: %s", judgement.verdict, judgement.reason)
        time.sleep(look_every_s)
    log.info("%s: %s", judgement.verdict, judgement.reason)
