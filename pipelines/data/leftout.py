"""What a quarantine takes out of the batches, and what it leaves of one; counted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data import quarantine
from pipelines.data.batches import COLUMNS, Batch, BatchInfo, list_batches, read_one
from pipelines.data.quarantine import Offsets, Span, in_words, keeps, of, overlaps
from pipelines.errors import DataError

Ranges = Sequence[tuple[int, int]]

_TIMES = ["time", "last_time"]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What lies in a range."""

    batches: int
    lines: int
    """Where offsets have gaps, in a batch that is out in part: at most so many."""
    rows: dict[str, int]
    """Rows of each kind that have a line in the range."""


def newest_generation(batches: Sequence[Batch], topic: str) -> int:
    """Return the newest generation of ``topic`` that was collected; 1 when none was."""
    return max((batch.generation for batch in batches if batch.topic == topic), default=1)


def require_collected(batches: Sequence[Batch], span: Span) -> None:
    """Make sure that ``span`` lies in what was collected.

    Raises:
        DataError: no batch holds its offsets, or it reaches behind the last one.
    """
    same = (span.topic, span.generation, span.partition)
    mine = [batch for batch in batches if (batch.topic, batch.generation, batch.partition) == same]
    if not any(overlaps(batch, span) for batch in mine) or span.last > mine[-1].last:
        collected = f"offsets {mine[0].first:,} to {mine[-1].last:,}" if mine else "nothing"
        streams = sorted({f"{batch.topic} (generation {batch.generation})" for batch in batches})
        raise DataError(
            f"{in_words(span)}: not collected; of that partition there is {collected}. Name others. "
            f"Streams that were collected: {', '.join(streams) or 'none'}"
        )


def left_out(folder: Path, span: Offsets) -> LeftOut:
    """Count what lies in ``span`` in the batches of ``folder``, whatever is out.

    Raises:
        DataError: a batch is damaged.
    """
    hit = [(batch, ranges) for batch in list_batches(folder) if (ranges := of(batch, [span]))]
    return LeftOut(
        batches=len(hit),
        lines=sum(_lines(batch, batch.info().lines, ranges) for batch, ranges in hit),
        rows={kind: sum(_out(batch, kind, ranges) for batch, ranges in hit) for kind in COLUMNS},
    )


def remaining(batch: Batch, ranges: Ranges) -> BatchInfo:
    """Return what ``batch`` would say of itself without the lines in ``ranges``, as far as that is known.

    Rows are counted, which repeats have left no trace in: of ratings, requests and rejects each is one line,
    all other lines count as watched minutes and none as a repeat. What only lines could tell (hours, late
    lines) is empty, as in batches of older code.

    Raises:
        DataError: the batch is damaged.
    """
    info = batch.info()
    if not ranges:
        return info
    rows = {kind: read_one(batch, kind, _wanted(kind), ranges) for kind in COLUMNS}
    counts = {kind: table.num_rows for kind, table in rows.items()}
    lines = max(info.lines - _lines(batch, info.lines, ranges), sum(counts.values()))
    reasons = pc.value_counts(rows["reject"]["reason"].cast(pa.string())).to_pylist()
    times = pa.concat_tables([table.select(_TIMES) for kind, table in rows.items() if kind != "reject"])
    return replace(
        info,
        lines=lines,
        counts=counts | {"watch": lines - sum(counts.values()) + counts["watch"]},
        rejects={each["values"]: each["counts"] for each in reasons},
        duplicates=0,
        first_time=pc.min(times["time"]).as_py(),
        last_time=pc.max(times["last_time"]).as_py(),
        hours={},
        late=0,
        latest_s=0.0,
    )


def _wanted(kind: str) -> list[str]:
    return ["reason"] if kind == "reject" else _TIMES


def _lines(batch: Batch, lines: int, ranges: Ranges) -> int:
    if list(ranges) == [(batch.first, batch.last)]:
        return lines
    return min(lines, sum(last - first + 1 for first, last in ranges))


def _out(batch: Batch, kind: str, ranges: Ranges) -> int:
    rows = read_one(batch, kind, quarantine.COLUMNS)
    return int(rows.num_rows - keeps(rows, ranges, batch.last).true_count)
