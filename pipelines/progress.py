"""How far a long step is: share done, rate and time left, in the same words for terminals and logs."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (done, to do), for the first time before anything is done."""

Show = Callable[[str, str], AbstractContextManager[Progress]]
"""Shows how a step goes on, given its name and what it counts, such as ``collect`` and ``lines``."""

LOG_EVERY_S = 10.0
"""Least time between two lines in a log."""


def nobody(done: int, total: int) -> None:
    """Let a report go unheard."""


class Meter:
    """Words for how far a step is, timed from the first report."""

    def __init__(self, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Count in ``unit``, such as ``lines``; ``clock`` gives seconds."""
        self._unit = unit
        self._clock = clock
        self._began_s: float | None = None
        self._done = self._total = 0

    def report(self, done: int, total: int) -> None:
        """Take in how far the step is."""
        if self._began_s is None:
            self._began_s = self._clock()
        self._done, self._total = done, total

    def words(self) -> str:
        """Return the latest report in words; empty as long as there is nothing to do."""
        if self._began_s is None or not self._total:
            return ""
        elapsed_s = self._clock() - self._began_s
        say = finished if self._done == self._total else so_far
        return say(self._done, self._total, self._unit, elapsed_s)


@contextmanager
def logged(what: str, unit: str, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """Log how the step ``what`` goes on, every ten seconds at most, and how far it came when it ends."""
    meter = Meter(unit, clock)
    told_s = clock()

    def progress(done: int, total: int) -> None:
        nonlocal told_s
        meter.report(done, total)
        if done < total and clock() - told_s >= LOG_EVERY_S:
            told_s = clock()
            log.info("%s: %s", what, meter.words())

    try:
        yield progress
    finally:
        conclude(what, meter)


def conclude(what: str, meter: Meter) -> None:
    """Log how far a step came, unless it had nothing to do."""
    if words := meter.words():
        log.info("%s: %s", what, words)


def so_far(done: int, total: int, unit: str, elapsed_s: float) -> str:
    """Say how far it is: ``12,300,000 of 86,000,000 lines (14 %), 181,000/s, 7 min left``."""
    share = f"{done:,} of {total:,} {unit} ({100 * done // total} %)"
    if not done or not elapsed_s:
        return share
    rate = done / elapsed_s
    return f"{share}, {per_second(rate)}, {duration((total - done) / rate)} left"


def finished(done: int, total: int, unit: str, elapsed_s: float) -> str:
    """Say what it came to: ``86,000,000 lines in 8 min, 181,000/s``."""
    took = f"{done:,} {unit} in {duration(elapsed_s)}"
    return f"{took}, {per_second(done / elapsed_s)}" if elapsed_s else took


def per_second(rate: float) -> str:
    """Return a rate with three digits that count: ``181,000/s``, ``0.4/s``."""
    rounded = float(f"{rate:.3g}")
    return f"{rounded:,.0f}/s" if rounded >= 100 else f"{rounded:g}/s"


def duration(seconds: float) -> str:
    """Return a span as people say it: ``40 s``, ``7 min``, ``2 h 10 min``."""
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
