"""The three places of receipts: spool, database, archive.

A receipt moves in this order, and shows in the next place before it leaves the last. So the places are asked
in this order, too: one that moves meanwhile is met twice, which its key tells, and never missed. A database
that does not answer is a warning, not an end.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import ColumnElement, Engine, Executable, Select, func, select
from sqlalchemy import Row as Stored
from sqlalchemy.exc import SQLAlchemyError

from pipelines.records import days
from pipelines.records.database import brief
from pipelines.records.days import Row
from pipelines.records.recorder import shipped_bytes
from pipelines.records.tables import reccom
from pipelines.records.unshipped import unshipped

_PORTION = 1_000
"""Request ids in one question to the database."""
_ROWS = 100_000
"""Rows of the database that are made columns at a time."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Span:
    """From ``since`` until before ``until``, both UTC without zone."""

    since: datetime
    until: datetime

    @classmethod
    def of_day(cls, day: date) -> "Span":
        """Return a whole UTC day."""
        start = datetime.combine(day, time.min)
        return cls(start, start + timedelta(days=1))

    def __contains__(self, moment: datetime) -> bool:
        return self.since <= moment < self.until

    @property
    def condition(self) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        """Return what the database asks of a receipt of the span."""
        return reccom.c.served_at >= self.since, reccom.c.served_at < self.until

    @property
    def expression(self) -> pc.Expression:
        """Return what the archive asks of a receipt of the span."""
        at = pc.field("served_at")
        return (at >= self.since.replace(tzinfo=UTC)) & (at < self.until.replace(tzinfo=UTC))


class Places:
    """Reads receipts, as rows of ``reccom``, out of each place."""

    def __init__(self, engine: Engine, archive_dir: Path, spool_dir: Path) -> None:
        self._engine = engine
        self._archive_dir = archive_dir
        self._spool_dir = spool_dir

    def ask(self, query: Executable) -> list[dict[str, Any]]:
        """Return what the database answers; nothing when it is away."""
        try:
            with self._engine.connect() as connection:
                return [row._asdict() for row in connection.execute(query)]
        except SQLAlchemyError as error:
            self._tell(error)
            return []

    def table(self, query: Select[Any], schema: pa.Schema) -> pa.Table:
        """Return what the database answers, maybe millions of rows, as columns; nothing when it is away."""
        try:
            with self._engine.connect() as connection:
                portions = connection.execute(query.execution_options(yield_per=_ROWS)).partitions()
                return pa.Table.from_batches([_columns(rows, schema) for rows in portions], schema)
        except SQLAlchemyError as error:
            self._tell(error)
            return schema.empty_table()

    def spooled(self, wanted: Callable[[Row], bool], *, holding: str = "") -> list[dict[str, Any]]:
        """Return what is wanted of the spool and was not shipped a moment ago.

        ``holding`` is a text that each wanted line holds somewhere; it spares reading the others.
        """
        # While the database is away, its part of the spool is looked through, too.
        rows = unshipped(self._spool_dir, self._shipped() or {}, holding=holding)
        return [row for row in rows if wanted(row)]

    def only_spooled(self, wanted: Callable[[Row], bool]) -> list[dict[str, Any]]:
        """Return what is wanted of the spool and is, a moment later, not in the database either."""
        spooled = self.spooled(wanted)
        if self._shipped() is None:
            return spooled
        in_database: set[Any] = set()
        for start in range(0, len(spooled), _PORTION):
            request_ids = [row["request_id"] for row in spooled[start : start + _PORTION]]
            in_database |= self._keys(reccom.c.request_id.in_(request_ids))
        return [row for row in spooled if days.key(row) not in in_database]

    def only_archived(
        self, on: Iterable[date], columns: list[str], condition: pc.Expression
    ) -> Iterator[tuple[date, pa.Table]]:
        """Yield what the archive holds and the database does not, where a killed archiver leaves it, too."""
        oldest = self.ask(select(func.min(reccom.c.served_at).label("at")))
        for day in on:
            path = days.day_file(self._archive_dir, day)
            receipts = days.scan(path, list(dict.fromkeys([*days.KEY, *columns])), condition)
            if oldest and oldest[0]["at"] and oldest[0]["at"].date() <= day:
                in_database = self._keys(*Span.of_day(day).condition)
                new = [days.key(row) not in in_database for row in days.rows(receipts)]
                receipts = receipts.filter(pa.array(new, pa.bool_()))
            yield day, receipts

    def _tell(self, error: SQLAlchemyError) -> None:
        logger.warning("the records of %r were not looked at: %s", self._engine.url, brief(error))

    def _keys(self, *where: ColumnElement[bool]) -> set[Any]:
        query = select(*(reccom.c[name] for name in days.KEY)).where(*where)
        return {days.key(row) for row in self.ask(query)}

    def _shipped(self) -> dict[str, int] | None:
        """Return the shipped bytes of each file; None: the database is away."""
        try:
            return shipped_bytes(self._engine)
        except SQLAlchemyError:
            return None

    def archived(self, column: str, value: str, on: Iterable[date]) -> list[dict[str, Any]]:
        """Return what the archive holds of these days with this text in ``column``."""
        tables = (days.select(days.day_file(self._archive_dir, day), column, value) for day in on)
        return [row for table in tables for row in days.rows(table)]

    def days(self, span: Span | None = None) -> list[date]:
        """Return the days of the archive that touch ``span``, oldest first; all without one."""
        found = days.days(self._archive_dir)
        return [day for day in found if span is None or span.since.date() <= day <= span.until.date()]


def _columns(rows: Sequence[Stored[Any]], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
