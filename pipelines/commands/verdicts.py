"""Verdicts of the past, on the shell."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipelines.commands.shell import print_json, shown
from pipelines.settings import read

if TYPE_CHECKING:
    from pipelines.release.rejudge import Rejudged


def rejudge(
    release_id: Annotated[
        int | None, typer.Argument(metavar="RELEASE", help="Number of the release; default: all.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Limit of the plan to change; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Judge past releases again by the looks that were kept, under other limits, and say which flip."""
    from pipelines.errors import ReleaseError
    from pipelines.release import world
    from pipelines.release.rejudge import Rejudged, Unreadable, changes, rejudge

    changed = changes(assignments or [])
    ledger = world.ledger(read())
    releases = ledger.latest(limit=None)[::-1] if release_id is None else [ledger.get(release_id)]
    found = []
    with shown("rejudge", "releases") as progress:
        for done, release in enumerate(releases):
            progress(done, len(releases))
            looks = ledger.looks(release.release_id)[::-1]
            found.append(rejudge(release, looks, ledger.interventions(release.release_id), changed))
        progress(len(releases), len(releases))
    if release_id is not None and found == [None]:
        raise ReleaseError(f"nobody looked at release {release_id}: there is nothing to judge again")
    judged = [each for each in found if isinstance(each, Rejudged)]
    unreadable = [each for each in found if isinstance(each, Unreadable)]
    if as_json:
        print_json(
            {
                "releases": [each.as_json() for each in judged],
                "unreadable": [asdict(each) for each in unreadable],
            }
        )
        return
    Console().print(_table(judged))
    for part in filter(lambda each: each.thinned, judged):
        typer.echo(
            f"release {part.release_id} of version {part.version}: {part.thinned} of its {part.looks} looks "
            "were thinned (MARQUEE_LOOKS_KEEP_DAYS); a verdict that only they would give now is missed"
        )
    for each in unreadable:
        typer.echo(f"release {each.release_id} of version {each.version} is not judged: {each.why}")
    typer.echo(f"{sum(each.flipped for each in judged)} of {len(judged)} releases flipped")


def _table(judged: list["Rejudged"]) -> Table:
    table = Table("release", "version", "then", "now", "", "rule", "reason now")
    for each in judged:
        table.add_row(
            str(each.release_id),
            f"v{each.version}",
            each.then.in_words(),
            each.now.in_words(),
            "[bold]flipped[/bold]" if each.flipped else "the same",
            each.now.rule,
            each.now.reason,
        )
    return table
