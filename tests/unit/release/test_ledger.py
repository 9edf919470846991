from datetime import UTC, datetime, timedelta

import pytest

from pipelines.errors import ReleaseError
from pipelines.records.database import connect, migrate
from pipelines.release.judge import Judgement, Verdict
from pipelines.release.ledger import Ledger, State
from pipelines.release.measure import ArmFigures, Measurement
from pipelines.release.plan import Plan
from pipelines.settings import read

PLAN = Plan.of(read())


@pytest.fixture
def ledger(tmp_path):
    url = f"sqlite:///{tmp_path / 'records.db'}"
    migrate(url)
    engine = connect(url)
    yield Ledger(engine)
    engine.dispose()


def opened(ledger: Ledger, version: int = 2, previous: int | None = 1):
    return ledger.open(version, previous=previous, plan=PLAN, requested_by="test")


def promoted(ledger: Ledger, version: int):
    release = opened(ledger, version)
    ledger.decide(release.release_id, State.PROMOTING, verdict="pass", reason="fast")
    return ledger.move(release.release_id, State.PROMOTED)


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


def test_looks_come_back_newest_first(ledger):
    release_id = opened(ledger).release_id
    figures = ArmFigures(requests=10, good=10, good_ms=10 * 5.0)
    for verdict in (Verdict.NO_TRAFFIC, Verdict.PASS):
        measurement = Measurement(elapsed_s=60, canary=figures, stable=None, canary_up=True)
        ledger.add_look(release_id, measurement, Judgement(verdict, "because", final=False))
    looks = ledger.looks(release_id)
    assert [look.verdict for look in looks] == ["pass", "no traffic"]
    assert looks[0].measurement["canary"]["good_ms"] == 10 * 5.0
    assert len(ledger.looks(release_id, limit=1)) == 1


def test_unknown_release_is_named(ledger):
    with pytest.raises(ReleaseError, match="no release 7"):
        ledger.get(7)


def test_an_auditor_finds_every_release_that_was_opened_by_then(ledger):
    first, second = promoted(ledger, 2), promoted(ledger, 3)
    assert ledger.opened_until(second.opened_at) == [second, first]
    assert ledger.opened_until(first.opened_at) == [first]
    assert ledger.opened_until(first.opened_at - timedelta(microseconds=1)) == []
