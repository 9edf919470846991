"""Follow: within a second or two the replicas know what somebody has just watched.

Reads behind the end of the stream and keeps what was watched where replicas look it up. How far it has come
is kept there, too, in the same transaction: killed at any moment, it goes on without gap.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from pipelines.errors import DataError, SourceError
from pipelines.events.parsing import parse_lines, time_at
from pipelines.events.sources import Source
from pipelines.recents import Offsets, RecentsWriter, Viewing

PORTION = 50_000
"""Most offsets of a partition in one transaction: bounds the memory, and how late the others' turn comes."""

LONGEST_PAUSE_S = 30.0
"""Longest pause between two tries while the stream cannot be read."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Position:
    """Where to go on in one partition, and one past its last offset."""

    partition: int
    next: int
    end: int

    @property
    def stop(self) -> int:
        """One past the last offset of the next portion."""
        return min(self.end, self.next + PORTION)


def run(
    open_source: Callable[[], Source],
    folder: Path,
    *,
    start: Mapping[int, int],
    keep_days: float,
    stop: Event,
    every_s: float = 1.0,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Follow the stream until ``stop`` is set; what goes wrong is told once and tried again.

    Args:
        open_source: opens the stream; called again after trouble with it.
        folder: of the recents; made when it is missing.
        start: offset to begin with by partition if the folder is new, such as the first one behind the data
            of the serving model; a partition without one is read from its start.
        keep_days: what is older than this, counted from the newest viewing, is forgotten.
        stop: ends the loop within a portion.
        every_s: pause at the end of the stream.
        beat: called after each portion that was taken in, also if it was empty.
    """
    failures = 0
    while not stop.is_set():
        try:
            with closing(open_source()) as source, RecentsWriter(folder, keep_days) as recents:
                while not stop.is_set():
                    began_s = time.monotonic()
                    behind = follow_once(source, recents, start)
                    failures = _mended(failures)
                    recents.sweep()
                    beat()
                    if not behind:
                        # A long file takes a while to look through: half of the time is enough for it.
                        stop.wait(max(every_s, time.monotonic() - began_s))
        except (SourceError, DataError) as error:
            failures += 1
            _tell(error, failures)
            # Past 2^10 the pause is the longest anyway.
            stop.wait(min(every_s * 2 ** min(failures, 10), max(LONGEST_PAUSE_S, every_s)))


def follow_once(source: Source, recents: RecentsWriter, start: Mapping[int, int]) -> int:
    """Take in the next portion of every partition; return how many offsets are still to be read.

    Raises:
        SourceError: the stream cannot be read, or became another one meanwhile.
        DataError: the recents cannot be written.
    """
    identity, known = source.identity, recents.next_offsets()
    positions = [
        position(identity, partition, source.bounds(partition), known, start)
        for partition in source.partitions()
    ]
    _begin(recents, identity, positions, known)
    for one in positions:
        if one.next < one.stop:
            _take(source, recents, identity, one)
    return sum(one.end - one.stop for one in positions)


def position(
    identity: str, partition: int, bounds: tuple[int, int], known: Offsets, start: Mapping[int, int]
) -> Position:
    """Decide where to go on; touches nothing.

    A stream that was never followed is read from its start, unless nothing ever was: then from ``start``.
    What retention has taken away, or a stream that ends before, cannot be gone on with either.
    """
    held, end = bounds
    wanted = known.get((identity, partition), held) if known else start.get(partition, held)
    return Position(partition, wanted if held <= wanted <= end else held, end)


def _begin(recents: RecentsWriter, identity: str, positions: list[Position], known: Offsets) -> None:
    # All at once, before the first portion: ``start`` counts for a new folder only.
    begun = {(identity, one.partition): one.next for one in positions}
    if moved := {key: offset for key, offset in begun.items() if known.get(key) != offset}:
        where = ", ".join(
            f"partition {partition} from offset {offset}" for (_, partition), offset in moved.items()
        )
        logger.info("following the stream %s: %s", identity, where)
        recents.add([], moved)


def _take(source: Source, recents: RecentsWriter, identity: str, here: Position) -> None:
    watched = parse_lines(list(source.read(here.partition, here.next, here.stop))).watched
    viewings = [
        Viewing(str(user), watched.movie_ids[movie], time_at(time_us))
        for user, movie, time_us in zip(
            watched.user.tolist(), watched.movie.tolist(), watched.time.tolist(), strict=True
        )
    ]
    # Offsets of a topic that was created again meanwhile must not pass for those of the one before.
    if source.identity != identity:
        raise SourceError(f"{source.name} became another stream while it was read; it is read from its start")
    recents.add(viewings, {(identity, here.partition): here.stop})
    if here.stop < here.end:
        logger.info("partition %d: at offset %d, %d behind", here.partition, here.stop, here.end - here.stop)


def _mended(failures: int) -> int:
    if failures:
        logger.warning("the stream is followed again after %d failed tries", failures)
    return 0


def _tell(error: Exception, failures: int) -> None:
    if failures == 1:
        logger.error(
            "what users watch now is not known to the replicas: %s; tries come up to %g s apart",
            error,
            LONGEST_PAUSE_S,
        )
