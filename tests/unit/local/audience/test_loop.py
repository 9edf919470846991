import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from pipelines.errors import StackError
from pipelines.events.grammar import Request, parse
from pipelines.local.audience import loop, viewers
from pipelines.local.audience.calls import Call, Caller
from pipelines.local.audience.loop import Totals
from pipelines.local.audience.tastes import Tastes
from tests.ports import free_ports


class Memory:
    """Keeps the lines; is away for the first ``away`` writes and ends the show ``enough`` writes later."""

    def __init__(self, stop: threading.Event, *, away: int = 0, enough: int = 3) -> None:
        self.stop = stop
        self.away = away
        self.enough = enough
        self.lines: list[str] = []
        self.attempts = 0
        self.closed = False

    def write(self, lines: Sequence[str]) -> int:
        self.attempts += 1
        if self.attempts >= self.enough + self.away:
            self.stop.set()
        if self.attempts <= self.away:
            raise StackError("the sink is away")
        self.lines += lines
        return len(lines)

    def close(self) -> None:
        self.closed = True


class Answers:
    """A caller whose every question is answered at once by version 7."""

    def __init__(self, recommend_url: str) -> None:
        self.asked: list[str] = []

    def ask(self, user: str) -> Call:
        self.asked.append(user)
        return Call(user, Request(datetime.now(UTC), 1, "host", 1, 200, ("up+2009",), "", 1), "7")


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, known: Tastes) -> None:
    monkeypatch.setattr(loop.tastes, "load", lambda _: known)
    monkeypatch.setattr(viewers, "with_faults", lambda lines, _: lines)
    monkeypatch.setattr(loop, "CHUNK_S", 0.02)
    monkeypatch.setattr(loop, "RETRY_S", 0.001)
    monkeypatch.setattr(loop, "Caller", Answers)


def play(sink: Memory, stop: threading.Event, beat: Callable[[], None] = lambda: None) -> Totals:
    return loop.run("http://host/recommend", sink, stop, requests_per_s=100.0, report_every_s=0.02, beat=beat)


def requests_in(lines: Sequence[str]) -> int:
    return sum(",recommendation request " in line for line in lines)


def test_everything_that_was_stored_and_answered_is_counted(stop: threading.Event) -> None:
    sink = Memory(stop)
    totals = play(sink, stop)
    assert totals.lines == len(sink.lines) > 0
    assert totals.lost == 0
    assert totals.asked == totals.answered == totals.versions["7"] > 0
    assert requests_in(sink.lines) == totals.asked
    assert sink.closed


def test_lines_wait_for_a_sink_that_is_away(stop: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    sink, beats = Memory(stop, away=5), list[int]()
    with caplog.at_level(logging.WARNING, logger="pipelines"):
        totals = play(sink, stop, lambda: beats.append(sink.attempts))
    assert beats == list(range(5 + 1, sink.attempts + 1))
    assert totals.lost == 0
    assert totals.lines == len(sink.lines) > 0
    assert [record.message for record in caplog.records] == ["lines wait: the sink is away"]


def test_a_sink_that_never_comes_back_does_not_hold_up_the_end(stop: threading.Event) -> None:
    sink = Memory(stop, away=1_000_000, enough=-999_990)
    totals = play(sink, stop)
    assert (totals.lines, sink.lines) == (0, [])
    assert totals.lost > 0
    assert sink.closed


def test_the_newest_lines_are_lost_when_too_many_wait(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "BACKLOG_CHUNKS", 1)
    sink = Memory(stop, away=40)
    totals = play(sink, stop)
    assert totals.lost > 0
    assert totals.lines == len(sink.lines) > 0


def test_a_bug_in_a_client_library_does_not_end_the_show(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Memory(stop)
    write, surprises = sink.write, [KeyError("surprise")]

    def sometimes(lines: Sequence[str]) -> int:
        if surprises:
            raise surprises.pop()
        return write(lines)

    monkeypatch.setattr(sink, "write", sometimes)
    assert play(sink, stop).lost == 0


def test_a_service_that_is_away_is_told_and_asked_again(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "Caller", Caller)
    (port,) = free_ports(1)
    sink = Memory(stop)
    totals = loop.run(f"http://127.0.0.1:{port}/recommend", sink, stop, requests_per_s=100.0)
    assert totals.failed == totals.asked > 0
    told = [event for event in (parse(line.encode()) for line in sink.lines) if isinstance(event, Request)]
    assert {event.error for event in told} == {"java.net.ConnectException: Connection refused"}


def test_figures_are_logged_as_one_line(stop: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pipelines"):
        totals = play(Memory(stop), stop)
    assert caplog.records[-1].message == f"audience leaves: {totals}"
    assert any(record.message.startswith("audience: asked ") for record in caplog.records)


def test_figures_say_everything_and_subtract() -> None:
    earlier = Totals(asked=10, answered=9, lines=1_000, lost=0, versions=Counter({"1": 9}))
    now = Totals(asked=30, answered=24, lines=3_000, lost=5, versions=Counter({"1": 20, "2": 3, "": 1}))
    assert str(now.since(earlier)) == (
        "asked 20, answered 15, failed 5, lines 2000, lost 5, by version: v? 1, v1 11, v2 3"
    )
    assert str(Totals()).endswith("by version: none")


def test_the_beat_keeps_its_rate_when_it_is_looked_at_late(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now))
    beat = loop._Beat(0.1)
    strikes = 0
    for _ in range(1_000):
        # 0.07 s are no multiple of the beat: every strike is seen late, none is lost.
        now += 0.07
        strikes += beat.strikes()
    assert strikes == pytest.approx(1_000 * 0.07 / 0.1, abs=1)


def test_the_beat_does_not_make_up_for_an_hour_of_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now))
    beat = loop._Beat(0.1)
    now += 3_600.0
    strikes = sum(beat.strikes() for _ in range(1_000))
    assert strikes <= loop._LONGEST_CATCH_UP_S / 0.1 + 2
