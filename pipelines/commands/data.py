"""What was collected, on the shell: what it tells, what is left out of training, and why."""

import getpass
import os
import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.commands.shell import moment_of, print_json
from pipelines.settings import Settings, read
from pipelines.telemetry.questions import QUESTIONS, Asked, By

if TYPE_CHECKING:
    from pipelines.data.leftout import LeftOut
    from pipelines.data.quarantine import Quarantined, Span

_OFFSETS = re.compile(r"(\d{1,4}):(\d{1,18})-(\d{1,18})")
_PLURALS = {"watch": "viewings", "rating": "ratings", "request": "requests", "reject": "rejects"}
_DURATION = re.compile(r"(\d{1,5}(?:\.\d+)?)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_TOP = {By.MOVIE: 20, By.USER: 20}

_Offsets = Annotated[str, typer.Option(help="PARTITION:FROM-TO, both ends included.")]
_Topic = Annotated[str | None, typer.Option(help="Name of the stream; default: that of the settings.")]
_Generation = Annotated[int | None, typer.Option(min=1, help="Default: the newest that was collected.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def quarantine(
    offsets: _Offsets = "",
    why: Annotated[str, typer.Option(help="Reason; kept with the range.")] = "",
    topic: _Topic = None,
    generation: _Generation = None,
    who: Annotated[str, typer.Option(help="Who decides; default: your login.")] = "",
    lift: Annotated[bool, typer.Option("--lift", help="Take the range back in.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show what is out, and what was.")] = False,
    as_json: _Json = False,
) -> None:
    """Leave a range of offsets out of all trainings to come, or take it back in; or list what is out.

    Ratings and requests are left out line by line. A viewing with a line in the range is left out whole
    within its batch: its lines cannot be told apart any more.
    """
    from pipelines.data import quarantine as room
    from pipelines.data.batches import list_batches
    from pipelines.data.leftout import require_collected

    config = read()
    if listed:
        _list(room.history(config.batches_dir), as_json=as_json)
        return
    if not offsets or not why.strip():
        raise typer.BadParameter("give --offsets and --why, or --list")
    span = _span(config, offsets, topic, generation)
    decision = room.Quarantined(**asdict(span), why=why, who=who or _login(), at=datetime.now(UTC))
    if lift:
        changed = bool(room.lift(config.batches_dir, decision))
    else:
        require_collected(list_batches(config.batches_dir), span)
        changed = room.add(config.batches_dir, decision)
    _report(config, decision, lift=lift, changed=changed, as_json=as_json)


def blast_radius(
    offsets: _Offsets,
    topic: _Topic = None,
    generation: _Generation = None,
    as_json: _Json = False,
) -> None:
    """Say what rests on a range of offsets: batches, versions, releases, and their answers to how many."""
    from pipelines.audit import show
    from pipelines.audit.books import open_books
    from pipelines.audit.radius import blast_radius as measure

    config = read()
    found = measure(open_books(config), config.batches_dir, _span(config, offsets, topic, generation))
    if as_json:
        print_json(found.as_json())
    else:
        Console().print(show.radius(found))


def telemetry(
    asked: Annotated[Asked, typer.Argument(metavar="|".join(Asked), help="What you want to know.")],
    by: Annotated[By | None, typer.Option(help="Default: hour; of rejects: reason.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Time, ISO 8601, UTC; or how long before the newest event, as 6h or 2d. Default: all."
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(help="The same; this moment itself does not count.")] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Most groups, the largest; default: 20 movies or users, else all."),
    ] = None,
    batches: Annotated[Path | None, typer.Option(help="Folder of the batches; default: the setting.")] = None,
    as_json: _Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the groups as CSV.")] = False,
) -> None:
    """Tell what was watched, rated, asked for or rejected, from the batches as they arrived.

    What is in quarantine counts, too. Hours are UTC.
    """
    from pipelines.telemetry import show
    from pipelines.telemetry.answering import ask

    if as_json and as_csv:
        raise typer.BadParameter("give either --json or --csv, not both")
    keys = QUESTIONS[asked].keys
    key = by or next(iter(keys))
    if key not in keys:
        raise typer.BadParameter(f"{asked} have no {key} to be told by; ask --by {' or --by '.join(keys)}")
    told = ask(
        batches or read().batches_dir,
        asked,
        key,
        since=_time(since),
        until=_time(until),
        top=top or _TOP.get(key),
    )
    if as_json:
        print_json(told.as_json())
    elif as_csv:
        print(show.as_csv(told), end="")
    else:
        Console().print(show.answer(told))


def _time(text: str | None) -> datetime | timedelta | None:
    if text is None:
        return None
    duration = _DURATION.fullmatch(text)
    if duration:
        return timedelta(**{_UNITS[duration[2]]: float(duration[1])})
    try:
        return moment_of(text)
    except typer.BadParameter as error:
        raise typer.BadParameter(f"{error}, or as 6h or 2d before the newest event") from None


def _span(config: Settings, offsets: str, topic: str | None, generation: int | None) -> "Span":
    from pipelines.data.batches import list_batches
    from pipelines.data.leftout import newest_generation
    from pipelines.data.quarantine import Span
    from pipelines.retrain import source_of

    match = _OFFSETS.fullmatch(offsets)
    if match is None:
        raise typer.BadParameter(f"{offsets!r} is no range; write PARTITION:FROM-TO, for example 0:500-999")
    partition, first, last = map(int, match.groups())
    if first > last:
        raise typer.BadParameter(f"{offsets!r} is no range: it ends before it begins")
    name = topic or source_of(config).name
    newest = newest_generation(list_batches(config.batches_dir), name)
    return Span(name, generation or newest, partition, first, last)


def _report(config: Settings, decision: "Quarantined", *, lift: bool, changed: bool, as_json: bool) -> None:
    from pipelines.data.leftout import left_out
    from pipelines.data.quarantine import in_words

    found = left_out(config.batches_dir, decision)
    if as_json:
        print_json(decision.as_json() | asdict(found) | {"out": not lift, "changed": changed})
        return
    state = "back in" if lift else "out" if changed else "out already"
    out = Console(soft_wrap=True, highlight=False)
    out.print(f"[bold]{state}:[/bold] {in_words(decision)}")
    out.print(f"  {_counted(found)}")
    if found.rows["watch"] and not lift:
        out.print("  A viewing with a line in the range is out with all its lines of that batch.")
    out.print("The next training makes a version by it: `python -m pipelines retrain`, or the DAG retrain.")
    if not lift:
        where = f"--offsets {decision.partition}:{decision.first}-{decision.last} --topic {decision.topic}"
        out.print(f"What rests on it already: `python -m pipelines blast-radius {where}`.")


def _counted(found: "LeftOut") -> str:
    rows = ", ".join(f"{found.rows[kind]:,} {plural}" for kind, plural in _PLURALS.items())
    return f"{found.lines:,} lines in {found.batches:,} batch(es): {rows}"


def _list(history: "list[tuple[Quarantined, Quarantined | None]]", *, as_json: bool) -> None:
    if as_json:
        print_json([entry.as_json() | {"lifted": lifted and lifted.as_json()} for entry, lifted in history])
        return
    if not history:
        Console().print("Nothing is in quarantine, and nothing ever was.")
        return
    table = Table("topic", "partition", "offsets", "state", "at (UTC)", "who", "why", box=SIMPLE)
    for entry, lifted in history:
        where = entry.topic if entry.generation == 1 else f"{entry.topic} (generation {entry.generation})"
        offsets = f"{entry.first:,} to {entry.last:,}"
        table.add_row(where, str(entry.partition), offsets, "was out" if lifted else "out", *_by(entry))
        if lifted:
            table.add_row("", "", "", "back in", *_by(lifted))
    Console().print(table)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container runs under a number that has no name there.
        return f"user {os.getuid()}"


def _by(decision: "Quarantined") -> tuple[str, str, Text]:
    # What a person wrote is no markup.
    return f"{decision.at:%Y-%m-%d %H:%M}", decision.who, Text(decision.why)
