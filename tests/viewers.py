"""Viewers that ask all the time, and what they met."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from pipelines.settings import Settings


@dataclass
class Answers:
    """What viewers got so far."""

    statuses: Counter[int | str] = field(default_factory=Counter)
    """Answers by status; by the name of the error where there was none."""
    latencies_ms: list[float] = field(default_factory=list)
    """Of every answer, from when it should have been asked: a late question counts as waiting."""
    versions: set[str] = field(default_factory=set)
    """Versions that answered since the set was last emptied."""

    @property
    def failed(self) -> int:
        """How many got anything else than a good answer."""
        return self.statuses.total() - self.statuses[200]

    def percentile_ms(self, percent: int) -> float:
        """Return a percentile of the latencies."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


@contextmanager
def viewers(config: Settings, *, per_second: float, at_once: int = 2) -> Iterator[Answers]:
    """Ask for recommendations all the time; yields what has been met so far.

    One half keeps its connection open, the other half comes with a new one for each question. ``at_once`` is
    even, and as many can wait before a question comes late.
    """
    met, stop = Answers(), threading.Event()
    halves = [
        threading.Thread(target=_ask, args=(config, at_once / per_second, headers, met, stop))
        for headers in ({}, {"Connection": "close"}) * (at_once // 2)
    ]
    for half in halves:
        half.start()
    try:
        yield met
    finally:
        stop.set()
        for half in halves:
            half.join()


def _ask(
    config: Settings, every_s: float, headers: dict[str, str], met: Answers, stop: threading.Event
) -> None:
    with httpx.Client(base_url=config.recommend_url, timeout=20, headers=headers) as client:
        due_s, user = time.monotonic(), 0
        while not stop.wait(max(due_s - time.monotonic(), 0.0)):
            user += 1
            try:
                answer = client.get(f"/{user % 1_000}")
                met.statuses[answer.status_code] += 1
                met.versions.add(answer.headers.get("X-Marquee-Version", ""))
            except httpx.HTTPError as error:
                met.statuses[type(error).__name__] += 1
            met.latencies_ms.append((time.monotonic() - due_s) * 1_000)
            due_s += every_s
