"""What the commands have in common: exit codes, where alerts go without Airflow, what is printed and how."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import rich.progress
import typer
from rich.console import Console

from pipelines.alerts import Alert
from pipelines.progress import Meter, Progress, conclude, logged

log = logging.getLogger("pipelines")
errors = Console(stderr=True)


Heartbeat = Annotated[
    Path | None,
    typer.Option(help="File that is touched while all goes well: its age tells others.", dir_okay=False),
]


class Exit(IntEnum):
    """What the exit codes mean."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOTHING_NEW = 4
    LOCKED = 5
    UNDECIDED = 6


def announce(alert: Alert) -> None:
    """Log an alert: without Airflow there are no connections to send it over."""
    log.warning("%s", alert.text)


@contextmanager
def shown(what: str, unit: str) -> Iterator[Progress]:
    """Show on standard error how the step ``what`` goes on: a bar on a terminal, else lines in the log."""
    if not errors.is_terminal:
        with logged(what, unit) as progress:
            yield progress
        return
    meter = Meter(unit)
    columns = ("{task.description}", rich.progress.BarColumn(), "{task.fields[so_far]}")
    with rich.progress.Progress(*columns, console=errors, transient=True) as drawn:
        bar = drawn.add_task(what, total=None, so_far="")

        def report(done: int, total: int) -> None:
            meter.report(done, total)
            drawn.update(bar, completed=done, total=total, so_far=meter.words())

        yield report
    conclude(what, meter)


def beating(heartbeat: Path | None) -> Callable[[], None]:
    """Return what touches ``heartbeat``, or does nothing."""
    return heartbeat.touch if heartbeat else lambda: None


def moment_of(text: str) -> datetime:
    """Read a time that a person wrote, of the years 1970 to 9998; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no time; write it as 2026-11-22T03:10:00, UTC") from None
    # Days before and after it are times, too.
    if not 1970 <= moment.year < 9999:
        raise typer.BadParameter(f"{text!r} is too far away; wanted is a time from 1970 to 9998")
    return moment


def text_of(typed: str | None) -> str | None:
    """Return what a person typed; bytes that are not UTF-8 are wrong usage."""
    try:
        (typed or "").encode()
    except UnicodeEncodeError:
        raise typer.BadParameter(f"{typed!a} is not UTF-8, and all that is kept is") from None
    return typed


def print_json(value: Any) -> None:
    """Print ``value`` as JSON: one line for programs, indented for people."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False, default=str))
