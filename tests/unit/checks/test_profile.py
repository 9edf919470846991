import json
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.checks.profile import TOP_MOVIES, Profile, describe
from pipelines.data import batches, quarantine
from pipelines.data.batches import list_batches
from pipelines.data.collect import collect
from pipelines.data.quarantine import Quarantined
from pipelines.errors import DataError
from pipelines.events.grammar import Rating, Watch
from pipelines.events.sources import FileSource

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def watch(user, movie, minute, day=0):
    return Watch(NOON + timedelta(days=day, minutes=minute), user, f"{movie}+2001", minute).line()


def rate(user, movie, stars, day=0):
    return Rating(NOON + timedelta(days=day), user, f"{movie}+2001", stars).line()


@pytest.fixture
def folder(tmp_path):
    """Two batches of two days."""
    first = [*(watch(1, "a", minute) for minute in range(3)), rate(1, "a", 5), "nonsense", watch(2, "b", 0)]
    second = [watch(1, "b", 7, day=1), rate(3, "c", 2, day=1), rate(3, "d", 2, day=1), "", "other nonsense"]
    log = tmp_path / "movielog.log"
    for lines in (first, second):
        with log.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        collect(FileSource(log), tmp_path / "batches")
    return tmp_path / "batches"


def names(folder):
    return [batch.name for batch in list_batches(folder)]


def test_profile_says_what_the_batches_held(folder):
    assert describe(folder, names(folder)) == Profile(
        lines=6 + 5,
        rejects={"bad-time": 2, "empty": 1},
        stars=[0, 2, 0, 0, 1],
        minutes={"a+2001": 3, "b+2001": 2},
        other_minutes=0,
        effective_viewings=round((3 + 1 + 1) ** 2 / (3**2 + 1 + 1), 3),
        visits=1 + 1 + 1 + 1,  # user 1 on two days, 2 and 3 on one each
        visits_once=2,
        viewers=1 + 2 + 1 + 1,  # of a, b, c and d
        viewers_once=3,
    )


def test_only_the_named_batches_are_described(folder):
    assert describe(folder, names(folder)[:1]).lines == 6


def test_what_is_in_quarantine_is_not_described(folder):
    (first, _) = list_batches(folder)
    quarantine.add(folder, Quarantined(first.topic, 1, 0, first.first, first.last, "robots", "ann", NOON))
    profile = describe(folder, names(folder))
    assert (profile.lines, profile.stars, profile.minutes) == (5, [0, 2, 0, 0, 0], {"b+2001": 1})


def test_only_the_movies_watched_most_have_a_figure_of_their_own(tmp_path):
    log = tmp_path / "movielog.log"
    watched = [
        watch(1, f"film{n:03}", minute) for n in range(TOP_MOVIES + 5) for minute in range(1 + (n < 2))
    ]
    log.write_text("".join(f"{line}\n" for line in watched))
    collect(FileSource(log), tmp_path / "batches")
    profile = describe(tmp_path / "batches", names(tmp_path / "batches"))
    assert list(profile.minutes) == [f"film{n:03}+2001" for n in range(TOP_MOVIES)]
    assert list(profile.minutes.values()) == [2, 2] + [1] * (TOP_MOVIES - 2)
    assert profile.other_minutes == 5


def test_profile_survives_the_way_through_model_json(folder):
    profile = describe(folder, names(folder))
    assert Profile.of_json(json.loads(json.dumps(profile.as_json()))) == profile


@pytest.mark.parametrize("kept", [{}, {"lines": 3}])
def test_profile_of_other_code_is_refused(kept):
    with pytest.raises(DataError, match="the next training leaves one"):
        Profile.of_json(kept)


def test_batch_that_is_missing_is_an_error(folder):
    with pytest.raises(DataError, match="not in"):
        describe(folder, [batches.Batch("movielog", 1, 0, 90, 99, folder).name])
