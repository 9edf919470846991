"""The answers of telemetry on a terminal, and as CSV."""

import csv
import json
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.telemetry.answering import Answer
from pipelines.telemetry.questions import QUESTIONS, By

_SECOND = "%Y-%m-%d %H:%M:%S"


def answer(told: Answer) -> RenderableType:
    """Lay an answer out: what was asked and of which time, the groups with their total, what it rests on."""
    question = QUESTIONS[told.asked]
    # The end is not included: what is named is the last second that is, if only in part.
    until = told.until - timedelta(microseconds=1)
    return Group(
        Text(f"{question.title}, by {told.by}", style="bold"),
        Text(f"{told.since:{_SECOND}} to {until:{_SECOND}} UTC"),
        _table(told) if told.rows else Text("\nThere was nothing of it in that time.\n"),
        Text(
            f"From {told.batches:,} batch(es) of {told.lines:,} lines, in {told.seconds:.2f} s.\n"
            f"Durations count back from the newest event, {told.newest:{_SECOND}}."
        ),
        Text(question.note, style="dim"),
    )


def as_csv(told: Answer) -> str:
    """Return a header and a line for each group: times as ISO text, reasons as JSON."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([told.by.value, *told.total])
    for row in told.rows:
        writer.writerow(_raw(value) for value in row.values())
    return text.getvalue()


def _raw(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return json.dumps(value) if isinstance(value, dict) else value


def _table(told: Answer) -> Table:
    table = Table(box=SIMPLE_HEAD, show_footer=True, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(told.by.value, footer=f"all {told.groups:,} {told.by}s", overflow="fold")
    for name, value in told.total.items():
        heading = name.removesuffix("_share").replace("_", "\n")
        if isinstance(value, dict):
            table.add_column(heading)
        else:
            table.add_column(heading, footer=_written(name, value), justify="right", no_wrap=True)
    for row in told.rows:
        table.add_row(*(Text(_written(name, value)) for name, value in row.items()))
    return table


def _written(name: str, value: Any) -> str:
    """Write a key or a figure for people."""
    match value:
        case None:
            return "-"
        case datetime():
            return f"{value:%Y-%m-%d %H}h"
        case dict():
            by_count = sorted(value.items(), key=lambda item: (-item[1], item[0]))
            return ", ".join(f"{reason} {count:,}" for reason, count in by_count)
        case float():
            return f"{value:.1%}" if name.endswith("share") else f"{value:,.2f}"
        case int() if name != By.USER:
            return f"{value:,}"
    return str(value)
