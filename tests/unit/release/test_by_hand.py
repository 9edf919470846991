from datetime import UTC, datetime

import pytest

from pipelines.errors import FleetError, ReleaseError
from pipelines.release import by_hand, steps, watch
from pipelines.release.entries import State
from pipelines.release.judge import Verdict
from pipelines.release.router import Split
from tests.arms import Arm
from tests.releases import (
    PLAN,
    STABLE,
    guarded,
    look,
    opened,
    promoted,
    steer,
    watched,
)


def test_a_person_may_promote_what_was_not_measured(world, alerts, instrument):
    release_id = watched(world, seconds=0)
    instrument.dead = True
    look(world, release_id, 90)
    steer(world, "approve")
    steps.promote(world, release_id, announce=alerts.append)
    row = world.ledger.get(release_id)
    assert (row.state, row.verdict) == (State.PROMOTED, "by hand")
    assert "approved by ada" in row.reason


def test_a_person_may_abort_what_was_not_measured(world, alerts, instrument):
    release_id = watched(world, seconds=0)
    instrument.dead = True
    look(world, release_id, 90)
    steer(world, "abort")
    steps.abort(world, release_id, announce=alerts.append)
    assert world.ledger.get(release_id).reason == "refused by ada: I saw enough"


def test_rollback_puts_any_version_back(world, alerts):
    release_id = watched(world)
    look(world, release_id, 60)
    steps.promote(world, release_id, announce=alerts.append)
    by_hand.rollback(world, 1, plan=PLAN, why="angry viewers", requested_by="ada", announce=alerts.append)
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}
    assert world.router.splits[-1] == Split(STABLE)
    assert world.ledger.stable() == 1
    assert "angry viewers" in alerts[-1].body


def test_rollback_without_a_reason_says_that_none_was_given(world, alerts):
    promoted(world, 1)
    by_hand.rollback(world, 3, plan=PLAN, why="", requested_by="ada", announce=alerts.append)
    assert "version 1 was serving. Reason given: none." in alerts[0].body
    assert world.ledger.latest(1)[0].reason == "rolled back from version 1: no reason given"


def test_rollback_breaks_off_the_release_under_way(world, alerts):
    release_id = watched(world, seconds=0)
    by_hand.rollback(world, 1, plan=PLAN, why="", requested_by="ada", announce=alerts.append)
    assert world.ledger.get(release_id).state is State.ABORTED
    assert "rolled back to version 1 by ada" in world.ledger.get(release_id).reason
    assert watch.look(world, release_id).final
    assert steps.outcome(world, release_id) == "abort"
    assert world.ledger.stable() == 1


def test_rollback_takes_back_a_promotion_that_nobody_carries_out_any_more(world, alerts):
    release_id = watched(world)
    look(world, release_id, 60)
    world.fleet.broken = {2}
    with pytest.raises(FleetError):
        steps.promote(world, release_id, announce=alerts.append)
    by_hand.rollback(world, 1, plan=PLAN, why="angry viewers", requested_by="ada", announce=alerts.append)
    assert world.ledger.get(release_id).state is State.REVERTED
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}
    assert [alert.key for alert in alerts] == [f"release-{release_id}-reverted"]
    steps.promote(world, release_id, announce=alerts.append)
    assert world.ledger.stable() == 1


def test_a_person_may_approve_in_the_middle_of_a_watch(world, alerts):
    release_id = watched(world, seconds=0)
    steer(world, "approve")
    assert look(world, release_id, 30).final
    assert steps.outcome(world, release_id) == "promote"
    steps.promote(world, release_id, announce=alerts.append)
    row = world.ledger.get(release_id)
    assert (row.state, row.verdict) == (State.PROMOTED, "by hand")
    assert row.reason == "approved by ada: I saw enough"


def test_a_person_may_abort_in_the_middle_of_a_watch(world, alerts):
    release_id = watched(world, seconds=0)
    steer(world, "abort")
    assert (look(world, release_id, 30).final, steps.outcome(world, release_id)) == (True, "abort")
    steps.abort(world, release_id, announce=alerts.append)
    assert world.ledger.get(release_id).reason == "refused by ada: I saw enough"


def test_a_person_may_extend_a_watch(world):
    release_id = watched(world)
    steer(world, "extend", seconds=40.0)
    assert not look(world, release_id, 60).final
    assert look(world, release_id, 100).verdict is Verdict.PASS


def test_who_did_what_when_and_why_is_kept(world):
    release_id = watched(world, seconds=0)
    before = datetime.now(UTC)
    steer(world, "extend", seconds=60.0)
    steer(world, "approve")
    first, second = world.ledger.interventions(release_id)
    assert (first.who, first.what, first.why, first.seconds) == ("ada", "extend", "I saw enough", 60.0)
    assert (second.what, second.seconds) == ("approve", 0.0)
    assert before <= first.at <= second.at <= datetime.now(UTC)


def test_a_request_of_a_person_is_carried_out_once_however_often_it_is_tried(world):
    release_id = watched(world, seconds=0)
    for _ in range(2):
        steer(world, "extend", seconds=60.0, request="manual__1")
    assert [each.seconds for each in world.ledger.interventions(release_id)] == [60.0]


def test_nothing_is_to_be_steered_when_no_release_is_under_way(world):
    with pytest.raises(ReleaseError, match="no release is under way"):
        steer(world, "abort")
    promoted(world, 1)
    with pytest.raises(ReleaseError, match="is promoted and cannot become aborting"):
        by_hand.intervene(world, 1, "abort", who="ada", why="")


def test_there_is_no_window_to_extend_before_viewers_come_or_after_the_question(world):
    promoted(world, 1)
    release_id = opened(world, 2)
    with pytest.raises(ReleaseError, match="is open, there is no window to extend"):
        steer(world, "extend", seconds=60.0)
    steps.start_canary(world, release_id)
    world.ledger.decide(release_id, State.ASKING, verdict="no traffic", reason="nobody came")
    with pytest.raises(ReleaseError, match="is asking, there is no window to extend"):
        steer(world, "extend", seconds=60.0)


def test_an_asked_question_may_be_answered_from_elsewhere(world, instrument):
    release_id = watched(world, seconds=0)
    instrument.dead = True
    look(world, release_id, 90)
    steer(world, "abort")
    assert steps.outcome(world, release_id) == "abort"


def test_a_person_may_extend_a_guard(world):
    release_id = guarded(world, now=Arm(2))
    steer(world, "extend", seconds=30.0)
    assert not look(world, release_id, 60).final
    assert look(world, release_id, 90).final


def test_a_person_may_end_a_guard_either_way(world, alerts):
    release_id = guarded(world, now=None)
    steer(world, "abort")
    assert look(world, release_id, 10).final
    assert steps.settle(world, release_id, announce=alerts.append) == "reverted"
    assert world.ledger.get(release_id).reverted_because == "refused by ada: I saw enough"


def test_a_person_may_be_content_before_the_guard_is(world, alerts):
    release_id = guarded(world, now=None)
    steer(world, "approve")
    assert world.ledger.get(release_id).state is State.PROMOTED
    assert look(world, release_id, 10).final
    assert steps.settle(world, release_id, announce=alerts.append) == "promoted"


def test_a_rollback_ends_a_guard(world, alerts):
    release_id = guarded(world, now=None)
    by_hand.rollback(world, 1, plan=PLAN, why="angry viewers", requested_by="ada", announce=alerts.append)
    row = world.ledger.get(release_id)
    assert (row.state, row.reverted_because) == (
        State.REVERTED,
        "rolled back to version 1 by ada: angry viewers",
    )
    assert (world.ledger.stable(), world.fleet.versions()) == (1, {"stable-1": 1, "stable-2": 1})
    assert steps.settle(world, release_id, announce=alerts.append) == "reverted"


def test_a_rollback_to_what_serves_already_is_no_release(world, alerts):
    promoted(world, 1)
    world.fleet.replicas.clear()
    by_hand.rollback(world, 1, plan=PLAN, why="", requested_by="ada", announce=alerts.append)
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}
    assert len(world.ledger.latest()) == 1
    assert alerts == []
