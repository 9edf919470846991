import pytest

from pipelines.errors import FleetError, NothingNew, Refused, ReleaseError
from pipelines.release import steps
from pipelines.release.entries import State
from pipelines.release.judge import Verdict
from pipelines.release.router import Split
from tests.arms import Arm
from tests.fakes import Killed
from tests.releases import CANARY, GUARDED, PLAN, STABLE, guarded, look, opened, promoted, watched


def automatic(world, run="asset"):
    return steps.open_release(world, version=None, plan=PLAN, requested_by=run, automatic=True)


def test_newest_version_is_released_unless_one_is_named(world):
    assert world.ledger.get(opened(world)).version == 3


def test_opening_names_what_cannot_be_released(world):
    with pytest.raises(ReleaseError, match="version 9 is not in the registry; it holds versions 1 to 3"):
        opened(world, 9)
    promoted(world, 1)
    with pytest.raises(ReleaseError, match="serves already"):
        opened(world, 1)
    world.registry.known = []
    with pytest.raises(ReleaseError, match="no version yet"):
        opened(world)


def test_first_version_serves_everybody_without_a_canary(world):
    promoted(world, 1)
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}
    assert world.router.splits[-1] == Split(STABLE)
    assert world.ledger.stable() == 1
    assert world.registry.notes == {1: "promoted"}


def test_canary_gets_its_share_of_the_users(world):
    watched(world, seconds=0)
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1, "canary": 2}
    assert world.router.splits[-1] == Split(STABLE, CANARY, 20)


def test_starting_twice_neither_blinks_nor_moves_the_window(world):
    release_id = watched(world, seconds=0)
    before = world.ledger.get(release_id).watch_from, len(world.fleet.deployed)
    world.router.splits.clear()
    steps.start_canary(world, release_id)
    assert (world.ledger.get(release_id).watch_from, len(world.fleet.deployed)) == before
    assert world.router.splits == [Split(STABLE, CANARY, 20)]


def test_fast_candidate_is_promoted_one_replica_at_a_time(world, alerts):
    release_id = watched(world)
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
    release_id = watched(world, canary=Arm(2, mean_ms=700.0), seconds=40)
    assert look(world, release_id, 60).verdict is Verdict.FAIL
    assert steps.outcome(world, release_id) == "abort"
    steps.abort(world, release_id, announce=alerts.append)
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}
    assert world.router.splits[-1] == Split(STABLE)
    assert world.registry.notes[2].startswith("aborted: mean response time 700.0 ms")
    assert "700.0 ms" in alerts[0].body
    assert "500 ms" in alerts[0].body
    assert "Still serving: version 1" in alerts[0].body


def test_nothing_is_promoted_that_nobody_has_decided_to_promote(world, alerts):
    release_id = watched(world, seconds=0)
    with pytest.raises(ReleaseError, match="is watching: nobody has decided to promote it"):
        steps.promote(world, release_id, announce=alerts.append)
    assert (world.ledger.stable(), alerts) == (1, [])


def test_broken_candidate_is_refused_before_any_viewer_meets_it(world, alerts, monkeypatch):
    promoted(world, 1)
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
    promoted(world, 1)
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
    release_id = watched(world)
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
    release_id = watched(world)
    look(world, release_id, 60)
    for _ in range(2):
        steps.promote(world, release_id, announce=alerts.append)
    assert len(alerts) == 1
    with pytest.raises(ReleaseError):
        steps.abort(world, release_id, announce=alerts.append)
    assert world.ledger.stable() == 2


def test_extra_replica_leaves_the_split_before_it_gets_the_next_candidate(world, alerts):
    release_id = watched(world)
    look(world, release_id, 60)
    steps.promote(world, release_id, announce=alerts.append)
    world.router.splits.clear()
    steps.start_canary(world, opened(world, 3))
    assert world.router.splits == [Split(STABLE), Split(STABLE, CANARY, 20)]


def test_of_several_versions_that_wait_the_newest_is_released(world):
    promoted(world, 1)
    world.registry.known = [1, 2, 3, 4]
    assert automatic(world).version == 4
    states = {release.version: str(release.state) for release in world.ledger.latest()}
    assert states == {1: "promoted", 2: "superseded", 3: "superseded", 4: "open"}
    assert world.ledger.latest()[1].reason == "version 4 is newer and was waiting, too"


def test_the_runs_of_superseded_versions_have_nothing_left_to_do(world, alerts):
    promoted(world, 1)
    release_id = automatic(world).release_id
    steps.abort(world, release_id, announce=alerts.append)
    with pytest.raises(NothingNew, match="version 3, the newest, had its release already"):
        automatic(world, "the next run")


def test_a_run_that_is_tried_again_finds_its_own_release(world):
    promoted(world, 1)
    release = automatic(world)
    world.registry.known.append(4)
    assert automatic(world) == release
    with pytest.raises(ReleaseError, match="version 4 has to wait"):
        automatic(world, "another run")


def test_a_version_that_was_passed_over_may_be_released_by_hand(world, alerts):
    promoted(world, 1)
    steps.abort(world, automatic(world).release_id, announce=alerts.append)
    assert world.ledger.get(opened(world, 2)).version == 2


def test_a_promoted_version_is_guarded_against_the_one_before(world, alerts):
    release_id = guarded(world, now=Arm(2), announce=alerts.append)
    assert world.ledger.get(release_id).state is State.GUARDING
    assert (world.ledger.stable(), world.ledger.under_way().release_id) == (2, release_id)
    assert not look(world, release_id, 30).final
    assert look(world, release_id, 60).final
    assert steps.settle(world, release_id, announce=alerts.append) == "promoted"
    assert world.ledger.get(release_id).state is State.PROMOTED
    assert [alert.title for alert in alerts] == ["Marquee: version 2 promoted"]


def test_the_guard_takes_back_what_became_bad(world, alerts):
    release_id = guarded(world, now=Arm(2, failed=0.3))
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


def test_a_guard_that_could_not_judge_keeps_the_version_and_says_so(world, alerts):
    release_id = guarded(world, now=None)
    assert look(world, release_id, 60).final
    assert steps.settle(world, release_id, announce=alerts.append) == "promoted"
    assert [alert.title for alert in alerts] == ["Marquee: version 2 serves, its guard could not judge it"]


def test_a_guard_that_nobody_looked_at_says_so_whatever_the_watch_saw(world, alerts):
    release_id = watched(world, plan=GUARDED)
    assert look(world, release_id, 60).verdict is Verdict.PASS
    steps.promote(world, release_id, announce=lambda alert: None)
    assert steps.settle(world, release_id, announce=alerts.append) == "promoted"
    (alert,) = alerts
    assert alert.title == "Marquee: version 2 serves, its guard could not judge it"
    assert "Observed: nobody looked" in alert.body


def test_a_guard_that_had_too_little_for_a_pass_and_nothing_against_it_is_quiet(world, alerts):
    release_id = guarded(world, now=Arm(2))
    assert look(world, release_id, 20).verdict is Verdict.UNDECIDED
    assert steps.settle(world, release_id, announce=alerts.append) == "promoted"
    assert alerts == []


def test_an_alert_leads_to_the_run_that_it_is_about(world, alerts):
    url = "http://airflow/dags/release/runs/7"
    release = steps.open_release(world, version=1, plan=PLAN, requested_by="7", run_url=url)
    steps.start_canary(world, release.release_id)
    steps.promote(world, release.release_id, announce=alerts.append)
    assert f"Where to look: {url}" in alerts[0].body
