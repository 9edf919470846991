from datetime import UTC, datetime, timedelta

import pytest

from pipelines.audit.decisions import behind, in_force, phase_at
from pipelines.release.entries import Release, State

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def release(plan):
    """Makes a release that was opened, watched and decided at these hours; None: never."""

    def make(number, version, state, opened, watched=None, decided=None, served=None, ended=None):
        def at(hour):
            return None if hour is None else NOON.replace(hour=hour)

        return Release(
            release_id=number,
            version=version,
            previous=None,
            state=state,
            plan=plan,
            requested_by="test",
            run_url=None,
            opened_at=NOON.replace(hour=opened),
            watch_from=at(watched),
            decided_at=at(decided),
            verdict=None,
            reason=None,
            served_from=at(served),
            reverted_because="slow" if state in (State.REVERTING, State.REVERTED) else None,
            ended_at=at(decided if ended is None else ended),
        )

    return make


@pytest.fixture
def releases(release):
    """v1 from 1 o'clock; v2 watched from 4, promoted at 8; v3 from 14, aborted at 16; v1 back at 18."""
    return [
        release(4, 1, State.PROMOTED, opened=18, decided=18),
        release(3, 3, State.ABORTED, opened=14, watched=14, decided=16),
        release(2, 2, State.PROMOTED, opened=4, watched=4, decided=8),
        release(1, 1, State.PROMOTED, opened=1, decided=1),
    ]


@pytest.mark.parametrize(
    ("hour", "stable", "candidate"),
    [
        (0, None, None),
        (2, 1, None),
        (5, 1, 2),
        (8, 2, None),
        (12, 2, None),
        (15, 2, 3),
        (17, 2, None),
        (19, 4, None),
    ],
)
def test_what_was_in_force_at_an_hour_does_not_depend_on_what_became_of_it(releases, hour, stable, candidate):
    wanted = in_force(releases, NOON.replace(hour=hour))
    assert (wanted.stable and wanted.stable.release_id) == stable
    assert (wanted.candidate and wanted.candidate.release_id) == candidate


@pytest.mark.parametrize(
    ("version", "arm", "hour", "number"),
    [
        (1, "stable", 2, 1),
        (1, "stable", 19, 4),
        (2, "canary", 5, 2),
        (2, "stable", 12, 2),
        # A replica that is moved a moment before the decision is seen to have been written down.
        (2, "stable", 7, 2),
        (3, "canary", 15, 3),
        (3, "canary", 13, None),
        (9, "stable", 12, None),
    ],
)
def test_an_answer_rests_on_the_release_that_gave_its_version_to_its_arm(
    releases, version, arm, hour, number
):
    found = behind(releases, version, arm, NOON.replace(hour=hour))
    assert (found and found.release_id) == number


def test_a_rollback_is_what_a_version_that_is_back_rests_on(releases):
    assert behind(releases, 1, "stable", NOON.replace(hour=17)).release_id == 1
    assert behind(releases, 1, "stable", NOON.replace(hour=18)).release_id == 4


@pytest.mark.parametrize(("hour", "phase"), [(14, "watching"), (16, "aborted")])
def test_the_phase_is_of_that_moment(releases, hour, phase):
    assert phase_at(releases[1], NOON.replace(hour=hour)) == phase


@pytest.mark.parametrize(
    ("hour", "stable", "phase"), [(8, 2, "promoting"), (9, 2, "guarding"), (11, 1, "reverted")]
)
def test_a_version_that_its_guard_took_back_served_until_then(release, hour, stable, phase):
    taken_back = release(2, 2, State.REVERTED, opened=4, watched=4, decided=8, served=9, ended=11)
    before = release(1, 1, State.PROMOTED, opened=1, decided=1)
    at = NOON.replace(hour=hour)
    assert in_force([taken_back, before], at).stable.version == stable
    assert phase_at(taken_back, at) == phase


def test_a_release_begins_open(release):
    waiting = release(1, 1, State.OPEN, opened=1)
    assert phase_at(waiting, waiting.opened_at + timedelta(seconds=1)) == "open"
