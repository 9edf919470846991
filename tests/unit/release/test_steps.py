from datetime import timedelta

import pytest

from pipelines.errors import FleetError, Refused, ReleaseError
from pipelines.release import steps
from pipelines.release.judge import Verdict
from pipelines.release.ledger import State
from pipelines.release.plan import Plan
from pipelines.release.router import Split
from pipelines.settings import read
from tests.fakes import Killed

PLAN = Plan.of(read(canary_window_s=60, canary_extension_s=30))
STABLE = ("stable-1:80", "stable-2:80")
CANARY = "canary:80"


@pytest.fixture(autouse=True)
def sound_artifacts(monkeypatch):
    """The artifact itself is tried in test_preflight.py."""
    monkeypatch.setattr(steps, "check", lambda model_dir, version: "")


@pytest.fixture
def alerts():
    return []


def opened(world, version=None):
    return steps.open_release(world, version=version, plan=PLAN, requested_by="test").release_id


def first_version(world, alerts):
    release_id = opened(world, 1)
    steps.start_canary(world, release_id)
    steps.promote(world, release_id, announce=alerts.append)
    alerts.clear()


def watched(world, alerts, version=2):
    first_version(world, alerts)
    release_id = opened(world, version)
    steps.start_canary(world, release_id)
    return release_id


def look(world, release_id, after_s):
    return steps.look(
        world, release_id, now=world.ledger.get(release_id).watch_from + timedelta(seconds=after_s)
    )


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
    assert look(world, release_id, 30).verdict is Verdict.UNDECIDED
    assert look(world, release_id, 60).verdict is Verdict.PASS
    assert steps.outcome(world, release_id) == "promote"
    steps.promote(world, release_id, announce=alerts.append)
    assert world.fleet.versions() == {"stable-1": 2, "stable-2": 2, "canary": 2}
    assert world.fleet.deployed[-2:] == [("stable-1", 2), ("stable-2", 2)]
    assert world.router.splits[-1] == Split(STABLE, CANARY, 0)
    assert world.registry.notes[2] == "promoted"
    assert [alert.title for alert in alerts] == ["Marquee: version 2 promoted"]


def test_slow_candidate_is_aborted_and_stable_keeps_serving(world, alerts, instrument):
    release_id = watched(world, alerts)
    instrument.mean_ms = 700
    assert look(world, release_id, 15).verdict is Verdict.FAIL
    assert steps.outcome(world, release_id) == "abort"
    steps.abort(world, release_id, announce=alerts.append)
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}
    assert world.router.splits[-1] == Split(STABLE)
    assert world.registry.notes[2].startswith("aborted: mean response time 700.0 ms")
    assert "700.0 ms" in alerts[0].body
    assert "500 ms" in alerts[0].body
    assert "Still serving: version 1" in alerts[0].body


@pytest.mark.parametrize(
    ("dead", "good", "verdict"), [(True, 0, "instrument broken"), (False, 0, "no traffic")]
)
def test_unmeasured_candidate_is_held_then_a_person_is_asked(world, alerts, instrument, dead, good, verdict):
    release_id = watched(world, alerts)
    instrument.dead, instrument.good = dead, good
    assert not look(world, release_id, 60).final
    held = look(world, release_id, 60 + 30)
    assert (held.verdict, held.final) == (verdict, True)
    assert steps.outcome(world, release_id) == "ask"
    steps.ask(world, release_id, announce=alerts.append)
    assert alerts[0].title == "Marquee: version 2 needs your decision"
    assert world.fleet.versions()["canary"] == 2


def test_a_person_may_promote_what_was_not_measured(world, alerts, instrument):
    release_id = watched(world, alerts)
    instrument.dead = True
    look(world, release_id, 90)
    steps.promote(world, release_id, announce=alerts.append, decided_by="ada")
    row = world.ledger.get(release_id)
    assert (row.state, row.verdict) == (State.PROMOTED, "by hand")
    assert "approved by ada" in row.reason


def test_a_person_may_abort_what_was_not_measured(world, alerts, instrument):
    release_id = watched(world, alerts)
    instrument.dead = True
    look(world, release_id, 90)
    steps.abort(world, release_id, announce=alerts.append, decided_by="ada")
    assert world.ledger.get(release_id).reason == "refused by ada"


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
    instrument.mean_ms = 900
    assert steps.look(world, release_id).verdict is Verdict.PASS
    assert len(world.ledger.looks(release_id)) == 1


def test_broken_candidate_is_refused_before_any_viewer_meets_it(world, alerts, monkeypatch):
    first_version(world, alerts)
    monkeypatch.setattr(
        steps, "check", lambda model_dir, version: "user '7' gets 3 distinct movies, 20 were wanted"
    )
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
        steps.abort(world, release_id, announce=alerts.append, decided_by="ada")
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


def test_rollback_waits_for_a_promotion_that_is_being_carried_out(world, alerts):
    release_id = watched(world, alerts)
    look(world, release_id, 60)
    with pytest.raises(ReleaseError, match="being promoted right now"):
        steps.rollback(world, 1, plan=PLAN, why="", requested_by="ada", announce=alerts.append)


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
