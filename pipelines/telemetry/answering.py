"""Telemetry: what was watched, rated, asked for and rejected, answered by DuckDB over the batches.

The batches are the log; nothing is kept beside them. Each kind of row is a row group of its own, so a
question reads the columns that it needs of its kind, and only from batches of the wanted time. Figures are
exact for the rows of the batches; ``Question.note`` says what was folded into a row. Everything that arrived
counts, also what is in quarantine.
"""

import glob
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import duckdb

from pipelines.data.batches import Batch, BatchInfo, list_batches
from pipelines.errors import DataError, SettingsError
from pipelines.telemetry.questions import QUESTIONS, Asked, By

MEMORY_LIMIT: Final = "1GB"
"""Of DuckDB; what does not fit goes to files in the system's temporary folder until the answer is there."""

_RESOLUTION: Final = timedelta(microseconds=1)
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)

Row = dict[str, Any]
_Execute = Callable[[str, Mapping[str, Any]], list[Row]]


@dataclass(frozen=True, slots=True)
class Answer:
    """Groups with their figures, and what they rest on."""

    asked: Asked
    by: By
    since: datetime
    until: datetime
    """Not included."""
    newest: datetime
    """Newest event of all batches."""
    batches: int
    """Batches with events of that time."""
    lines: int
    """Lines that these batches were made of, duplicates included."""
    groups: int
    """All there are, also those behind the first ``top``."""
    rows: list[Row]
    """The key, named like the grouping, and the figures; the largest first, hours in order of time."""
    total: Row
    """The figures over all groups."""
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the fields for JSON: times as ISO text."""
        return {
            "question": self.asked,
            "by": self.by,
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "newest_event": self.newest.isoformat(),
            "batches": self.batches,
            "lines": self.lines,
            "groups": self.groups,
            "rows": [
                {
                    name: value.isoformat() if isinstance(value, datetime) else value
                    for name, value in row.items()
                }
                for row in self.rows
            ],
            "total": self.total,
            "note": QUESTIONS[self.asked].note,
            "seconds": round(self.seconds, 3),
        }


def ask(
    folder: Path,
    asked: Asked,
    by: By,
    *,
    since: datetime | timedelta | None = None,
    until: datetime | timedelta | None = None,
    top: int | None = None,
) -> Answer:
    """Answer a question over the batches of ``folder``.

    Args:
        folder: the batches.
        asked: the question.
        by: one of the keys of the question.
        since: first moment that counts, or how long before the newest event; None: the oldest event.
        until: first moment that does not count, or how long before the newest event; None: behind all.
        top: most groups, the largest ones; None: all.

    Raises:
        DataError: there are no batches, one is damaged, or memory and disk do not suffice.
        SettingsError: ``since`` is not before ``until``.
    """
    started = time.perf_counter()
    known = [_Dated(batch, batch.info()) for batch in list_batches(folder)]
    if not known:
        raise DataError(
            f"there is no batch in {folder}; `python -m pipelines collect` writes them, "
            "and --batches names another folder"
        )
    last = max(each.end for each in known)
    newest = max((each.info.last_time for each in known if each.info.last_time), default=last)
    begin = _moment(since, newest) or min(each.start for each in known)
    # A clock that was never set says 0001 or 9999: beyond them there is no time to reckon with.
    end = _moment(until, newest) or min(last, _LATEST - _RESOLUTION) + _RESOLUTION
    if begin >= end:
        raise SettingsError(
            f"--since {begin.isoformat()} is not before --until {end.isoformat()}; "
            f"durations count back from the newest event, {newest.isoformat()}"
        )
    wanted = [each for each in known if each.start < end and each.end >= begin]
    # Where no batch is of that time, any one tells DuckDB the columns; it has no row of it.
    with _database(wanted or known[:1]) as execute:
        rows = execute(QUESTIONS[asked].groups(by), {"since": begin, "until": end, "top": top})
        (total,) = execute(QUESTIONS[asked].total(by), {"since": begin, "until": end})
    if by is By.HOUR:
        rows.sort(key=itemgetter("hour"))
    # Every row says how many groups there are in all.
    groups = [row.pop("groups") for row in rows]
    return Answer(
        asked=asked,
        by=by,
        since=begin,
        until=end,
        newest=newest,
        batches=len(wanted),
        lines=sum(each.info.lines for each in wanted),
        groups=max(groups, default=0),
        rows=rows,
        total=total,
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True, slots=True)
class _Dated:
    """A batch and the time of its events; of a batch of rejects alone, when it was collected."""

    batch: Batch
    info: BatchInfo

    @property
    def start(self) -> datetime:
        return self.info.first_time or self.info.collected_at

    @property
    def end(self) -> datetime:
        return self.info.last_time or self.info.collected_at


def _moment(wanted: datetime | timedelta | None, newest: datetime) -> datetime | None:
    return newest - min(wanted, newest - _EARLIEST) if isinstance(wanted, timedelta) else wanted


@contextmanager
def _database(dated: Sequence[_Dated]) -> Iterator[_Execute]:
    """Yield a function that runs the SQL of questions over these batches."""
    files = [glob.escape(str(each.batch.path.absolute())) for each in dated]

    def execute(sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        cursor = connection.execute(sql, {"files": files, **parameters})
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, map(_in_utc, values), strict=True)) for values in cursor.fetchall()]

    with (
        TemporaryDirectory(prefix="marquee-telemetry-") as spill,
        _translated(dated[0].batch.folder, spill),
        duckdb.connect(
            config={
                "memory_limit": MEMORY_LIMIT,
                "temp_directory": spill,
                "preserve_insertion_order": False,
                "autoinstall_known_extensions": False,
            }
        ) as connection,
    ):
        connection.execute(
            'CREATE TABLE starts AS SELECT unnest($1) AS batch, unnest($2) AS "offset", unnest($3) AS time',
            [
                [each.batch.name for each in dated],
                [each.batch.first - 1 for each in dated],
                [each.start for each in dated],
            ],
        )
        yield execute


@contextmanager
def _translated(folder: Path, spill: str) -> Iterator[None]:
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise DataError(
            f"the answer fits neither into {MEMORY_LIMIT} of memory nor into {spill} ({_first_line(error)}); "
            "ask for less time with --since and --until, or name a folder with more room in TMPDIR"
        ) from error
    except duckdb.Error as error:
        raise DataError(
            f"the batches in {folder} could not be read ({_first_line(error)}); restore what is damaged from "
            "the registry"
        ) from error


def _first_line(error: duckdb.Error) -> str:
    # What follows is advice on settings that are not the reader's.
    return str(error).partition("\n")[0]


def _in_utc(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value
