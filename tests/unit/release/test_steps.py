from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.errors import FleetError, NothingNew, Refused, ReleaseError
from pipelines.release import steps
from pipelines.release.judge import Verdict
from pipelines.release.ledger import State
from pipelines.release.plan import Plan
from pipelines.release.router import Split
from pipelines.settings import read
from tests.arms import Arm, serve
from tests.fakes import Killed

# What is to be seen is coarse, so that a minute of viewers is enough.
PLAN = Plan.of(
    read(
        _env_file=None,
        canary_window_s=60,
        canary_extension_s=30,
        see_error_share=0.5,
        see_slow_share=0.5,
        see_below_more=0.6,
        guard_s=0,
    )
)
GUARDED = replace(PLAN, guard_s=60.0)
STABLE = ("stable-1:80", "stable-2:80")
CANARY = "canary:80"
LONG_S = 100


@pytest.fixture(autouse=True)
def sound_candidates(monkeypatch):
    """What a preflight finds is tried in test_preflight.py."""
    monkeypatch.setattr(steps, "try_out", lambda world, release: ("", "answers well"))


@pytest.fixture
def alerts():
    return []


def opened(world, version=None, plan=PLAN):
    return steps.open_release(world, version=version, plan=plan, requested_by="test").release_id


def first_version(world, alerts):
    release_id = opened(world, 1)
    steps.start_canary(world, release_id)
    steps.promote(world, release_id, announce=alerts.append)
    alerts.clear()


def watched(world, alerts, version=2, *, plan=PLAN, canary=None, stable=None, seconds=LONG_S):
    """Open a release and let viewers come for so many seconds from its first moment on."""
    first_version(world, alerts)
    release_id = opened(world, version, plan)
    steps.start_canary(world, release_id)
    since = world.ledger.get(release_id).watch_from
    if seconds:
        serve(
            world.records,
            since=since,
            seconds=seconds,
            canary=canary or Arm(version),
            stable=stable or Arm(1),
        )
    return release_id


def look(world, release_id, after_s, **more):
    """Look so many seconds after the window began."""
    release = world.ledger.get(release_id)
    return steps.look(
        world,
        release_id,
        now=(release.served_from or release.watch_from) + timedelta(seconds=after_s),
        **more,
    )


def decide(world, release_id, what, alerts):
    """Have a person decide, and carry it out."""
    steps.intervene(world, release_id, what, who="ada", why="I saw enough")
    carry_out = steps.promote if what == "approve" else steps.abort
    carry_out(world, release_id, announce=alerts.append)


def guarded(world, alerts, *, now):
    """Promote version 2 and let viewers meet it, as ``now`` says it answers."""
    release_id = watched(world, alerts, plan=GUARDED, seconds=0)
    decide(world, release_id, "approve", alerts)
    since = world.ledger.get(release_id).served_from
    serve(world.records, since=since - timedelta(seconds=100), seconds=100, canary=None, stable=Arm(1))
    if now:
        serve(world.records, since=since, seconds=60, canary=None, stable=now)
    return release_id


def test_newest_version_is_released_unless_one_is_named(world):
    assert world.ledger.get(opened(world)).version == 3


def test_opening_names_what_cannot_be_released(world, alerts):
    with pytest.raises(ReleaseError, match="version 9 is not in the registry; it holds versions 1 to 3"):
        opened(world, 9)
    first_version(world, alerts)
    with pytest.raises(ReleaseError, match="serves already"):
        opened(world, 1)
    world.registry.known = []
    with pytest.raises(ReleaseError, match="no version yet"):
        opened(world)


def test_first_version_serves_everybody_without_a_canary(world, alerts):
    first_version(world, alerts)
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}
    assert world.router.splits[-1] == Split(STABLE)
    assert world.ledger.stable() == 1
    assert world.registry.notes == {1: "promoted"}


def test_canary_gets_its_share_of_the_users(world, alerts):
    watched(world, alerts)
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1, "canary": 2}
    assert world.router.splits[-1] == Split(STABLE, CANARY, 20)


def test_starting_twice_neither_blinks_nor_moves_the_window(world, alerts):
    release_id = watched(world, alerts)
    before = world.ledger.get(release_id).watch_from, len(world.fleet.deployed)
    world.router.splits.clear()
    steps.start_canary(world, release_id)
    assert (world.ledger.get(release_id).watch_from, len(world.fleet.deployed)) == before
    assert world.router.splits == [Split(STABLE, CANARY, 20)]


def test_fast_candidate_is_promoted_one_replica_at_a_time(world, alerts):
    release_id = watched(world, alerts)
    early = look(world, release_id, 30)
    assert (early.verdict, early.final) == (Verdict.UNDECIDED, False)
    assert look(world, release_id, 60).verdict is Verdict.PASS
    assert steps.outcome(world, release_id) == "promote"
    steps.promote(world, release_id, announce=alerts.append)
    assert world.fleet.versions() == {"stable-1": 2, "stable-2": 2, "canary": 2}
    assert world.fleet.deployed[-2:] == [("stable-1", 2), ("stable-2", 2)]
    assert world.router.splits[-1] == Split(STABLE, CANARY, 0)
    assert world.registry.notes[2] == "promoted"
    assert [alert.title for alert in alerts] == ["Marquee: version 2 promoted"]


def test_slow_candidate_is_aborted_and_stable_keeps_serving(world, alerts):
    release_id = watched(world, alerts, canary=Arm(2, mean_ms=700.0), seconds=40)
    assert look(world, release_id, 60).verdict is Verdict.FAIL
    assert steps.outcome(world, release_id) == "abort"
    steps.abort(world, release_id, announce=alerts.append)
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}
    assert world.router.splits[-1] == Split(STABLE)
    assert world.registry.notes[2].startswith("aborted: mean response time 700.0 ms")
    assert "700.0 ms" in alerts[0].body
    assert "500 ms" in alerts[0].body
    assert "Still serving: version 1" in alerts[0].body


@pytest.mark.parametrize(
    ("dead", "seconds", "verdict"), [(True, LONG_S, "instrument broken"), (False, 0, "no traffic")]
)
def test_unmeasured_candidate_is_held_then_a_person_is_asked(
    world, alerts, instrument, dead, seconds, verdict
):
    release_id = watched(world, alerts, seconds=seconds)
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
def test_the_plan_may_say_what_becomes_of_an_unmeasured_candidate(
    world, alerts, instrument, on_deadline, state
):
    release_id = watched(world, alerts, plan=replace(PLAN, on_deadline=on_deadline))
    instrument.dead = True
    look(world, release_id, 90)
    row = world.ledger.get(release_id)
    assert (row.state, row.verdict) == (state, "instrument broken")
    assert row.reason.startswith(f"instrument broken at the deadline, and the plan says {on_deadline}: ")


def test_people_hear_once_of_an_instrument_that_stays_broken(world, alerts, instrument):
    release_id = watched(world, alerts, plan=replace(PLAN, window_s=3_600.0))
    began = world.ledger.get(release_id).watch_from
    look(world, release_id, 30, announce=alerts.append)
    instrument.dead = True
    for after_s in (60, 240, 400, 500):
        look(world, release_id, after_s, announce=alerts.append)
    (alert,) = alerts
    assert alert.title == "Marquee: version 2 cannot be judged, an instrument is broken"
    assert f"since {began:%Y-%m-%d %H:%M}" in alert.body


def test_a_person_may_promote_what_was_not_measured(world, alerts, instrument):
    release_id = watched(world, alerts)
    instrument.dead = True
    look(world, release_id, 90)
    decide(world, release_id, "approve", alerts)
    row = world.ledger.get(release_id)
    assert (row.state, row.verdict) == (State.PROMOTED, "by hand")
    assert "approved by ada" in row.reason


def test_nothing_is_promoted_that_nobody_has_decided_to_promote(world, alerts):
    release_id = watched(world, alerts)
    with pytest.raises(ReleaseError, match="is watching: nobody has decided to promote it"):
        steps.promote(world, release_id, announce=alerts.append)
    assert (world.ledger.stable(), alerts) == (1, [])


def test_a_person_may_abort_what_was_not_measured(world, alerts, instrument):
    release_id = watched(world, alerts)
    instrument.dead = True
    look(world, release_id, 90)
    decide(world, release_id, "abort", alerts)
    assert world.ledger.get(release_id).reason == "refused by ada: I saw enough"


def test_prometheus_down_for_a_while_does_not_change_the_verdict(world, alerts, instrument):
    release_id = watched(world, alerts)
    instrument.dead = True
    assert not look(world, release_id, 40).final
    instrument.dead = False
    assert look(world, release_id, 60).verdict is Verdict.PASS


def test_every_look_is_a_row(world, alerts):
    release_id = watched(world, alerts)
    for after_s in (15, 30, 60):
        look(world, release_id, after_s)
    assert [row.verdict for row in world.ledger.looks(release_id)] == ["pass", "undecided", "undecided"]


def test_decided_release_is_not_judged_again(world, alerts, instrument):
    release_id = watched(world, alerts)
    assert look(world, release_id, 60).verdict is Verdict.PASS
    instrument.dead = True
    assert steps.look(world, release_id).verdict is Verdict.PASS
    assert len(world.ledger.looks(release_id)) == 1


def test_when_two_look_at_once_the_first_verdict_stands(world, alerts, monkeypatch):
    release_id = watched(world, alerts)
    judged = steps.judge

    def somebody_is_faster(plan, measurement):
        world.ledger.decide(release_id, State.ABORTING, verdict="fail", reason="slow")
        return judged(plan, measurement)

    monkeypatch.setattr(steps, "judge", somebody_is_faster)
    second = look(world, release_id, 60)
    assert (second.verdict, second.reason, second.final) == (Verdict.FAIL, "slow", True)
    assert world.ledger.get(release_id).state is State.ABORTING


def test_broken_candidate_is_refused_before_any_viewer_meets_it(world, alerts, monkeypatch):
    first_version(world, alerts)
    trouble = "user '7' gets 3 distinct movies, 20 were wanted"
    monkeypatch.setattr(steps, "try_out", lambda world, release: (trouble, ""))
    release_id = opened(world, 2)
    with pytest.raises(Refused, match="3 distinct movies"):
        steps.preflight(world, release_id)
    assert steps.outcome(world, release_id) == "abort"
    steps.abort(world, release_id, announce=alerts.append)
    assert world.ledger.get(release_id).verdict == "preflight failed"
    assert "canary" not in world.fleet.versions()


def test_candidate_that_cannot_start_is_aborted(world, alerts):
    first_version(world, alerts)
    world.fleet.broken = {2}
    release_id = opened(world, 2)
    with pytest.raises(FleetError):
        steps.start_canary(world, release_id)
    assert steps.outcome(world, release_id) == "abort"
    steps.abort(world, release_id, announce=alerts.append)
    assert world.ledger.get(release_id).verdict == "not measured"
    assert world.router.splits[-1] == Split(STABLE)


@pytest.mark.parametrize("kill_after", [0, 1])
def test_promotion_killed_between_replicas_is_finished_by_the_next_run(world, alerts, kill_after):
    release_id = watched(world, alerts)
    look(world, release_id, 60)
    world.fleet.kill_after = len(world.fleet.deployed) + kill_after
    with pytest.raises(Killed):
        steps.promote(world, release_id, announce=alerts.append)
    assert world.ledger.get(release_id).state is State.PROMOTING
    world.fleet.kill_after = None
    steps.promote(world, release_id, announce=alerts.append)
    assert world.fleet.versions() == {"stable-1": 2, "stable-2": 2, "canary": 2}
    assert len(alerts) == 1


def test_promoting_and_aborting_twice_changes_nothing(world, alerts):
    release_id = watched(world, alerts)
    look(world, release_id, 60)
    for _ in range(2):
        steps.promote(world, release_id, announce=alerts.append)
    assert len(alerts) == 1
    with pytest.raises(ReleaseError):
        steps.abort(world, release_id, announce=alerts.append)
    assert world.ledger.stable() == 2


def test_extra_replica_leaves_the_split_before_it_gets_the_next_candidate(world, alerts):
    release_id = watched(world, alerts)
    look(world, release_id, 60)
    steps.promote(world, release_id, announce=alerts.append)
    world.router.splits.clear()
    steps.start_canary(world, opened(world, 3))
    assert world.router.splits == [Split(STABLE), Split(STABLE, CANARY, 20)]


def test_rollback_puts_any_version_back(world, alerts):
    release_id = watched(world, alerts)
    look(world, release_id, 60)
    steps.promote(world, release_id, announce=alerts.append)
    steps.rollback(world, 1, plan=PLAN, why="angry viewers", requested_by="ada", announce=alerts.append)
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}
    assert world.router.splits[-1] == Split(STABLE)
    assert world.ledger.stable() == 1
    assert "angry viewers" in alerts[-1].body


def test_rollback_breaks_off_the_release_under_way(world, alerts):
    release_id = watched(world, alerts)
    steps.rollback(world, 1, plan=PLAN, why="", requested_by="ada", announce=alerts.append)
    assert world.ledger.get(release_id).state is State.ABORTED
    assert "rolled back to version 1 by ada" in world.ledger.get(release_id).reason
    assert steps.look(world, release_id).final
    assert steps.outcome(world, release_id) == "abort"
    assert world.ledger.stable() == 1


def test_rollback_takes_back_a_promotion_that_nobody_carries_out_any_more(world, alerts):
    release_id = watched(world, alerts)
    look(world, release_id, 60)
    world.fleet.broken = {2}
    with pytest.raises(FleetError):
        steps.promote(world, release_id, announce=alerts.append)
    steps.rollback(world, 1, plan=PLAN, why="angry viewers", requested_by="ada", announce=alerts.append)
    assert world.ledger.get(release_id).state is State.REVERTED
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}
    assert [alert.key for alert in alerts] == [f"release-{release_id}-reverted"]
    steps.promote(world, release_id, announce=alerts.append)
    assert world.ledger.stable() == 1


def test_world_is_restored_in_the_middle_of_a_watch(world, alerts):
    release_id = watched(world, alerts)
    window = world.ledger.get(release_id).watch_from
    world.fleet.replicas.clear()
    steps.restore(world)
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1, "canary": 2}
    assert world.router.splits[-1] == Split(STABLE, CANARY, 20)
    assert world.ledger.get(release_id).watch_from == window


def test_nothing_is_restored_where_nothing_served(world):
    steps.restore(world)
    assert world.fleet.versions() == {}


# --- what is released -------------------------------------------------------------------------------------


def automatic(world, run="asset"):
    return steps.open_release(world, version=None, plan=PLAN, requested_by=run, automatic=True)


def test_of_several_versions_that_wait_the_newest_is_released(world, alerts):
    first_version(world, alerts)
    world.registry.known = [1, 2, 3, 4]
    assert automatic(world).version == 4
    states = {release.version: str(release.state) for release in world.ledger.latest()}
    assert states == {1: "promoted", 2: "superseded", 3: "superseded", 4: "open"}
    assert world.ledger.latest()[1].reason == "version 4 is newer and was waiting, too"


def test_the_runs_of_superseded_versions_have_nothing_left_to_do(world, alerts):
    first_version(world, alerts)
    release_id = automatic(world).release_id
    decide(world, release_id, "abort", alerts)
    with pytest.raises(NothingNew, match="version 3, the newest, had its release already"):
        automatic(world, "the next run")


def test_a_run_that_is_tried_again_finds_its_own_release(world, alerts):
    first_version(world, alerts)
    release = automatic(world)
    world.registry.known.append(4)
    assert automatic(world) == release
    with pytest.raises(ReleaseError, match="version 4 has to wait"):
        automatic(world, "another run")


def test_a_version_that_was_passed_over_may_be_released_by_hand(world, alerts):
    first_version(world, alerts)
    decide(world, automatic(world).release_id, "abort", alerts)
    assert world.ledger.get(opened(world, 2)).version == 2


# --- what persons do --------------------------------------------------------------------------------------


def steer(world, what, **more):
    return steps.intervene(world, None, what, who="ada", why="I saw enough", **more)


def test_a_person_may_approve_in_the_middle_of_a_watch(world, alerts):
    release_id = watched(world, alerts)
    steer(world, "approve")
    assert look(world, release_id, 30).final
    assert steps.outcome(world, release_id) == "promote"
    steps.promote(world, release_id, announce=alerts.append)
    row = world.ledger.get(release_id)
    assert (row.state, row.verdict) == (State.PROMOTED, "by hand")
    assert row.reason == "approved by ada: I saw enough"


def test_a_person_may_abort_in_the_middle_of_a_watch(world, alerts):
    release_id = watched(world, alerts)
    steer(world, "abort")
    assert (look(world, release_id, 30).final, steps.outcome(world, release_id)) == (True, "abort")
    steps.abort(world, release_id, announce=alerts.append)
    assert world.ledger.get(release_id).reason == "refused by ada: I saw enough"


def test_a_person_may_extend_a_watch(world, alerts):
    release_id = watched(world, alerts)
    steer(world, "extend", seconds=40.0)
    assert not look(world, release_id, 60).final
    assert look(world, release_id, 100).verdict is Verdict.PASS


def test_who_did_what_when_and_why_is_kept(world, alerts):
    release_id = watched(world, alerts)
    before = datetime.now(UTC)
    steer(world, "extend", seconds=60.0)
    steer(world, "approve")
    first, second = world.ledger.interventions(release_id)
    assert (first.who, first.what, first.why, first.seconds) == ("ada", "extend", "I saw enough", 60.0)
    assert (second.what, second.seconds) == ("approve", 0.0)
    assert before <= first.at <= second.at <= datetime.now(UTC)


def test_a_request_of_a_person_is_carried_out_once_however_often_it_is_tried(world, alerts):
    release_id = watched(world, alerts)
    for _ in range(2):
        steer(world, "extend", seconds=60.0, request="manual__1")
    assert [each.seconds for each in world.ledger.interventions(release_id)] == [60.0]


def test_nothing_is_to_be_steered_when_no_release_is_under_way(world, alerts):
    with pytest.raises(ReleaseError, match="no release is under way"):
        steer(world, "abort")
    first_version(world, alerts)
    with pytest.raises(ReleaseError, match="is promoted and cannot become aborting"):
        steps.intervene(world, 1, "abort", who="ada", why="")


def test_there_is_no_window_to_extend_before_viewers_come_or_after_the_question(world, alerts, instrument):
    first_version(world, alerts)
    opened(world, 2)
    with pytest.raises(ReleaseError, match="is open, there is no window to extend"):
        steer(world, "extend", seconds=60.0)


def test_an_asked_question_may_be_answered_from_elsewhere(world, alerts, instrument):
    release_id = watched(world, alerts)
    instrument.dead = True
    look(world, release_id, 90)
    steer(world, "abort")
    assert steps.outcome(world, release_id) == "abort"


# --- the guard --------------------------------------------------------------------------------------------


def test_a_promoted_version_is_guarded_against_the_one_before(world, alerts):
    release_id = guarded(world, alerts, now=Arm(2))
    assert world.ledger.get(release_id).state is State.GUARDING
    assert (world.ledger.stable(), world.ledger.under_way().release_id) == (2, release_id)
    assert not look(world, release_id, 30).final
    assert look(world, release_id, 60).final
    assert steps.settle(world, release_id, announce=alerts.append) == "promoted"
    assert world.ledger.get(release_id).state is State.PROMOTED
    assert [alert.title for alert in alerts] == ["Marquee: version 2 promoted"]


def test_the_guard_takes_back_what_became_bad(world, alerts):
    release_id = guarded(world, alerts, now=Arm(2, failed=0.3))
    alerts.clear()
    assert look(world, release_id, 50).verdict is Verdict.FAIL
    assert steps.settle(world, release_id, announce=alerts.append) == "reverted"
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}
    assert world.router.splits[-1] == Split(STABLE)
    assert world.ledger.stable() == 1
    row = world.ledger.get(release_id)
    assert (row.state, row.verdict) == (State.REVERTED, "by hand")
    assert row.reverted_because in alerts[0].body
    assert alerts[0].title == "Marquee: version 2 taken back, version 1 serves again"
    assert world.registry.notes[2] == f"reverted: {row.reverted_because}"
    assert world.registry.tags == {
        "release-1-promoted": 1,
        f"release-{release_id}-promoted": 2,
        f"release-{release_id}-reverted": 2,
    }


def test_a_guard_that_could_not_judge_keeps_the_version_and_says_so(world, alerts, instrument):
    release_id = guarded(world, alerts, now=None)
    alerts.clear()
    assert look(world, release_id, 60).final
    assert steps.settle(world, release_id, announce=alerts.append) == "promoted"
    assert [alert.title for alert in alerts] == ["Marquee: version 2 serves, its guard could not judge it"]


def test_a_guard_that_had_too_little_for_a_pass_and_nothing_against_it_is_quiet(world, alerts):
    release_id = guarded(world, alerts, now=Arm(2))
    alerts.clear()
    assert look(world, release_id, 20).verdict is Verdict.UNDECIDED
    assert steps.settle(world, release_id, announce=alerts.append) == "promoted"
    assert alerts == []


def test_the_figures_before_do_not_reach_beyond_the_guards_own_length(world, alerts):
    release_id = guarded(world, alerts, now=Arm(2))
    look(world, release_id, 60)
    measured = world.ledger.looks(release_id, limit=1)[0].measurement
    assert measured["stable"]["answers"] == 60 * 10


def test_a_person_may_extend_a_guard(world, alerts):
    release_id = guarded(world, alerts, now=Arm(2))
    steer(world, "extend", seconds=30.0)
    assert not look(world, release_id, 60).final
    assert look(world, release_id, 90).final


def test_a_person_may_end_a_guard_either_way(world, alerts):
    release_id = guarded(world, alerts, now=Arm(2))
    steer(world, "abort")
    assert look(world, release_id, 10).final
    assert steps.settle(world, release_id, announce=alerts.append) == "reverted"
    assert world.ledger.get(release_id).reverted_because == "refused by ada: I saw enough"


def test_a_person_may_be_content_before_the_guard_is(world, alerts):
    release_id = guarded(world, alerts, now=Arm(2))
    steer(world, "approve")
    assert world.ledger.get(release_id).state is State.PROMOTED
    assert look(world, release_id, 10).final
    assert steps.settle(world, release_id, announce=alerts.append) == "promoted"


def test_a_guard_that_finds_a_fault_gives_way_to_a_person_who_was_faster(world, alerts, monkeypatch):
    release_id = guarded(world, alerts, now=Arm(2, failed=0.3))
    judged = steps.judge

    def somebody_is_faster(plan, measurement):
        steer(world, "approve")
        return judged(plan, measurement)

    monkeypatch.setattr(steps, "judge", somebody_is_faster)
    assert look(world, release_id, 50).verdict is Verdict.PASS
    assert world.ledger.get(release_id).state is State.PROMOTED
    assert world.ledger.looks(release_id, limit=1)[0].verdict == "fail"


def test_a_rollback_ends_a_guard(world, alerts):
    release_id = guarded(world, alerts, now=Arm(2))
    steps.rollback(world, 1, plan=PLAN, why="angry viewers", requested_by="ada", announce=alerts.append)
    row = world.ledger.get(release_id)
    assert (row.state, row.reverted_because) == (
        State.REVERTED,
        "rolled back to version 1 by ada: angry viewers",
    )
    assert (world.ledger.stable(), world.fleet.versions()) == (1, {"stable-1": 1, "stable-2": 1})
    assert steps.settle(world, release_id, announce=alerts.append) == "reverted"


def test_a_rollback_to_what_serves_already_is_no_release(world, alerts):
    first_version(world, alerts)
    world.fleet.replicas.clear()
    steps.rollback(world, 1, plan=PLAN, why="", requested_by="ada", announce=alerts.append)
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}
    assert len(world.ledger.latest()) == 1
    assert alerts == []


def test_an_alert_leads_to_the_run_that_it_is_about(world, alerts):
    url = "http://airflow/dags/release/runs/7"
    release = steps.open_release(world, version=1, plan=PLAN, requested_by="7", run_url=url)
    steps.start_canary(world, release.release_id)
    steps.promote(world, release.release_id, announce=alerts.append)
    assert f"Where to look: {url}" in alerts[0].body
