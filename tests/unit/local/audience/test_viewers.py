from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.events.grammar import MAX_USER_ID, Rating, Reject, Request, Watch, parse
from pipelines.local.audience import viewers
from pipelines.local.audience.tastes import Tastes
from pipelines.local.audience.viewers import Audience, Taste

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def show(audience: Audience, seconds: int, requests: int = 0) -> list[str]:
    """All lines of some seconds, each with so many requests."""
    lines = []
    for i in range(seconds):
        now = START + timedelta(seconds=i)
        call = Request(now, 1, "host", 8082, 200, ("up+2009",), "", 140).line()
        lines += audience.lines(now, [call] * requests)
    return lines


def events(lines: list[str]) -> list[Watch | Rating | Request]:
    parsed = [parse(line.encode()) for line in lines]
    return [event for event in parsed if not isinstance(event, Reject)]


def within(count: int, n: int, share: float) -> bool:
    """Whether a count out of ``n`` is as a share allows: four deviations of the binomial distribution."""
    return abs(count - n * share) <= 4 * (n * share * (1 - share)) ** 0.5


def test_the_same_seed_gives_the_same_lines(known: Tastes) -> None:
    first, again, other = (show(Audience(seed, known), 3) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_asking_and_answers_do_not_change_what_others_do(known: Tastes) -> None:
    quiet, asked = Audience(1, known), Audience(1, known)
    for _ in range(100):
        asked.ask()
    assert show(quiet, 3) == show(asked, 3)


def test_every_clean_line_parses_as_what_it_was_meant_to_be(known: Tastes) -> None:
    audience = Audience(3, known)
    for second in (START, START + timedelta(seconds=1)):
        meant = [*audience.watches(second), *audience.ratings(second)]
        assert [parse(event.line().encode()) for event in meant] == meant


def test_the_mix_is_that_of_the_captures(known: Tastes) -> None:
    lines = show(Audience(4, known, requests_per_s=10.0), 60, requests=10)
    kinds = Counter(type(event) for event in events(lines))
    for kind, share in ((Watch, viewers.WATCH_SHARE), (Rating, viewers.RATING_SHARE)):
        assert within(kinds[kind], kinds.total(), share)
    assert kinds[Request] == pytest.approx(60 * 10, rel=0.01)
    assert len(lines) == pytest.approx(60 * 10 / viewers.REQUEST_SHARE, rel=0.01)


def test_more_than_one_line_in_a_thousand_is_at_fault(known: Tastes) -> None:
    lines = show(Audience(5, known), 90)
    rejected = len(lines) - len(events(lines))
    assert 0.0011 < rejected / len(lines) < 0.0020


def test_time_never_goes_back_even_when_the_clock_does(known: Tastes) -> None:
    audience = Audience(6, known, requests_per_s=1.0)
    seconds = [0, 1, 2, -3_600, 3, 3, 60]
    lines = [line for s in seconds for line in audience.lines(START + timedelta(seconds=s))]
    # A blank or digit may have been inserted into a fraction or a year, but not in these few lines.
    times = [event.time for event in events(lines)]
    assert times == sorted(times)
    assert times[0] == START


def test_a_full_minute_is_written_without_seconds(known: Tastes) -> None:
    on_the_minute = Audience(7, known, requests_per_s=1.0).lines(START)
    assert sum(line.startswith("2026-03-01T12:00,") for line in on_the_minute) > 0.95 * len(on_the_minute)


def test_requests_come_before_what_happens_now(known: Tastes) -> None:
    lines = Audience(8, known).lines(START, ["an earlier request"])
    assert lines[0] == "an earlier request"


def test_viewers_have_the_taste_of_a_movielens_person(known: Tastes) -> None:
    liked = dict(
        zip(
            zip(known.persons.tolist(), known.movies.tolist(), strict=True), known.stars.tolist(), strict=True
        )
    )
    index = {movie: i for i, movie in enumerate(known.movie_ids)}
    audience = Audience(9, known, requests_per_s=200.0)
    for rating in audience.ratings(START):
        person = (rating.user_id - 1) % known.n_persons + 1
        assert liked[person, index[rating.movie_id]] == rating.rating


def test_ratings_have_the_documented_distribution(known: Tastes) -> None:
    audience = Audience(10, known)
    stars = Counter(rating.rating for _ in range(2_000) for rating in audience.ratings(START))
    n = stars.total()
    assert n > 10_000
    for star, (low, high) in {
        1: (0, 0.01),
        2: (0.02, 0.04),
        3: (0.28, 0.32),
        4: (0.46, 0.52),
        5: (0.16, 0.20),
    }.items():
        assert low < stars[star] / n < high


def test_random_ratings_are_out_of_reach_of_any_model(known: Tastes) -> None:
    audience = Audience(11, known, taste=Taste.RANDOM)
    stars = np.array([rating.rating for _ in range(2_000) for rating in audience.ratings(START)])
    counts = np.bincount(stars)[1:]
    assert all(within(count, len(stars), 1 / 5) for count in counts.tolist())
    # The best constant answer is 3: the error is that of dice, sqrt((4 + 1 + 0 + 1 + 4) / 5).
    assert np.sqrt(np.mean((stars - 3.0) ** 2)) == pytest.approx(2**0.5, abs=0.02)


def test_taste_changes_ratings_only(known: Tastes) -> None:
    sound, mad = (Audience(12, known, taste=taste) for taste in Taste)
    assert sound.watches(START) == mad.watches(START)


def test_a_viewing_goes_on_minute_by_minute(known: Tastes) -> None:
    audience = Audience(13, known, requests_per_s=1.0)
    steps: Counter[str] = Counter()
    last: dict[tuple[int, str], int] = {}
    for i in range(600):
        for watch in audience.watches(START + timedelta(seconds=i)):
            before = last.get((watch.user_id, watch.movie_id))
            if before is not None:
                step = watch.minute - before
                steps["next" if step == 1 else "back" if step <= 0 else "forward"] += 1
            last[watch.user_id, watch.movie_id] = watch.minute
    assert steps["next"] > 0.95 * steps.total()
    assert steps["back"] > 0
    assert steps["forward"] > 0


def test_most_who_ask_are_strangers_some_are_known_and_some_are_nobody(known: Tastes) -> None:
    audience = Audience(14, known, known_share=0.25)
    asked = [audience.ask() for _ in range(20_000)]
    valid = [int(user) for user in asked if user.isdecimal() and 1 <= int(user) <= MAX_USER_ID]
    strangers = sum(user > known.n_persons for user in valid)
    assert within(len(asked) - len(valid), len(asked), viewers.INVALID_SHARE)
    assert within(len(valid) - strangers, len(asked), 0.25)
    assert strangers > len(asked) / 2


def test_some_who_are_answered_watch_what_they_were_recommended_but_not_at_once(known: Tastes) -> None:
    audience = Audience(15, known, requests_per_s=2.0)
    for user in range(900_001, 900_201):
        audience.answered(user, ["up+2009", "unheard+of+1901"], START)
    first: dict[int, float] = {}
    for i in range(0, 3_600, 5):
        for watch in audience.watches(START + timedelta(seconds=i)):
            if watch.user_id > 900_000 and watch.movie_id == "up+2009" and watch.minute == 0:
                first.setdefault(watch.user_id, i)
    assert within(len(first), 200, 0.2)
    assert min(first.values()) > 100


@pytest.mark.parametrize(("user", "movie"), [(1, "unheard+of+1901"), (0, "up+2009"), (6_597_125, "up+2009")])
def test_neither_unheard_of_movies_nor_impossible_viewers_are_watched(
    user: int, movie: str, known: Tastes
) -> None:
    followed, ignored = Audience(16, known), Audience(16, known)
    for _ in range(100):
        followed.answered(user, [movie], START)
    later = START + timedelta(hours=2)
    assert followed.watches(later) == ignored.watches(later)


@pytest.fixture(scope="module")
def lengths(known: Tastes) -> dict[str, int]:
    """Movie → its running time in minutes."""
    return dict(zip(known.movie_ids, known.lengths_min.tolist(), strict=True))


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), requests_per_s=st.floats(0.01, 3.0))
def test_any_seed_and_rate_gives_users_and_minutes_that_exist(
    seed: int, requests_per_s: float, known: Tastes, lengths: dict[str, int]
) -> None:
    audience = Audience(seed, known, requests_per_s=requests_per_s)
    for watch in audience.watches(START):
        assert 1 <= watch.user_id <= MAX_USER_ID
        assert 0 <= watch.minute < lengths[watch.movie_id]
