from datetime import UTC, datetime, timedelta

import pytest

from pipelines.errors import ReleaseError
from pipelines.release.entries import Action, Intervention, State
from pipelines.release.figures import Measurement, Users
from pipelines.release.judge import Judgement, Reading, Verdict
from pipelines.release.ledger import Ledger
from pipelines.release.measure import answers_of, figures_of
from pipelines.release.plan import Plan
from pipelines.settings import read
from tests.receipts import row

PLAN = Plan.of(read())


@pytest.fixture
def ledger(records):
    return Ledger(records)


def opened(ledger: Ledger, version: int = 2, previous: int | None = 1):
    return ledger.open(version, previous=previous, plan=PLAN, requested_by="test")


def promoted(ledger: Ledger, version: int):
    release = opened(ledger, version)
    ledger.decide(release.release_id, State.PROMOTING, verdict="pass", reason="fast")
    return ledger.end(release.release_id, State.PROMOTED)


def test_release_keeps_the_plan_it_was_opened_with(ledger):
    release = opened(ledger)
    assert ledger.get(release.release_id).plan == PLAN
    assert (release.version, release.previous, release.state) == (2, 1, State.OPEN)


def test_opening_twice_is_opening_once(ledger):
    assert opened(ledger) == opened(ledger)
    assert len(ledger.latest()) == 1


def test_another_version_waits_for_the_release_under_way(ledger):
    opened(ledger, 2)
    with pytest.raises(ReleaseError, match="release 1 of version 2 is under way"):
        opened(ledger, 3)


def test_next_version_may_open_when_the_last_has_ended(ledger):
    promoted(ledger, 2)
    assert opened(ledger, 3).release_id == 2


def test_stable_is_the_newest_promotion_not_the_highest_version(ledger):
    assert ledger.stable() is None
    promoted(ledger, 1)
    promoted(ledger, 2)
    promoted(ledger, 1)
    assert ledger.stable() == 1


def test_window_does_not_move_when_the_watch_begins_again(ledger):
    release_id = opened(ledger).release_id
    first = ledger.begin_watch(release_id).watch_from
    assert ledger.begin_watch(release_id).watch_from == first
    assert abs((datetime.now(UTC) - first).total_seconds()) < 60


def test_first_decision_stands(ledger):
    release_id = opened(ledger).release_id
    ledger.decide(release_id, State.ABORTING, verdict="fail", reason="slow")
    with pytest.raises(ReleaseError, match="is aborting and cannot become promoting"):
        ledger.decide(release_id, State.PROMOTING, verdict="pass", reason="fast")
    ledger.decide(release_id, State.ABORTING, verdict="by hand", reason="later")
    assert ledger.get(release_id).reason == "slow"


def test_ended_release_stays_ended(ledger):
    release = promoted(ledger, 2)
    with pytest.raises(ReleaseError):
        ledger.begin_watch(release.release_id)


def measured() -> Measurement:
    """One answer of 5 ms on each arm."""
    arm = figures_of(answers_of([row(latency_ms=5.0, version_number=2)]), version=2)
    users = Users(canary=1, total=2, mixed=0)
    return Measurement(elapsed_s=60, canary=arm, stable=arm, users=users, scraped=None, trouble="dead")


def test_looks_come_back_newest_first(ledger):
    release_id = opened(ledger).release_id
    reading = Reading("mean", 5.0, 500.0, "ms", False, "fast")
    for verdict, guard in ((Verdict.NO_TRAFFIC, False), (Verdict.PASS, True)):
        judgement = Judgement(verdict, "because", final=False, readings=(reading,), progress=0.5)
        ledger.add_look(release_id, measured(), judgement, guard=guard)
    newest, oldest = ledger.looks(release_id)
    assert ((newest.verdict, newest.guard), (oldest.verdict, oldest.guard)) == (
        ("pass", True),
        ("no traffic", False),
    )
    assert newest.readings == [reading.as_row()]
    assert newest.progress == 0.5
    assert Measurement.from_row(newest.measurement).canary.time.mean == 5.0
    assert len(ledger.looks(release_id, limit=1)) == 1


def looked(ledger: Ledger, release_id: int, *verdicts: Verdict, guard: bool = False) -> None:
    for verdict in verdicts:
        reading = Reading("mean", 5.0, 500.0, "ms", False, "fast")
        judgement = Judgement(verdict, "because", final=False, readings=(reading,))
        ledger.add_look(release_id, measured(), judgement, guard=guard)


def test_old_looks_keep_their_figures_where_a_window_began_ended_or_was_decided(ledger):
    release_id = opened(ledger).release_id
    undecided = Verdict.UNDECIDED
    # Two looked at once: the second was slower than the first decided.
    looked(ledger, release_id, undecided, undecided, undecided, Verdict.PASS, undecided)
    looked(ledger, release_id, undecided, undecided, Verdict.NO_TRAFFIC, undecided, guard=True)
    ledger.decide(release_id, State.PROMOTING, verdict="pass", reason="fast")
    ended_at = ledger.end(release_id, State.PROMOTED).ended_at
    before = ledger.looks(release_id)[::-1]

    assert ledger.thin_looks(ended_at) == 0
    assert ledger.thin_looks(ended_at + timedelta(seconds=1)) == 2 + 2
    after = ledger.looks(release_id)[::-1]
    whole = [True, False, False, True, True, True, False, False, True]
    assert [bool(look.measurement) for look in after] == whole
    assert [bool(look.readings) for look in after] == whole
    assert [look for look in after if look.measurement] == [
        look for look, kept in zip(before, whole, strict=True) if kept
    ]
    assert [(look.at, look.guard, look.verdict, look.reason) for look in after] == [
        (look.at, look.guard, look.verdict, look.reason) for look in before
    ]
    assert ledger.thin_looks(ended_at + timedelta(days=1)) == 0


def test_looks_at_a_release_under_way_keep_everything(ledger):
    looked(ledger, opened(ledger).release_id, *[Verdict.UNDECIDED] * 3)
    assert ledger.thin_looks(datetime.now(UTC) + timedelta(days=1)) == 0


def test_many_looks_are_thinned_in_portions(ledger, monkeypatch):
    monkeypatch.setattr("pipelines.release.ledger._THIN_ROWS", 2)
    release_id = opened(ledger).release_id
    looked(ledger, release_id, *[Verdict.UNDECIDED] * 7)
    ledger.decide(release_id, State.ABORTING, verdict="by hand", reason="a test")
    ended_at = ledger.end(release_id, State.ABORTED).ended_at
    assert ledger.thin_looks(ended_at + timedelta(seconds=1)) == 5
    assert sum(not look.measurement for look in ledger.looks(release_id)) == 5


def test_unknown_release_is_named(ledger):
    with pytest.raises(ReleaseError, match="no release 7"):
        ledger.get(7)


def test_an_auditor_finds_every_release_that_was_opened_by_then(ledger):
    first, second = promoted(ledger, 2), promoted(ledger, 3)
    assert ledger.opened_until(second.opened_at) == [second, first]
    assert ledger.opened_until(first.opened_at) == [first]
    assert ledger.opened_until(first.opened_at - timedelta(microseconds=1)) == []


def guarded(ledger: Ledger, version: int):
    release_id = opened(ledger, version).release_id
    ledger.decide(release_id, State.PROMOTING, verdict="pass", reason="fast")
    return ledger.begin_guard(release_id)


def test_a_guarded_version_serves_until_it_is_to_be_taken_back(ledger):
    promoted(ledger, 1)
    release_id = guarded(ledger, 2).release_id
    assert (ledger.stable(), ledger.under_way().state) == (2, "guarding")
    ledger.revert(release_id, reason="it became slow")
    assert (ledger.stable(), ledger.under_way().state) == (1, "reverting")
    release = ledger.end(release_id, State.REVERTED)
    assert ledger.under_way() is None
    assert (release.reason, release.reverted_because) == ("fast", "it became slow")
    assert release.served_from <= release.ended_at


def test_a_guards_window_does_not_move_when_it_begins_again(ledger):
    release = guarded(ledger, 2)
    assert ledger.begin_guard(release.release_id).served_from == release.served_from


def test_a_superseded_version_never_was_under_way(ledger):
    ledger.supersede(2, by=3, plan=PLAN, requested_by="test")
    assert (ledger.under_way(), ledger.versions()) == (None, {2})
    (release,) = ledger.latest()
    assert (release.state, release.reason) == ("superseded", "version 3 is newer and was waiting, too")


def by_ada(what: Action, seconds: float = 0.0) -> Intervention:
    return Intervention(datetime.now(UTC), "ada", what, "why not", seconds)


def test_what_a_person_wants_and_what_comes_of_it_is_one_write(ledger):
    release_id = opened(ledger).release_id
    wanted = {"state": State.ABORTING, "verdict": "by hand", "reason": "ada said so"}
    for _ in range(2):
        release = ledger.intervene(release_id, by_ada(Action.ABORT), request="run 1", **wanted)
        assert (release.state, release.reason) == ("aborting", "ada said so")
    assert len(ledger.interventions(release_id)) == 1


def test_what_cannot_be_done_any_more_leaves_no_trace(ledger):
    release_id = promoted(ledger, 2).release_id
    with pytest.raises(ReleaseError, match="is promoted and cannot become aborting"):
        ledger.intervene(release_id, by_ada(Action.ABORT), request="run 1", state=State.ABORTING)
    assert ledger.interventions(release_id) == []


def test_an_alert_is_told_once(ledger):
    assert not ledger.was_told("release-1-promoted")
    for _ in range(2):
        ledger.note_told("release-1-promoted", "Marquee: version 1 promoted")
    assert ledger.was_told("release-1-promoted")
    assert not ledger.was_told("release-2-promoted")
