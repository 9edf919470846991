"""The archive's files: the receipts of one UTC day each, ``2026-03-02.parquet``.

Rows are the rows of ``reccom``, sorted by request id and in small row groups, so that a look-up by id reads
one group of a file: the statistics of the others say that it cannot be there.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.durable import sync
from pipelines.errors import DataError

Row = Mapping[str, Any]

SCHEMA: Final = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("served_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("replica", pa.string(), nullable=False),
        pa.field("version_number", pa.int32(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("movie_ids", pa.string(), nullable=False),
        pa.field("watched", pa.string(), nullable=False),
        pa.field("latency_ms", pa.float64(), nullable=False),
        pa.field("status", pa.int16(), nullable=False),
        pa.field("canary_percent", pa.int16()),
    ]
)
"""The columns of ``reccom``; times are UTC, and say so."""

KEY: Final = ("request_id", "served_at", "replica")
"""What tells one receipt from another, and the order of a file."""

GROUP_ROWS: Final = 10_000

_NAME: Final = re.compile(r"(\d{4}-\d{2}-\d{2})\.parquet")
_UNIQUE: Final = ("request_id", "served_at", "latency_ms")
_DICTIONARIES: Final = [name for name in SCHEMA.names if name not in _UNIQUE]


def key(row: Row) -> tuple[str, datetime, str]:
    """Return what tells ``row`` from all others."""
    return row["request_id"], row["served_at"], row["replica"]


def day_file(folder: Path, day: date) -> Path:
    """Return where the receipts of ``day`` are or would be."""
    return folder / f"{day}.parquet"


def days(folder: Path) -> list[date]:
    """Return the days that are in the archive, oldest first; no folder has none."""
    matches = (_NAME.fullmatch(path.name) for path in folder.glob("*.parquet"))
    return sorted(date.fromisoformat(match[1]) for match in matches if match)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file in their order, a group at a time in memory.

    Raises:
        DataError: the file is damaged.
    """
    with _readable(path), pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield from rows(file.read_row_group(number))


def select(path: Path, column: str, value: str) -> pa.Table:
    """Return the rows in which the text of ``column`` is ``value``; only groups that hold it are read whole.

    Raises:
        DataError: the file is damaged.
    """
    found = [SCHEMA.empty_table()]
    with _readable(path), pq.ParquetFile(path) as file:
        place = SCHEMA.get_field_index(column)
        for number in range(file.num_row_groups):
            statistics = file.metadata.row_group(number).column(place).statistics
            if statistics is None or statistics.min <= value <= statistics.max:
                hits = pc.equal(file.read_row_group(number, [column])[column], value)
                if pc.any(hits).as_py():
                    found.append(file.read_row_group(number).filter(hits).cast(SCHEMA))
    return pa.concat_tables(found)


def scan(path: Path, columns: list[str], condition: pc.Expression) -> pa.Table:
    """Return ``columns`` of the rows that meet ``condition``.

    Raises:
        DataError: the file is damaged.
    """
    with _readable(path):
        return pq.read_table(path, columns=columns, filters=condition)


def rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of ``table`` as the database would: times in UTC without zone."""
    naive = [
        field.with_type(pa.timestamp("us")) if pa.types.is_timestamp(field.type) else field
        for field in table.schema
    ]
    found: list[dict[str, Any]] = table.cast(pa.schema(naive)).to_pylist()
    return found


def write(path: Path, sorted_rows: Iterable[Row]) -> None:
    """Write a file so that it is there completely or not at all, whatever dies when.

    Raises:
        DataError: the disk does not take it.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(temporary, SCHEMA, compression="zstd", use_dictionary=_DICTIONARIES) as writer:
            for group in _portions(sorted_rows):
                writer.write_table(group, row_group_size=GROUP_ROWS)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise DataError(
            f"could not write {path}: {error}; the receipts stay in the database; make room or mend the "
            "permissions, then archive again"
        ) from error


def _portions(sorted_rows: Iterable[Row]) -> Iterator[pa.Table]:
    remaining = iter(sorted_rows)
    while portion := list(islice(remaining, GROUP_ROWS)):
        columns = {name: [row[name] for row in portion] for name in SCHEMA.names}
        yield pa.table(columns, schema=SCHEMA)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} is not a readable archive of receipts: {error}; put it back from a backup, or move it "
            "away: then its receipts are missing from all look-ups"
        ) from error
