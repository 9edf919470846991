from dataclasses import replace

import pytest

from pipelines.release import steps, watch
from pipelines.release.entries import State
from pipelines.release.judge import Verdict
from tests.arms import Arm
from tests.releases import (
    PLAN,
    guarded,
    look,
    steer,
    watched,
)


@pytest.mark.parametrize(
    ("dead", "seconds", "verdict"), [(True, 100, "instrument broken"), (False, 0, "no traffic")]
)
def test_unmeasured_candidate_is_held_then_a_person_is_asked(
    world, alerts, instrument, dead, seconds, verdict
):
    release_id = watched(world, seconds=seconds)
    instrument.dead = dead
    assert not look(world, release_id, 60).final
    held = look(world, release_id, 60 + 30)
    assert (held.verdict, held.final) == (verdict, True)
    assert steps.outcome(world, release_id) == "ask"
    for _ in range(2):
        steps.ask(world, release_id, announce=alerts.append)
    assert [alert.title for alert in alerts] == ["Marquee: version 2 needs your decision"]
    assert world.fleet.versions()["canary"] == 2


@pytest.mark.parametrize(("on_deadline", "state"), [("abort", "aborting"), ("promote", "promoting")])
def test_the_plan_may_say_what_becomes_of_an_unmeasured_candidate(world, instrument, on_deadline, state):
    release_id = watched(world, plan=replace(PLAN, on_deadline=on_deadline))
    instrument.dead = True
    look(world, release_id, 90)
    row = world.ledger.get(release_id)
    assert (row.state, row.verdict) == (state, "instrument broken")
    assert row.reason.startswith(f"instrument broken at the deadline, and the plan says {on_deadline}: ")


def test_people_hear_once_of_an_instrument_that_stays_broken(world, alerts, instrument):
    release_id = watched(world, plan=replace(PLAN, window_s=3_600.0))
    began = world.ledger.get(release_id).watch_from
    look(world, release_id, 30, announce=alerts.append)
    instrument.dead = True
    for after_s in (60, 240, 400, 500):
        look(world, release_id, after_s, announce=alerts.append)
    (alert,) = alerts
    assert alert.title == "Marquee: version 2 cannot be judged, an instrument is broken"
    assert f"since {began:%Y-%m-%d %H:%M}" in alert.body


def test_prometheus_down_for_a_while_does_not_change_the_verdict(world, instrument):
    release_id = watched(world)
    instrument.dead = True
    assert not look(world, release_id, 40).final
    instrument.dead = False
    assert look(world, release_id, 60).verdict is Verdict.PASS


def test_every_look_is_a_row(world):
    release_id = watched(world)
    for after_s in (15, 30, 60):
        look(world, release_id, after_s)
    assert [row.verdict for row in world.ledger.looks(release_id)] == ["pass", "undecided", "undecided"]


def test_decided_release_is_not_judged_again(world, instrument):
    release_id = watched(world)
    assert look(world, release_id, 60).verdict is Verdict.PASS
    instrument.dead = True
    assert watch.look(world, release_id).verdict is Verdict.PASS
    assert len(world.ledger.looks(release_id)) == 1


def test_when_two_look_at_once_the_first_verdict_stands(world, monkeypatch):
    release_id = watched(world)
    judged = watch.judge

    def somebody_is_faster(plan, measurement):
        world.ledger.decide(release_id, State.ABORTING, verdict="fail", reason="slow")
        return judged(plan, measurement)

    monkeypatch.setattr(watch, "judge", somebody_is_faster)
    second = look(world, release_id, 60)
    assert (second.verdict, second.reason, second.final) == (Verdict.FAIL, "slow", True)
    assert world.ledger.get(release_id).state is State.ABORTING


def test_the_figures_before_do_not_reach_beyond_the_guards_own_length(world):
    release_id = guarded(world, now=Arm(2))
    look(world, release_id, 60)
    measured = world.ledger.looks(release_id, limit=1)[0].measurement
    assert measured["stable"]["answers"] == 60 * 10


def test_a_guard_that_finds_a_fault_gives_way_to_a_person_who_was_faster(world, monkeypatch):
    release_id = guarded(world, now=Arm(2, failed=0.3))
    judged = watch.judge

    def somebody_is_faster(plan, measurement):
        steer(world, "approve")
        return judged(plan, measurement)

    monkeypatch.setattr(watch, "judge", somebody_is_faster)
    assert look(world, release_id, 50).verdict is Verdict.PASS
    assert world.ledger.get(release_id).state is State.PROMOTED
    assert world.ledger.looks(release_id, limit=1)[0].verdict == "fail"
