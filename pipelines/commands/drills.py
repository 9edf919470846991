"""Fire drills on the shell."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipelines.commands.shell import Exit, announce, print_json
from pipelines.fault import Fault
from pipelines.settings import read


def drill(
    faults: Annotated[list[Fault] | None, typer.Argument(help="What to try; default: all.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, help="How long the watch may look for each; default: MARQUEE_DRILL_S."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show what earlier drills caught.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try preflight and watch on replicas with a known fault, which no viewer ever meets."""
    from pipelines.release import drills
    from pipelines.release.plan import Plan
    from pipelines.release.world import world

    config = read()
    here = world(config)
    if listed:
        trials = drills.history(here.records)
    else:
        trials = drills.drill(
            here,
            faults or list(Fault),
            run=f"shell {datetime.now(UTC):%Y-%m-%dT%H:%M:%S}",
            plan=Plan.of(config),
            most_s=minutes * 60 if minutes else config.drill_s,
            announce=announce,
        )
    rates = drills.rates(trials)
    if as_json:
        print_json([rate.as_json() for rate in rates])
    else:
        table = Table("fault", "instrument", "caught", "of", "median s")
        for rate in rates:
            seconds = "" if rate.median_s is None else f"{rate.median_s:.1f}"
            table.add_row(rate.fault, rate.instrument, str(rate.caught), str(rate.trials), seconds)
        Console().print(table)
    _, missed, false_alarms = drills.summary(trials)
    if not listed and (missed or false_alarms):
        raise typer.Exit(Exit.FAILED)
