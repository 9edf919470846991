import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import follow
from pipelines.errors import SourceError
from pipelines.events.lines import Lines
from pipelines.recents import Recents, RecentsWriter


@dataclass
class Stream:
    """A topic in memory; ``away`` plays a broker that does not answer that many times."""

    lines: dict[int, list[bytes]] = field(default_factory=lambda: {0: []})
    identity: str = "one"
    name: str = "movielog"
    first: int = 0
    away: int = 0
    opened: int = 0
    closed: int = 0

    def open(self) -> "Stream":
        self.opened += 1
        return self

    def close(self) -> None:
        self.closed += 1

    def partitions(self) -> list[int]:
        return sorted(self.lines)

    def bounds(self, partition: int) -> tuple[int, int]:
        if self.away:
            self.away -= 1
            raise SourceError("nobody answers")
        return self.first, len(self.lines[partition])

    def read(self, partition: int, start: int, stop: int) -> Iterator[Lines]:
        yield Lines.of(range(start, stop), self.lines[partition][start:stop])

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        raise AssertionError("offsets are kept with the recents")


class Pauses(Event):
    """A stop that does not wait: notes how long it should have, and sets itself after ``rounds`` waits."""

    def __init__(self, rounds: int = 1) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.rounds = rounds

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        if len(self.seconds) == self.rounds:
            self.set()
        return self.is_set()


def watch(user: int, movie: str, minute: int = 0) -> bytes:
    return f"2026-01-10T12:{minute:02},{user},GET /data/m/{movie}/{minute}.mpg".encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "recents"


def run(
    stream: Stream,
    folder: Path,
    start: Mapping[int, int] | None = None,
    rounds: int = 1,
    beat: Callable[[], None] = lambda: None,
) -> list[float]:
    """Follow until it has paused ``rounds`` times; return the pauses."""
    stop = Pauses(rounds)
    follow.run(stream.open, folder, start=start or {}, keep_days=7.0, stop=stop, every_s=5.0, beat=beat)
    return stop.seconds


def watched(folder: Path, user_id: str = "1") -> tuple[str, ...]:
    return Recents(folder).watched(user_id)


def test_what_is_watched_is_known_and_the_rest_of_the_stream_is_passed_over(folder: Path) -> None:
    stream = Stream()
    stream.lines[0] = [
        watch(1, "a+2001"),
        b"2026-01-10T12:00,1,GET /rate/b+2002=5",
        b"\xff not even text",
        watch(1, "c+2003", minute=1),
        watch(2, "d+2004"),
    ]

    run(stream, folder)

    assert (watched(folder, "1"), watched(folder, "2")) == (("c+2003", "a+2001"), ("d+2004",))


def test_a_new_folder_is_filled_from_behind_the_models_data(folder: Path) -> None:
    stream = Stream({0: [watch(1, "trained+"), watch(1, "new+")], 1: [watch(1, "other+")]})

    run(stream, folder, start={0: 1})

    assert watched(folder) == ("new+", "other+")


def test_it_goes_on_where_it_stopped_whatever_the_model_was_trained_on(folder: Path) -> None:
    stream = Stream({0: [watch(1, "a+")]})
    run(stream, folder)
    stream.lines[0] += [watch(1, "b+"), watch(1, "c+")]

    run(stream, folder, start={0: 2})

    assert set(watched(folder)) == {"a+", "b+", "c+"}


def test_a_topic_that_was_created_again_is_read_from_its_start(folder: Path) -> None:
    stream = Stream({0: [watch(1, "a+"), watch(1, "b+")]})
    run(stream, folder)
    stream.identity, stream.lines = "two", {0: [watch(1, "c+")]}

    run(stream, folder, start={0: 2})

    assert set(watched(folder)) == {"a+", "b+", "c+"}


def test_a_topic_that_becomes_another_while_it_is_read_leaves_no_offset(folder: Path) -> None:
    class Changing(Stream):
        def read(self, partition: int, start: int, stop: int) -> Iterator[Lines]:
            yield from super().read(partition, start, stop)
            self.identity = "two"

    stream = Changing({0: [watch(1, "a+"), watch(1, "b+")]})

    with RecentsWriter(folder, 7.0) as recents:
        with pytest.raises(SourceError, match="became another stream"):
            follow.follow_once(stream, recents, {})
        assert recents.next_offsets() == {("one", 0): 0}


def test_a_long_backlog_is_taken_in_portions_without_a_pause(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(follow, "PORTION", 2)
    stream = Stream({0: [watch(user, "a+") for user in range(1, 6)]})
    with caplog.at_level(logging.INFO):
        pauses = run(stream, folder)

    assert len(pauses) == 1
    assert [watched(folder, str(user)) for user in range(1, 6)] == [("a+",)] * 5
    assert [line for line in caplog.messages if "behind" in line] == [
        "partition 0: at offset 2, 3 behind",
        "partition 0: at offset 4, 1 behind",
    ]


def test_a_broker_that_is_away_is_told_once_and_tried_again_at_growing_intervals(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream, beats = Stream({0: [watch(1, "a+")]}, away=4), list[int]()
    with caplog.at_level(logging.WARNING):
        pauses = run(stream, folder, rounds=5, beat=lambda: beats.append(stream.opened))

    assert pauses == [5.0 * 2, 5.0 * 4, 30.0, 30.0, 5.0]
    assert (stream.opened, stream.closed) == (5, 5)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert watched(folder) == ("a+",)
    assert beats == [5]


def test_a_folder_that_cannot_be_written_does_not_end_it(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.touch()

    assert len(run(Stream(), folder, rounds=3)) == 3
    assert "delete the folder" in caplog.text


@pytest.mark.parametrize(
    ("known", "start", "wanted"),
    [
        ({}, {}, 10),  # a new folder, and no model yet
        ({}, {0: 15}, 15),
        ({}, {0: 5}, 10),  # retention was faster
        ({}, {0: 21}, 10),  # an offset of another stream
        ({("one", 0): 12}, {0: 15}, 12),
        ({("one", 0): 20}, {}, 20),
        ({("one", 0): 5}, {}, 10),
        ({("one", 0): 25}, {}, 10),
        ({("two", 0): 12}, {0: 15}, 10),
        ({("one", 1): 12}, {0: 15}, 10),  # a partition that was added
    ],
)
def test_where_to_go_on(known: dict[tuple[str, int], int], start: dict[int, int], wanted: int) -> None:
    assert follow.position("one", 0, (10, 20), known, start) == follow.Position(0, wanted, 20)


@given(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(-5, 10**9), st.booleans())
def test_the_next_offset_is_always_one_that_can_be_read(held: int, length: int, at: int, known: bool) -> None:
    offsets = {("one", 0): at} if known else {}

    here = follow.position("one", 0, (held, held + length), offsets, {0: at})

    assert held <= here.next <= here.stop <= here.end == held + length
