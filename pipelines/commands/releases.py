"""Versions and what becomes of them, on the shell."""

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipelines.commands.shell import Exit, announce, log, print_json
from pipelines.settings import Settings, read


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


def decide(
    release_id: Annotated[int, typer.Argument(help="Number of the release; `status` lists them.")],
    promote: Annotated[bool, typer.Option("--promote/--abort", help="What is to become of it.")],
    who: Annotated[str, typer.Option(help="Who decides; kept in the ledger.")],
) -> None:
    """Decide a release that could not be measured."""
    from pipelines.release import steps
    from pipelines.release.world import world

    step = steps.promote if promote else steps.abort
    step(world(read()), release_id, announce=announce, decided_by=who)


def rollback(
    version: Annotated[int, typer.Argument(min=1, help="Version to put back.")],
    why: Annotated[str, typer.Option(help="Reason, kept in the ledger.")] = "",
) -> None:
    """Put any registered version back for all viewers, without training or network."""
    from pipelines.release import steps
    from pipelines.release.plan import Plan
    from pipelines.release.world import world

    config = read()
    steps.rollback(
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
        while not (judgement := steps.look(here, release_id)).final:
            log.info("%s: %s", judgement.verdict, judgement.reason)
            time.sleep(config.look_every_s)
        log.info("%s: %s", judgement.verdict, judgement.reason)
    finally:
        # Whatever happened, the candidate does not stay without a verdict.
        what = steps.outcome(here, release_id)
        if what == "abort":
            steps.abort(here, release_id, announce=announce)
    if what == "ask":
        steps.ask(here, release_id, announce=announce)
        raise typer.Exit(Exit.UNDECIDED)
    if what == "abort":
        raise typer.Exit(Exit.REFUSED)
    steps.promote(here, release_id, announce=announce)
