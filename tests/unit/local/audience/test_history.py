import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.errors import StackError
from pipelines.events.grammar import Rating, Reject, Request, Watch, parse
from pipelines.local.audience import history
from pipelines.local.audience.sinks import FileSink
from pipelines.local.audience.tastes import Tastes

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def lines(known: Tastes) -> list[str]:
    return list(history.history_lines(known, 1, 30, NOW))


@pytest.fixture(scope="module")
def events(lines: list[str]) -> list[Watch | Rating | Request | Reject]:
    return [parse(line.encode()) for line in lines]


def test_every_rating_of_the_chosen_people_is_there(
    known: Tastes, events: list[Watch | Rating | Request | Reject]
) -> None:
    meant = {
        (person, known.movie_ids[movie], stars)
        for person, movie, stars in zip(known.persons, known.movies, known.stars, strict=True)
        if person <= 30
    }
    ratings = {(event.user_id, event.movie_id, event.rating) for event in events if isinstance(event, Rating)}
    assert len(meant - ratings) < 0.01 * len(meant)
    # A fault may turn one id into another that parses.
    assert len(ratings - meant) < 0.001 * len(meant)


def test_each_rating_follows_a_short_viewing(events: list[Watch | Rating | Request | Reject]) -> None:
    kinds = Counter(type(event) for event in events)
    # One to four minutes, each as likely: 2.5 in the mean.
    assert kinds[Watch] / kinds[Rating] == pytest.approx(2.5, rel=0.02)
    watched = {(event.user_id, event.movie_id) for event in events if isinstance(event, Watch)}
    rated = [(event.user_id, event.movie_id) for event in events if isinstance(event, Rating)]
    assert sum(pair in watched for pair in rated) > 0.99 * len(rated)


def test_it_holds_requests_and_faults_as_the_stream_does(
    events: list[Watch | Rating | Request | Reject],
) -> None:
    kinds = Counter(type(event) for event in events)
    assert kinds[Request] == pytest.approx(0.0085 * len(events), rel=0.05)
    assert 0.0007 < kinds[Reject] / len(events) < 0.0025
    statuses = Counter(event.status for event in events if isinstance(event, Request))
    assert set(statuses) == {0, 200} or set(statuses) == {200}


def test_it_is_in_order_and_covers_the_last_two_days(
    events: list[Watch | Rating | Request | Reject],
) -> None:
    seconds = [event.time.replace(microsecond=0) for event in events if not isinstance(event, Reject)]
    assert seconds == sorted(seconds)
    assert NOW - timedelta(days=2, minutes=1) < seconds[0] < NOW - timedelta(hours=47)
    assert NOW - timedelta(hours=1) < seconds[-1] < NOW


def test_people_rate_in_the_order_of_movielens(
    known: Tastes, events: list[Watch | Rating | Request | Reject]
) -> None:
    rated_at = {
        known.movie_ids[movie]: at
        for person, movie, at in zip(known.persons, known.movies, known.rated_at, strict=True)
        if person == 1
    }
    mine = [e.movie_id for e in events if isinstance(e, Rating) and e.user_id == 1 and e.movie_id in rated_at]
    assert [rated_at[movie] for movie in mine] == sorted(rated_at[movie] for movie in mine)


def test_the_file_is_the_same_for_the_same_seed_and_time(
    tmp_path: Path, lines: list[str], known: Tastes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history.tastes, "load", lambda _: known)
    path = tmp_path / "deep" / "archive.log"
    count = history.history(path, 1, 30, now=NOW)
    assert path.read_text() == "".join(f"{line}\n" for line in lines)
    assert count == len(lines)
    assert list(path.parent.iterdir()) == [path]


def test_another_seed_gives_another_history(known: Tastes, lines: list[str]) -> None:
    assert list(history.history_lines(known, 2, 30, NOW)) != lines


class Away(FileSink):
    """Is away for the first two calls."""

    calls = 0

    def is_empty(self) -> bool:
        self.calls += 1
        if self.calls < 3:
            raise StackError("the sink is away")
        return super().is_empty()


def test_an_empty_stream_begins_with_the_archive_and_one_that_was_begun_is_left_alone(
    tmp_path, known, monkeypatch
):
    monkeypatch.setattr(history.tastes, "load", lambda _: known)
    monkeypatch.setattr(history, "_RETRY_S", 0.001)
    monkeypatch.setattr(history, "_USERS", 5)
    sink = Away(tmp_path / "events.log")
    written = history.play_history(sink, 1, threading.Event())
    told = (tmp_path / "events.log").read_bytes().splitlines()
    assert written == len(told) > 1_000
    assert history.play_history(sink, 1, threading.Event()) == 0


def test_an_archive_that_is_stopped_ends(tmp_path):
    stop = threading.Event()
    stop.set()
    assert history.play_history(Away(tmp_path / "events.log"), 1, stop) == 0
