"""Collect: everything new in the stream becomes batches, each line in exactly one of them.

Where to go on is read from the names of the batches themselves, never from what a broker remembers, and a
batch appears by an atomic rename once it is on disk. Killed at any moment, the next run goes on without gap
or duplicate.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from pipelines.data.batches import COLUMNS, Batch, BatchInfo, list_batches, write
from pipelines.data.folding import Fold
from pipelines.data.planning import Span, plan
from pipelines.errors import DataError, Locked, SourceError
from pipelines.events.sources import Source

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (done, to do)."""

_PROGRESS_EVERY_LINES = 10_000


@dataclass(slots=True)
class Collected:
    """What one run brought in."""

    lines: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLUMNS, 0))
    """Lines of each kind, duplicates included; they add up to ``lines``."""
    rejects: dict[str, int] = field(default_factory=dict)
    """Rejected lines of each reason, duplicates included."""
    duplicates: int = 0
    """Lines that repeat an earlier line of their batch."""
    first_offsets: dict[int, int] = field(default_factory=dict)
    """First new offset of each partition that had any."""
    last_offsets: dict[int, int] = field(default_factory=dict)
    """Last new offset of each partition that had any, inclusive."""
    partition_lines: dict[int, int] = field(default_factory=dict)
    batches: list[str] = field(default_factory=list)
    """File names, in the order they were written."""
    notes: list[str] = field(default_factory=list)
    """What a person should know: a new generation, a lost range."""

    def add(self, batch: Batch, info: BatchInfo) -> None:
        """Count a batch that was written."""
        self.lines += info.lines
        self.duplicates += info.duplicates
        _add_up(self.counts, info.counts)
        _add_up(self.rejects, info.rejects)
        _add_up(self.partition_lines, {batch.partition: info.lines})
        self.first_offsets.setdefault(batch.partition, batch.first)
        self.last_offsets[batch.partition] = batch.last
        self.batches.append(batch.name)

    def as_json(self) -> dict[str, Any]:
        """Return the run for machines; the two offsets are null unless just one partition had new lines."""
        partitions = {
            str(partition): {
                "first_offset": first,
                "last_offset": self.last_offsets[partition],
                "lines": self.partition_lines[partition],
            }
            for partition, first in self.first_offsets.items()
        }
        alone = next(iter(partitions.values())) if len(partitions) == 1 else {}
        return {
            "lines": self.lines,
            "counts": self.counts,
            "rejects": self.rejects,
            "duplicates": self.duplicates,
            "first_offset": alone.get("first_offset"),
            "last_offset": alone.get("last_offset"),
            "partitions": partitions,
            "batches": self.batches,
            "notes": self.notes,
        }


def collect(
    source: Source,
    out: Path,
    *,
    batch_lines: int = 500_000,
    progress: Progress | None = None,
) -> Collected:
    """Write the new lines of ``source``, up to its end as it stands now, as batches into ``out``.

    Args:
        source: the stream; stays open.
        out: folder of the batches, made when it is missing.
        batch_lines: most lines in one batch; bounds the memory.
        progress: called with (offsets done, offsets to do).

    Raises:
        Locked: when another process collects into ``out``.
        SourceError: when the stream breaks off; complete batches stay and the next run goes on behind them.
        DataError: when a batch in ``out`` is damaged or none can be written.
    """
    with _only_writer(out):
        for leftover in out.glob(".*.parquet.tmp"):
            leftover.unlink()
        identity = source.identity
        spans = _spans(source, out, identity)
        collected = Collected(notes=[span.note for span in spans if span.note])
        report = _reporter(spans, progress)
        try:
            for span in spans:
                for batch, fold in _folds(source, span, out, batch_lines, report):
                    _store(batch, fold, source, identity, collected)
        except SourceError as error:
            raise SourceError(f"{error}\n{_how_far(collected)}") from error
        _commit(source, collected)
    return collected


def _spans(source: Source, out: Path, identity: str) -> list[Span]:
    batches = [batch for batch in list_batches(out) if batch.topic == source.name]
    one_each = {batch.generation: batch for batch in batches}
    identities = {generation: batch.info().identity for generation, batch in one_each.items()}
    return [
        plan(partition, source.bounds(partition), identity, batches, identities)
        for partition in source.partitions()
    ]


def _folds(
    source: Source, span: Span, out: Path, batch_lines: int, report: Callable[[Span, int], None]
) -> Iterator[tuple[Batch, Fold]]:
    """Yield each batch of a span and its lines.

    The ranges leave no hole where offsets have gaps: a batch begins right behind the one before, and the last
    one reaches to the end of the span.
    """
    first, fold = span.start, Fold()
    for offset, line in source.read(span.partition, span.start, span.stop):
        fold.add(offset, line)
        if fold.lines == batch_lines:
            yield Batch(source.name, span.generation, span.partition, first, offset, out), fold
            first, fold = offset + 1, Fold()
        if fold.lines % _PROGRESS_EVERY_LINES == 0:
            report(span, offset + 1)
    if fold.lines:
        yield Batch(source.name, span.generation, span.partition, first, span.stop - 1, out), fold
    report(span, span.stop)


def _store(batch: Batch, fold: Fold, source: Source, identity: str, collected: Collected) -> None:
    folded = fold.result()
    # Offsets of a topic that was created again meanwhile must not pass for those of the one before.
    if source.identity != identity:
        raise SourceError(f"{source.name} became another stream while it was read; collect again")
    info = BatchInfo(
        lines=folded.lines,
        counts=folded.counts,
        rejects=folded.rejects,
        duplicates=folded.duplicates,
        identity=identity,
        collected_at=datetime.now(UTC),
        first_time=folded.first_time,
        last_time=folded.last_time,
    )
    write(batch, folded.kinds, info)
    collected.add(batch, info)
    log.info(
        "%s: %d lines, %d rejected, %d duplicates",
        batch.name,
        info.lines,
        info.counts["reject"],
        info.duplicates,
    )


def _commit(source: Source, collected: Collected) -> None:
    """Tell the stream how far we are; what it does not take is only missing on somebody's dashboard."""
    try:
        source.commit({partition: last + 1 for partition, last in collected.last_offsets.items()})
    except SourceError as error:
        log.warning("the new batches are safe, but the stream does not know: %s", error)


def _reporter(spans: Sequence[Span], progress: Progress | None) -> Callable[[Span, int], None]:
    """Return a function that turns "this span has come to this offset" into (done, total) of all spans."""
    reached = {span.partition: span.start for span in spans}
    total = sum(span.stop - span.start for span in spans)

    def report(span: Span, offset: int) -> None:
        reached[span.partition] = offset
        if progress is not None:
            progress(sum(reached[span.partition] - span.start for span in spans), total)

    return report


def _how_far(collected: Collected) -> str:
    ends = ", ".join(f"offset {last} of partition {part}" for part, last in collected.last_offsets.items())
    kept = (
        f"{collected.lines} lines in {len(collected.batches)} batches, up to {ends}"
        if ends
        else "nothing new"
    )
    return f"Collected before that and kept: {kept}. The next run goes on from there."


def _add_up(totals: dict[Any, int], more: Mapping[Any, int]) -> None:
    for key, count in more.items():
        totals[key] = totals.get(key, 0) + count


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    path = out / ".collect.lock"
    lock = filelock.FileLock(path, timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise Locked(
            f"process {path.read_text() or '(unknown)'} is collecting into {out} and only one may; "
            "wait for it, or end it: nothing is lost"
        ) from error
    except OSError as error:
        raise DataError(
            f"could not collect into {out}: {error}; mend the path or its permissions, then collect again"
        ) from error
    try:
        path.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()
