"""Collect: everything new in the stream becomes batches, each line in exactly one of them.

Where to go on is read from the names of the batches themselves, never from what a broker remembers, and a
batch appears by an atomic rename once it is on disk. Killed at any moment, the next run goes on without gap
or duplicate.
"""

import gc
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from pipelines.alerts import Announce
from pipelines.data import news, parallel
from pipelines.data.batches import COLUMNS, Batch, BatchInfo, list_batches, write
from pipelines.data.folding import fold
from pipelines.data.planning import Span, namesake, plan
from pipelines.errors import DataError, Locked, SourceError
from pipelines.events.lines import Lines
from pipelines.events.parsing import parse_lines
from pipelines.events.sources import Source
from pipelines.progress import Progress, nobody

log = logging.getLogger(__name__)

_WORTH_A_PROCESS = 250_000
"""Offsets that take about as long as starting one more process."""

_ORPHAN_S = 10.0
"""How long the processes of a killed collect are waited for; they end as soon as they notice."""


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
        log.info(
            "%s: %d lines, %d rejected, %d duplicates",
            *(batch.name, info.lines, info.counts["reject"], info.duplicates),
        )

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


@dataclass(frozen=True, slots=True)
class _Job:
    """One partition to collect; pickled when another process does it."""

    source: Source
    identity: str
    span: Span
    newest: Batch | None
    """Newest batch of the partition when the span was planned."""
    out: Path
    batch_lines: int


@dataclass(slots=True)
class _Done:
    """What came of a partition: the batches that were written, and what kept it from its end."""

    batches: list[tuple[Batch, BatchInfo]] = field(default_factory=list)
    error: SourceError | None = None


def collect(
    source: Source,
    out: Path,
    *,
    batch_lines: int = 500_000,
    processes: int = 1,
    patience_s: float = 0.0,
    announce: Announce | None = None,
    progress: Progress = nobody,
) -> Collected:
    """Write the new lines of ``source``, up to its end as it stands now, as batches into ``out``.

    Args:
        source: the stream; stays open.
        out: folder of the batches, made when it is missing.
        batch_lines: most lines in one batch; bounds the memory of a process.
        processes: most processes at a time, each with a partition; the source is pickled for them.
        patience_s: how long another process that collects into ``out`` is waited for.
        announce: told once that the stream is another one, or has lost what was not collected.
        progress: called with (offsets done, offsets to do).

    Raises:
        Locked: when another process collects into ``out`` for longer than ``patience_s``.
        SourceError: when the stream breaks off; complete batches stay and the next run goes on behind them.
        DataError: when a batch in ``out`` is damaged, none can be written, or a process was killed.
    """
    with _only_writer(out, ".collect.lock", patience_s):
        for leftover in out.glob(".*.parquet.tmp"):
            # The process that a killed collect has left behind may just be renaming it.
            leftover.unlink(missing_ok=True)
        jobs = _jobs(source, out, batch_lines)
        if announce:
            # Before anything is written: killed in between, the next run finds the same and tells it.
            news.tell(source.name, [job.span for job in jobs], out, announce)
        collected = Collected(notes=_notes(source, out, jobs))
        offsets = sum(job.span.stop - job.span.start for job in jobs)
        worth_it = min(processes, 1 + offsets // _WORTH_A_PROCESS)
        done = parallel.run(_collect_partition, jobs, worth_it, _reporter(jobs, progress))
        for batch, info in (stored for one in done for stored in one.batches):
            collected.add(batch, info)
        if error := next((one.error for one in done if one.error), None):
            raise SourceError(f"{error}\n{_how_far(collected)}") from error
        _commit(source, collected)
    return collected


def _jobs(source: Source, out: Path, batch_lines: int) -> list[_Job]:
    identity = source.identity
    batches = [batch for batch in list_batches(out) if batch.topic == source.name]
    one_each = {batch.generation: batch for batch in batches}
    identities = {generation: batch.info().identity for generation, batch in one_each.items()}
    jobs = []
    for partition in source.partitions():
        span = plan(partition, source.bounds(partition), identity, batches, identities)
        jobs.append(_Job(source, identity, span, _newest(batches, partition), out, batch_lines))
    return jobs


def _notes(source: Source, out: Path, jobs: Sequence[_Job]) -> list[str]:
    notes = [job.span.note for job in jobs if job.span.note]
    one_each = {(batch.topic, batch.generation): batch for batch in list_batches(out)}
    if source.name not in {topic for topic, _ in one_each}:
        known = {}
        for where, batch in one_each.items():
            # What is damaged of another stream need not keep anybody from collecting this one.
            with suppress(DataError):
                known[where] = batch.info().identity
        notes += filter(None, [namesake(source.name, jobs[0].identity, known)])
    return notes


def _collect_partition(job: _Job, reached: Callable[[int], None]) -> _Done:
    """Write the batches of one partition; calls ``reached`` with the next offset to read."""
    done, span = _Done(), job.span
    # A process that a killed collect has left behind may still be at it, for a moment.
    with _only_writer(job.out, f".collect-{span.partition}.lock", timeout_s=_ORPHAN_S), _old_objects_spared():
        mine = [batch for batch in list_batches(job.out) if batch.topic == job.source.name]
        if _newest(mine, span.partition) != job.newest:
            raise Locked(
                f"partition {span.partition} was collected by somebody else meanwhile; collect again"
            )
        try:
            for batch, chunks in _portions(job, reached):
                done.batches.append((batch, _store(job, batch, chunks)))
            reached(span.stop)
        except SourceError as error:
            done.error = error
    return done


@contextmanager
def _old_objects_spared() -> Iterator[None]:
    """Keep the garbage collector from what is there already.

    Every thousand records it looks at all modules again, which took a sixth of the time of reading.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _portions(job: _Job, reached: Callable[[int], None]) -> Iterator[tuple[Batch, list[Lines]]]:
    """Yield each batch of a span and its lines.

    The ranges leave no hole where offsets have gaps: a batch begins right behind the one before, and the last
    one reaches to the end of the span.
    """
    span = job.span
    first, held, count = span.start, list[Lines](), 0
    for chunk in job.source.read(span.partition, span.start, span.stop):
        left = chunk
        while count + len(left) >= job.batch_lines:
            taken, left = left[: job.batch_lines - count], left[job.batch_lines - count :]
            last = int(taken.offsets[-1])
            yield _batch(job, first, last), [*held, taken]
            first, held, count = last + 1, [], 0
        held.append(left)
        count += len(left)
        if len(chunk):
            reached(int(chunk.offsets[-1]) + 1)
    if count:
        yield _batch(job, first, span.stop - 1), held


def _batch(job: _Job, first: int, last: int) -> Batch:
    return Batch(job.source.name, job.span.generation, job.span.partition, first, last, job.out)


def _store(job: _Job, batch: Batch, chunks: Sequence[Lines]) -> BatchInfo:
    folded = fold(parse_lines(chunks))
    # Offsets of a topic that was created again meanwhile must not pass for those of the one before.
    if job.source.identity != job.identity:
        raise SourceError(f"{job.source.name} became another stream while it was read; collect again")
    info = BatchInfo(
        identity=job.identity,
        collected_at=datetime.now(UTC),
        lost=job.span.lost if batch.first == job.span.start else None,
        **folded.figures,
    )
    write(batch, folded.kinds, info)
    return info


def _newest(batches: Sequence[Batch], partition: int) -> Batch | None:
    return max((batch for batch in batches if batch.partition == partition), default=None)


def _commit(source: Source, collected: Collected) -> None:
    """Tell the stream how far we are; what it does not take is only missing on somebody's dashboard."""
    try:
        source.commit({partition: last + 1 for partition, last in collected.last_offsets.items()})
    except SourceError as error:
        log.warning("the new batches are safe, but the stream does not know: %s", error)


def _reporter(jobs: Sequence[_Job], progress: Progress) -> Callable[[int, int], None]:
    """Return a function that turns "this job has come to this offset" into (done, total) of all jobs."""
    spans = [job.span for job in jobs]
    come_to = [span.start for span in spans]
    total = sum(span.stop - span.start for span in spans)

    def report(number: int, offset: int) -> None:
        come_to[number] = offset
        progress(sum(come_to) - sum(span.start for span in spans), total)

    progress(0, total)
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
def _only_writer(out: Path, name: str, timeout_s: float = 0.0) -> Iterator[None]:
    path = out / name
    lock = filelock.FileLock(path, timeout=timeout_s)
    try:
        out.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if timeout_s:
                log.info("process %s is collecting; waiting for it up to %g s", path.read_text(), timeout_s)
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
