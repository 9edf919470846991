"""Batches: one Parquet file for each collected range of offsets, complete from the moment it shows.

    movielog4~1-0-000000500000-000000999999.parquet
    topic ~ generation - partition - first offset - last offset (inclusive)

One row is one folded event: a viewing (all minutes of a movie that a user watched within the batch), a
rating, a recommendation request, or a reject. The ranges of a generation and partition follow each other
without a hole, also where the offsets themselves have gaps; a hole is what retention took before it was read.
Whatever reads rows leaves out what is quarantined.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipelines.data import quarantine, viewings
from pipelines.durable import sync
from pipelines.errors import DataError

_TEXT: Final = pa.dictionary(pa.int32(), pa.string())
_TIME: Final = pa.timestamp("us", tz="UTC")

SCHEMA: Final = pa.schema(
    [
        pa.field("kind", _TEXT, nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("last_offset", pa.int64()),
        pa.field("time", _TIME),
        pa.field("last_time", _TIME),
        pa.field("user_id", pa.int32()),
        pa.field("movie_id", _TEXT),
        pa.field("minutes", pa.int16()),
        pa.field("first_minute", pa.int16()),
        pa.field("seen", pa.binary()),
        pa.field("rating", pa.int8()),
        pa.field("status", pa.int16()),
        pa.field("response_ms", pa.int32()),
        pa.field("movie_ids", pa.string()),
        pa.field("error", pa.string()),
        pa.field("host", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("line", pa.binary()),
    ]
)
"""``offset``, ``last_offset``: first and last line of the row. ``time``, ``last_time``: oldest and newest.
``minutes``: how many distinct ones. ``seen``: which ones; bit i, the lowest of the first byte being 0, is
minute ``first_minute`` + i. ``movie_ids``: best first, comma-separated. ``line``: a reject, as it came."""

COLUMNS: Final[dict[str, list[str]]] = {
    "watch": [
        *("kind", "offset", "last_offset", "time", "last_time"),
        *("user_id", "movie_id", "minutes", "first_minute", "seen"),
    ],
    "rating": ["kind", "offset", "time", "last_time", "user_id", "movie_id", "rating"],
    "request": [
        *("kind", "offset", "time", "last_time", "user_id"),
        *("status", "response_ms", "movie_ids", "error", "host"),
    ],
    "reject": ["kind", "offset", "reason", "line"],
}
"""The kinds of rows, in the order of the file, and the columns that each of them fills."""

# Rows lie in the order of the stream, where offsets and times climb in small steps: so written, a batch takes
# a sixtieth of its lines' size. Parquet refuses to combine these encodings with a dictionary.
_ENCODINGS: Final = {"offset": "DELTA_BINARY_PACKED", "time": "DELTA_BINARY_PACKED"}
_DICTIONARIES: Final = ["kind", "movie_id", "seen", "host", "error", "reason"]

LATE_S: Final = 60
"""The stream is in order to the second; brokers and writers of archives may shuffle a little more."""

_METADATA_KEY: Final = b"marquee"
_NAME: Final = re.compile(r"([a-zA-Z0-9._-]+)~(\d+)-(\d+)-(\d{12,})-(\d{12,})\.parquet")


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """What a batch says about the lines it was made of."""

    lines: int
    counts: dict[str, int]
    """Lines of each kind, duplicates included; they add up to ``lines``."""
    rejects: dict[str, int]
    """Rejected lines of each reason, duplicates included."""
    duplicates: int
    """Lines that repeat an earlier line of the batch; folded into its row."""
    identity: str
    """Identity of the source: which stream of this name it was."""
    collected_at: datetime
    first_time: datetime | None
    """Oldest event time; None when all lines were rejected."""
    last_time: datetime | None
    """Newest event time."""
    # Batches written before these were counted say nothing of them.
    hours: dict[str, dict[str, int]] = field(default_factory=dict)
    """Lines of each kind of event in each hour of event time, such as ``2022-11-14T12``; with duplicates."""
    late: int = 0
    """Lines more than ``LATE_S`` older than the newest line before them in the batch."""
    latest_s: float = 0.0
    """By how many seconds a line was late at most."""
    lost: tuple[int, int] | None = None
    """First and last offset (inclusive) that retention took right before this batch."""


@dataclass(frozen=True, slots=True, order=True)
class Batch:
    """A batch file; sorts by topic, generation, partition and offset. ``last`` is inclusive."""

    topic: str
    generation: int
    partition: int
    first: int
    last: int
    folder: Path

    @property
    def name(self) -> str:
        """File name, which says everything but the folder."""
        return f"{self.topic}~{self.generation}-{self.partition}-{self.first:012d}-{self.last:012d}.parquet"

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.folder / self.name

    def info(self) -> BatchInfo:
        """Read what the batch says about itself, without its rows.

        Raises:
            DataError: when the file is not a batch.
        """
        try:
            kept = json.loads(pq.read_metadata(self.path).metadata[_METADATA_KEY])
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise _damaged(self.path, error) from error
        times = {key: _from_iso(kept[key]) for key in ("collected_at", "first_time", "last_time")}
        lost = tuple(kept["lost"]) if kept.get("lost") else None
        return BatchInfo(**{**kept, **times, "lost": lost})


def list_batches(folder: Path) -> list[Batch]:
    """Return the batches of ``folder``, sorted; other files (also unfinished ones) are passed over."""
    if not folder.is_dir():
        return []
    return sorted(batch for path in folder.iterdir() if (batch := parse_name(path.name, folder)))


def parse_name(name: str, folder: Path = Path()) -> Batch | None:
    """Return the batch that a file in ``folder`` is by its name; None: it is none, or an unfinished one."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return Batch(match[1], int(match[2]), int(match[3]), int(match[4]), int(match[5]), folder)


def write(batch: Batch, kinds: list[pa.Table], info: BatchInfo) -> None:
    """Write a batch so that it is there completely or not at all, whatever dies when.

    ``kinds`` are tables in ``SCHEMA``, one for each kind, in the order of the file: each becomes a row group
    of its own, so that a reader of ratings skips the viewings unread.

    Raises:
        DataError: when the disk does not take it.
    """
    kept = json.dumps(asdict(info), default=datetime.isoformat)
    schema = SCHEMA.with_metadata({_METADATA_KEY: kept})
    temporary = batch.folder / f".{batch.name}.tmp"
    try:
        with pq.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=_DICTIONARIES, column_encoding=_ENCODINGS
        ) as writer:
            for table in kinds:
                if table.num_rows:
                    writer.write_table(table, row_group_size=table.num_rows)
        sync(temporary)
        temporary.replace(batch.path)
        sync(batch.folder)
    except OSError as error:
        raise DataError(
            f"could not write {batch.path}: {error}; make room or mend the permissions, then collect again"
        ) from error


def read_table(
    folder: Path, kind: str, columns: Sequence[str], names: Collection[str] | None = None
) -> pa.Table:
    """Return chosen columns of the rows of one kind of the named batches (all: None).

    Text columns are dictionaries. Rows follow the batches' order and then their offset.

    Raises:
        DataError: when a name is not there, or a file or the quarantine is damaged.
    """
    batches = {batch.name: batch for batch in list_batches(folder)}
    missing = sorted(set(names or ()) - set(batches))
    if missing:
        raise DataError(
            f"{len(missing)} wanted batch(es) are not in {folder}, for example {missing[0]}; "
            "fetch them back from the registry, or name only batches that are there"
        )
    wanted = [batch for name, batch in batches.items() if names is None or name in names]
    entries = quarantine.read(folder)
    empty = pa.schema([SCHEMA.field(column) for column in columns]).empty_table()
    tables = [read_one(batch, kind, columns, quarantine.of(batch, entries)) for batch in wanted]
    return pa.concat_tables([empty, *tables])


def read_one(
    batch: Batch, kind: str, columns: Sequence[str], left_out: Sequence[tuple[int, int]] = ()
) -> pa.Table:
    """Return chosen columns of the rows of one kind of a batch, but for those with a line in ``left_out``.

    Raises:
        DataError: when the file is damaged.
    """
    wanted = [*columns, *(column for column in quarantine.COLUMNS if left_out and column not in columns)]
    schema = pa.schema([SCHEMA.field(column) for column in dict.fromkeys(["kind", *wanted])])
    try:
        file = ds.dataset(batch.path, format="parquet")
        if _METADATA_KEY not in (file.schema.metadata or {}):
            raise pa.ArrowInvalid("it does not say what it was made of")
        # Columns that batches of older code do not have come as nulls.
        table = file.replace_schema(schema).to_table(columns=wanted, filter=pc.field("kind") == kind)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(batch.path, error) from error
    kept = table.filter(quarantine.keeps(table, left_out, batch.last)) if left_out else table
    return kept.select(columns)


def read_kind(folder: Path, kind: str, names: Collection[str] | None = None) -> pd.DataFrame:
    """Return the rows of one kind of the named batches (all: None), with the columns that this kind fills.

    Text columns are plain strings, times are UTC. Rows follow the batches' order and then their offset.

    Raises:
        DataError: as ``read_table``.
    """
    rows: pd.DataFrame = _plain(read_table(folder, kind, COLUMNS[kind], names)).to_pandas()
    return rows


def read_ratings(folder: Path, names: Collection[str] | None = None) -> pd.DataFrame:
    """Return every rating; a user who changed their mind about a movie has several.

    Columns: user_id (str), movie_id (str), rating (float32, stars), timestamp (int64, unix seconds); sorted
    by timestamp, user, movie. Ratings of the same user and movie stay in the order of their microseconds,
    and at the same one in the order of batch and offset.

    Raises:
        DataError: as ``read_table``.
    """
    table = read_table(folder, "rating", ["time", "user_id", "movie_id", "rating"], names)
    frame = _plain(table).to_pandas().sort_values("time", kind="stable")
    return _in_order(frame.astype({"rating": "float32"}))


def read_viewings(folder: Path, names: Collection[str] | None = None) -> pd.DataFrame:
    """Return one row for each (user, movie) that was watched.

    Columns: user_id (str), movie_id (str), minutes (int64, distinct ones), timestamp (int64, unix seconds of
    the last minute); sorted by timestamp, user, movie. Of batches written before minutes were kept one by one
    only the number is known: those are added up.

    Raises:
        DataError: as ``read_table``.
    """
    columns = ["last_time", "user_id", "movie_id", "minutes", "first_minute", "seen"]
    table = read_table(folder, "watch", columns, names).unify_dictionaries().combine_chunks()
    return _in_order(_plain(viewings.merge(table)).to_pandas())


def _in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn microseconds into a timestamp in seconds, users into text, and sort."""
    seconds = frame.pop("time").astype("int64") // 1_000_000
    texts = frame.assign(timestamp=seconds, user_id=frame["user_id"].astype("str"))
    ordered = texts.sort_values(["timestamp", "user_id", "movie_id"], ignore_index=True)
    value = "rating" if "rating" in frame else "minutes"
    return ordered[["user_id", "movie_id", value, "timestamp"]]


def _plain(table: pa.Table) -> pa.Table:
    """Write dictionary columns out as plain strings."""
    for index, field_ in enumerate(table.schema):
        if pa.types.is_dictionary(field_.type):
            table = table.set_column(index, field_.name, pc.cast(table.column(index), pa.string()))
    return table


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} is not a readable batch ({error}); restore it from the registry, or remove it together with "
        "all later batches of its generation and partition, and collect again"
    )


def _from_iso(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
