"""The show itself: ask at a steady rate, write what the crowd does, say every few seconds how it goes."""

import logging
import math
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pipelines.errors import MarqueeError
from pipelines.local.audience import tastes
from pipelines.local.audience.calls import PATIENCE_S, Call, Caller
from pipelines.local.audience.sinks import Sink
from pipelines.local.audience.viewers import Audience, Taste

log = logging.getLogger(__name__)

CHUNK_S = 1.0
BACKLOG_CHUNKS = 60
"""How many seconds of lines wait for a sink that is away; after that the newest are lost."""

RETRY_S = 0.5
"""Pause before a sink that is away is tried again."""

_LONGEST_CATCH_UP_S = 2.0


@dataclass(slots=True)
class Totals:
    """What happened so far."""

    asked: int = 0
    """Finished recommendation requests."""
    answered: int = 0
    """Those with a good answer in time."""
    lines: int = 0
    """Lines that the sink has stored."""
    lost: int = 0
    """Lines that no sink took."""
    versions: Counter[str] = field(default_factory=Counter)
    """Good answers by the version that gave them; empty: it did not say."""

    @property
    def failed(self) -> int:
        """Requests without a good answer in time."""
        return self.asked - self.answered

    def since(self, earlier: "Totals") -> "Totals":
        """Return what was added after ``earlier``."""
        return Totals(
            self.asked - earlier.asked,
            self.answered - earlier.answered,
            self.lines - earlier.lines,
            self.lost - earlier.lost,
            self.versions - earlier.versions,
        )

    def copy(self) -> "Totals":
        """Return the state of this moment."""
        return self.since(Totals())

    def __str__(self) -> str:
        by_version = ", ".join(f"v{name or '?'} {count}" for name, count in sorted(self.versions.items()))
        return (
            f"asked {self.asked}, answered {self.answered}, failed {self.failed}, "
            f"lines {self.lines}, lost {self.lost}, by version: {by_version or 'none'}"
        )


def run(
    recommend_url: str,
    sink: Sink,
    stop: threading.Event,
    *,
    seed: int = 1,
    requests_per_s: float = 10.0,
    taste: Taste = Taste.MOVIELENS,
    data_dir: Path = tastes.DATA_DIR,
    report_every_s: float = 10.0,
    beat: Callable[[], None] = lambda: None,
) -> Totals:
    """Play the viewers until ``stop`` is set; neither a missing NGINX nor a missing broker ends it.

    Args:
        recommend_url: the address without the user id, http only.
        sink: where lines go; closed at the end.
        stop: set it to end the show within about a second.
        seed: of what viewers do; what they are answered is up to the world.
        requests_per_s: recommendation requests; lines are some 118 times as many.
        taste: how viewers rate.
        data_dir: folder of the MovieLens files.
        report_every_s: pause between two log lines of figures.
        beat: called whenever the sink has taken lines.

    Raises:
        StackError: the address is wrong or the MovieLens files cannot be read.
    """
    caller = Caller(recommend_url)
    audience = Audience(seed, tastes.load(data_dir), requests_per_s=requests_per_s, taste=taste)
    show = _Show(audience, caller, sink, seed, beat)
    return show.play(stop, 1 / requests_per_s, report_every_s)


class _Show:
    """One run: this thread keeps the pace, a pool asks, another thread writes."""

    def __init__(
        self, audience: Audience, caller: Caller, sink: Sink, seed: int, beat: Callable[[], None]
    ) -> None:
        self.audience = audience
        self.caller = caller
        self.sink = sink
        self.totals = Totals()
        self._beat = beat
        self._rng = random.Random(seed)
        self._finished: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._chunks: queue.Queue[Sequence[str] | None] = queue.Queue(BACKLOG_CHUNKS)
        self._written_until = datetime.min.replace(tzinfo=UTC)

    def play(self, stop: threading.Event, ask_every_s: float, report_every_s: float) -> Totals:
        writer = threading.Thread(target=self._write_chunks, args=(stop,), name="audience-writer")
        writer.start()
        # Enough for every caller to lose patience at once.
        callers = ThreadPoolExecutor(2 + math.ceil(1.5 * PATIENCE_S / ask_every_s), "audience-caller")
        try:
            self._keep_pace(stop, callers, ask_every_s, report_every_s)
        finally:
            stop.set()
            callers.shutdown(cancel_futures=True)
            self._hand_over_chunk()
            self._chunks.put(None)
            writer.join()
            self.sink.close()
        log.info("audience leaves: %s", self.totals)
        return self.totals

    def _keep_pace(
        self, stop: threading.Event, callers: ThreadPoolExecutor, ask_every_s: float, report_every_s: float
    ) -> None:
        asks, chunks, reports = _Beat(ask_every_s), _Beat(CHUNK_S), _Beat(report_every_s)
        reported = self.totals.copy()
        while not stop.is_set():
            if asks.strikes():
                callers.submit(self._ask, self.audience.ask())
            if chunks.strikes():
                self._hand_over_chunk()
            if reports.strikes():
                log.info("audience: %s", self.totals.since(reported))
                reported = self.totals.copy()
            stop.wait(min(beat.left_s() for beat in (asks, chunks, reports)))

    def _ask(self, user: str) -> None:
        self._finished.put(self.caller.ask(user))

    def _hand_over_chunk(self) -> None:
        """Make the lines of this second and give them to the writer, or lose them if it is far behind."""
        now = datetime.now(UTC)
        calls = [self._finished.get() for _ in range(self._finished.qsize())]
        calls.sort(key=lambda call: call.request.time)
        requests = [call.line(self._written_until, self._rng) for call in calls]
        lines = self.audience.lines(now, requests)
        self._written_until = max(self._written_until, now.replace(microsecond=0))
        for call in calls:
            self._count(call)
        try:
            self._chunks.put_nowait(lines)
        except queue.Full:
            self.totals.lost += len(lines)

    def _count(self, call: Call) -> None:
        self.totals.asked += 1
        if call.answered:
            self.totals.answered += 1
            self.totals.versions[call.version] += 1
            self.audience.answered(call.request.user_id, call.request.movie_ids, call.request.time)

    def _write_chunks(self, stop: threading.Event) -> None:
        reachable = True
        while (lines := self._chunks.get()) is not None:
            stored = self._write(lines, stop) if reachable or not stop.is_set() else None
            # Once it is time to go, a sink that is away is not waited for again.
            reachable = stored is not None
            self.totals.lines += stored or 0
            self.totals.lost += len(lines) - (stored or 0)

    def _write(self, lines: Sequence[str], stop: threading.Event) -> int | None:
        """Return how many lines were stored; None when the show ended before the sink took any."""
        complained = False
        while True:
            try:
                stored = self.sink.write(lines)
                self._beat()
                return stored
            except Exception as error:  # whatever a client library raises must not end the show
                if not complained:
                    log.warning("lines wait: %s", error, exc_info=not isinstance(error, MarqueeError))
                complained = True
            if stop.wait(RETRY_S):
                return None


class _Beat:
    """Strikes at a steady rate that does not drift; after a long stall it goes on from there."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._due = time.monotonic() + every_s

    def left_s(self) -> float:
        return max(0.0, self._due - time.monotonic())

    def strikes(self) -> bool:
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = max(self._due + self._every_s, now - _LONGEST_CATCH_UP_S)
        return True
