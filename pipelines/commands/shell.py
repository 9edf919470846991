"""What the commands have in common: exit codes, where alerts go without Airflow, what is printed and how."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pipelines.alerts import Alert

log = logging.getLogger("pipelines")
errors = Console(stderr=True)


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
def bar(what: str, total: int | None = 0) -> Iterator[Any]:
    """Draw a progress bar on standard error; yields ``progress(done, total)``."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as drawn:
        task = drawn.add_task(what, total=total)
        yield lambda done, of: drawn.update(task, completed=done, total=of)


def print_json(value: Any) -> None:
    """Print ``value`` as JSON: one line for programs, indented for people."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False, default=str))
