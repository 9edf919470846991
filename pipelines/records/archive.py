"""Retention: receipts of whole days leave the database for one Parquet file a day.

A day's file is on disk under its name before rows are deleted, and only rows that stand in it are.
Killed anywhere and run again, nothing is lost and nothing is there twice. Receipts that come late, after
their day has been archived, are merged into its file by the next run.
"""

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, delete, func, select

from pipelines.errors import Locked
from pipelines.records.database import naive_utc
from pipelines.records.days import GROUP_ROWS, KEY, Row, day_file, key, read, write
from pipelines.records.tables import reccom

DELETE_ROWS = 5_000
"""About as many rows as one transaction deletes: the recorder waits no longer than that."""


@dataclass(frozen=True, slots=True)
class Archived:
    """What left the database for one file."""

    day: date
    receipts: int
    """Rows that left the database in this run."""
    path: Path


def archive(engine: Engine, folder: Path, *, before: datetime) -> list[Archived]:
    """Move the receipts of the UTC days that were over at ``before`` into ``folder``, oldest day first.

    Memory holds the rows of a row group and the times of a day; to sort the day is the database's work.

    Raises:
        Locked: somebody else is archiving there.
        DataError: the disk does not take a file, or a file is damaged; its day stays in the database.
        SQLAlchemyError: the database is away; the next run goes on.
    """
    limit = datetime.combine(naive_utc(before), time.min)
    with _alone(folder):
        return [_archive_day(engine, folder, day) for day in _days_in_database(engine, limit)]


def _days_in_database(engine: Engine, limit: datetime) -> Iterator[date]:
    since = datetime.min
    while True:
        query = select(func.min(reccom.c.served_at)).where(
            reccom.c.served_at >= since, reccom.c.served_at < limit
        )
        with engine.connect() as connection:
            oldest: datetime | None = connection.scalar(query)
        if oldest is None:
            return
        yield oldest.date()
        since = datetime.combine(oldest, time.min) + timedelta(days=1)


def _archive_day(engine: Engine, folder: Path, day: date) -> Archived:
    path = day_file(folder, day)
    kept = read(path) if path.exists() else iter(())
    times: list[datetime] = []
    with engine.connect() as connection:
        write(path, _merged(kept, _noting(times, _of_day(connection, day))))
    return Archived(day, sum(_delete(engine, *portion) for portion in _portions(sorted(times))), path)


def _of_day(connection: Connection, day: date) -> Iterator[Row]:
    start = datetime.combine(day, time.min)
    query = (
        select(reccom)
        .where(reccom.c.served_at >= start, reccom.c.served_at < start + timedelta(days=1))
        .order_by(*(reccom.c[name] for name in KEY))
    )
    # Without `yield_per` the driver would hold the whole day.
    for row in connection.execute(query.execution_options(yield_per=GROUP_ROWS)):
        yield row._asdict()


def _noting(times: list[datetime], rows: Iterable[Row]) -> Iterator[Row]:
    for row in rows:
        times.append(row["served_at"])
        yield row


def _merged(kept: Iterable[Row], new: Iterable[Row]) -> Iterator[Row]:
    """Merge two sorted streams; a row that is in both comes once."""
    last = None
    for row in heapq.merge(kept, new, key=key):
        if key(row) != last:
            last = key(row)
            yield row


def _portions(times: Sequence[datetime]) -> Iterator[tuple[datetime, datetime, int]]:
    """Cut sorted ``times`` into (first, last, how many), of which no two share a moment."""
    start = 0
    while start < len(times):
        end = bisect_right(times, times[min(start + DELETE_ROWS, len(times)) - 1])
        yield times[start], times[end - 1], end - start
        start = end


def _delete(engine: Engine, first: datetime, last: datetime, count: int) -> int:
    """Delete the ``count`` rows of a portion and return how many left.

    When a receipt came late, into the portion and not into the file, all of it stays for the next run: its
    rows are then in both places, which look-ups know, and merged.
    """
    statement = delete(reccom).where(reccom.c.served_at >= first, reccom.c.served_at <= last)
    with engine.connect() as connection:
        deleted = connection.execute(statement).rowcount
        if deleted != count:
            connection.rollback()
            return 0
        connection.commit()
    return deleted


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        with lock:
            yield
    except Timeout as error:
        raise Locked(f"somebody else is archiving into {folder}; wait for them to end") from error
