"""Receipts counted: each place counts its own by group, and a `Tally` adds the counts up.

A counted group is a mapping: the columns it was grouped by, then ``answers``, ``first`` and ``last``
(times in UTC without zone).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import pyarrow as pa
from sqlalchemy import ColumnElement, Select, func, select

from pipelines.records import days
from pipelines.records.tables import reccom

Group = Mapping[str, Any]


@dataclass(slots=True)
class Tally:
    """Counts of several places, added up."""

    answers: int = 0
    users: set[str] = field(default_factory=set)
    first: datetime | None = None
    last: datetime | None = None
    by_day: Counter[date] = field(default_factory=Counter)
    by_source: Counter[str] = field(default_factory=Counter)

    def add(self, group: Group) -> None:
        """Add a group; its ``user_id``, ``day`` and ``source`` count where it has them."""
        self.answers += group["answers"]
        self.first = min(filter(None, [self.first, group["first"]]))
        self.last = max(filter(None, [self.last, group["last"]]))
        if "user_id" in group:
            self.users.add(group["user_id"])
        if "day" in group:
            # SQLite has no dates, it returns their text.
            self.by_day[date.fromisoformat(str(group["day"]))] += group["answers"]
        if "source" in group:
            self.by_source[group["source"]] += group["answers"]


def counting(by: Sequence[ColumnElement[Any]], *where: ColumnElement[bool]) -> Select[Any]:
    """Return the query by which the database counts its receipts."""
    at = reccom.c.served_at
    counts = func.count().label("answers"), func.min(at).label("first"), func.max(at).label("last")
    return select(*by, *counts).where(*where).group_by(*by)


def counted(receipts: pa.Table, by: Sequence[str]) -> list[dict[str, Any]]:
    """Count the ``receipts`` of a file."""
    wanted = [("served_at", "count"), ("served_at", "min"), ("served_at", "max")]
    grouped = receipts.group_by(list(by)).aggregate(wanted).select([*by, *map("_".join, wanted)])
    return days.rows(grouped.rename_columns([*by, "answers", "first", "last"]))


def single(row: Mapping[str, Any]) -> dict[str, Any]:
    """Count one receipt."""
    at = row["served_at"]
    return {**row, "day": at.date(), "answers": 1, "first": at, "last": at}


def tallied(groups: Iterable[Group], by: Sequence[str]) -> dict[tuple[Any, ...], Tally]:
    """Add the groups up, a tally for each combination of the columns ``by``."""
    tallies: dict[tuple[Any, ...], Tally] = {}
    for group in groups:
        tallies.setdefault(tuple(group[name] for name in by), Tally()).add(group)
    return tallies
