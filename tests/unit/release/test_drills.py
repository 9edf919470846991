import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from filelock import FileLock
from sqlalchemy import insert

from pipelines.errors import FleetError, NothingNew
from pipelines.fault import Fault
from pipelines.model.artifact import load
from pipelines.records.tables import drills as table
from pipelines.records.tables import reccom
from pipelines.release import by_hand, drills, preflight, steps
from pipelines.release.drills import PREFLIGHT, WATCH, Rate, Trial, drill, history, rates, summary
from pipelines.release.findings import Answer, Request, findings_of
from pipelines.release.fleet import SHADOW_REPLICA
from pipelines.release.judge import Verdict
from pipelines.release.plan import Plan
from pipelines.release.router import Split
from pipelines.release.shadow import mirrored, shadowing
from pipelines.settings import read
from tests.fakes import tiny_artifact

PLAN = Plan.of(read(guard_s=0))
STABLE = ("stable-1:80", "stable-2:80")
SHADOW = "shadow:80"


@pytest.fixture
def serving(world, monkeypatch):
    """A world in which version 1 serves everybody."""
    tiny_artifact(world.models_dir / "v1", version=1)
    monkeypatch.setattr(steps, "try_out", lambda *_: ("", ""))
    release = steps.open_release(world, version=1, plan=PLAN, requested_by="test")
    steps.start_canary(world, release.release_id)
    steps.promote(world, release.release_id, announce=lambda alert: None)
    return world


def trial(fault, instrument, *, caught=True, after_s=1.0, run="one"):
    at = datetime(2026, 11, 22)
    verdict = "fail" if caught else "pass"
    return Trial(run, fault, 1, at, instrument, caught, verdict, "because", after_s, 10)


# --- the shadow ---------------------------------------------------------------------------------------------


def test_the_shadow_lives_as_long_as_it_is_tried(serving):
    with shadowing(serving, 1, Fault.SLOW) as address:
        assert address == SHADOW
        assert serving.fleet.replicas[SHADOW_REPLICA].version == 1
        assert SHADOW_REPLICA not in serving.fleet.running()
        serving.shadow_spool_dir.mkdir()
    assert serving.fleet.faults == [Fault.SLOW]
    assert SHADOW_REPLICA not in serving.fleet.replicas
    assert not serving.shadow_spool_dir.exists()


def test_copies_are_asked_for_beside_the_split_in_force(serving):
    serving.router.apply(Split(STABLE, "canary:80", 20))
    with mirrored(serving):
        assert serving.router.splits[-1] == Split(STABLE, "canary:80", 20, SHADOW)
    assert serving.router.splits[-1] == Split(STABLE, "canary:80", 20)


def test_a_split_that_a_release_has_set_meanwhile_stays(serving):
    with mirrored(serving):
        serving.router.apply(Split(STABLE, "canary:80", 20))
    before = len(serving.router.splits)
    with shadowing(serving, 1):
        pass
    assert len(serving.router.splits) == before


@pytest.mark.parametrize("broken", [set(), {2}])
def test_what_a_killed_process_left_is_taken_away_by_the_next_one(broken, serving):
    serving.fleet.deploy(SHADOW_REPLICA, 1, arm="shadow", fault=Fault.SLOW)
    serving.router.apply(Split(STABLE, shadow=SHADOW))
    (serving.shadow_spool_dir / "old").mkdir(parents=True)
    serving.fleet.broken = broken
    try:
        with shadowing(serving, 2):
            assert serving.router.splits[-1] == Split(STABLE)
            assert not serving.shadow_spool_dir.exists()
    except FleetError:
        assert broken
    assert SHADOW_REPLICA not in serving.fleet.replicas


def test_there_is_one_shadow_at_a_time(serving):
    with shadowing(serving, 1), pytest.raises(TimeoutError):
        FileLock(serving.models_dir / ".shadow.lock", timeout=0).acquire()


# --- drills -------------------------------------------------------------------------------------------------


def opened(world):
    return steps.open_release(world, version=2, plan=PLAN, requested_by="test")


def rolled_back(world):
    by_hand.rollback(world, 2, plan=PLAN, why="test", requested_by="test", announce=lambda alert: None)


@pytest.fixture
def instruments(monkeypatch):
    """Preflight catches what it is told to, and so does the watch; says which faults were tried."""

    class Instruments:
        def __init__(self):
            self.catching = {PREFLIGHT: set(Fault) - {Fault.NONE}, WATCH: {Fault.SLOW}}
            self.interrupted_at = None
            self.meanwhile = opened

        def look(self, instrument, world):
            fault = world.fleet.faults[-1]
            if (fault, instrument) == self.interrupted_at:
                self.meanwhile(world)
                drills._give_way(world, 1)
            caught = fault in self.catching[instrument]
            return {
                "instrument": instrument,
                "caught": caught,
                "verdict": "fail" if caught else "pass",
                "reason": f"{fault} by {instrument}",
                "after_s": 2.5,
                "answers": 40,
            }

    made = Instruments()
    monkeypatch.setattr(drills, "_preflight", lambda world, *_: made.look(PREFLIGHT, world))
    monkeypatch.setattr(drills, "_watch", lambda world, *_: made.look(WATCH, world))
    return made


@pytest.fixture
def alerts():
    return []


def drilled(world, alerts, *faults, run="one"):
    return drill(world, faults, run=run, plan=PLAN, most_s=60, announce=alerts.append)


def test_every_fault_is_tried_by_both_and_told_once(serving, instruments, alerts):
    trials = drilled(serving, alerts, Fault.NONE, Fault.SLOW, Fault.SHORT)
    assert [(one.fault, one.instrument, one.caught) for one in trials] == [
        ("none", PREFLIGHT, False),
        ("none", WATCH, False),
        ("slow", PREFLIGHT, True),
        ("slow", WATCH, True),
        ("short", PREFLIGHT, True),
        ("short", WATCH, False),
    ]
    (alert,) = alerts
    assert alert.title == "Marquee: fire drill over, all 3 as they should be"
    assert (
        "- short: caught by preflight after 2.5 s (40 answers), watch pass after 2.5 s (40 answers)"
        in alert.body
    )


def test_what_nobody_caught_is_told_loudly(serving, instruments, alerts):
    instruments.catching[PREFLIGHT].remove(Fault.SHORT)
    drilled(serving, alerts, Fault.SLOW, Fault.SHORT)
    assert alerts[0].title == "Marquee: FIRE DRILL FAILED, 1 missed, 0 false alarm(s)"
    assert "MISSED: a replica that is short would have reached viewers" in alerts[0].body


def test_a_sound_replica_that_is_caught_is_told_loudly(serving, instruments, alerts):
    instruments.catching[WATCH].add(Fault.NONE)
    drilled(serving, alerts, Fault.NONE)
    assert alerts[0].title == "Marquee: FIRE DRILL FAILED, 0 missed, 1 false alarm(s)"
    assert "FALSE ALARM: a sound replica was caught by watch: none by watch" in alerts[0].body


def test_there_is_no_drill_beside_a_release_nor_without_a_version(world, serving, alerts):
    opened(serving)
    with pytest.raises(NothingNew, match="release 2 of version 2 is open: the drill gives way"):
        drilled(serving, alerts, Fault.SLOW)
    assert (alerts, serving.fleet.faults) == ([], [])


def test_nothing_that_serves_is_nothing_to_break(world, alerts):
    with pytest.raises(NothingNew, match="nothing serves yet"):
        drilled(world, alerts, Fault.SLOW)


@pytest.mark.parametrize(("instrument", "told"), [(PREFLIGHT, 2), (WATCH, 3)])
def test_a_release_that_begins_ends_the_drill(instrument, told, serving, instruments, alerts):
    instruments.interrupted_at = (Fault.SHORT, instrument)
    with pytest.raises(NothingNew, match="gives way"):
        drilled(serving, alerts, Fault.SLOW, Fault.SHORT, Fault.STALE)
    assert len(history(serving.records)) == told
    assert len(alerts) == 1
    assert SHADOW_REPLICA not in serving.fleet.replicas


def test_a_rollback_ends_the_drill_of_the_version_before(serving, instruments, alerts):
    instruments.interrupted_at, instruments.meanwhile = (Fault.SLOW, WATCH), rolled_back
    with pytest.raises(NothingNew, match="version 2 serves now, not version 1"):
        drilled(serving, alerts, Fault.SLOW)


def test_a_killed_run_goes_on_with_what_it_has_not_tried(serving, instruments, alerts):
    drilled(serving, alerts, Fault.SLOW)
    trials = drilled(serving, alerts, Fault.SLOW, Fault.SHORT)
    assert serving.fleet.faults == [Fault.SLOW, Fault.SHORT]
    assert [one.fault for one in trials] == ["slow", "slow", "short", "short"]


def test_rates_count_each_instrument_and_take_the_median_of_what_was_caught():
    trials = [
        trial("slow", WATCH, after_s=4.0),
        trial("slow", WATCH, after_s=9.0),
        trial("slow", WATCH, after_s=5.0),
        trial("slow", WATCH, caught=False, after_s=600.0),
        trial("stale", PREFLIGHT, caught=False),
    ]
    assert rates(trials) == [Rate("slow", WATCH, 3, 4, 5.0), Rate("stale", PREFLIGHT, 0, 1, None)]


def test_one_instrument_is_enough_to_have_caught_a_fault():
    trials = [
        trial("slow", PREFLIGHT, caught=False),
        trial("slow", WATCH),
        trial("stale", WATCH, caught=False),
    ]
    assert summary(trials)[1:] == (["stale"], [])


def test_a_fault_that_the_watch_has_not_tried_is_not_missed():
    assert summary([trial("slow", PREFLIGHT, caught=False)])[1:] == ([], [])


# --- what the instruments see -------------------------------------------------------------------------------


def receipt(number, at, *, arm, status=200, latency_ms=2.0):
    return {
        "request_id": f"{arm}-{number}",
        "version_number": 1,
        "user_id": f"u{number % 50}",
        "served_at": at,
        "arm": arm,
        "replica": arm,
        "source": "trending",
        "movie_ids": ",".join(f"m{movie:02}" for movie in range(20)) if status == 200 else "",
        "watched": "",
        "latency_ms": latency_ms,
        "status": status,
        "canary_percent": 0,
    }


def seen_by_the_watch(world, **shadow):
    """Stable has answered 400 requests well; the shadow as ``shadow`` says."""
    since = datetime.now(UTC) - timedelta(seconds=40)
    times = [since + timedelta(seconds=number / 10) for number in range(400)]
    with world.records.begin() as connection:
        rows = [receipt(number, at.replace(tzinfo=None), arm="stable") for number, at in enumerate(times)]
        connection.execute(insert(reccom), rows)
    world.shadow_spool_dir.mkdir()
    lines = [
        json.dumps(receipt(number, at.isoformat(), arm="shadow", **shadow)) for number, at in enumerate(times)
    ]
    past_nginx = json.dumps(
        receipt(1, since.isoformat(), arm="shadow", status=503) | {"canary_percent": None}
    )
    spool = world.shadow_spool_dir / "shadow-1-2.jsonl"
    spool.write_text("\n".join([past_nginx, *lines, '{"half a li']))
    plan = replace(PLAN.for_guard(), window_s=60.0, early_promotion=True)
    return drills._look(world, 1, plan, since)


def test_the_watch_counts_copies_and_not_what_preflight_asked(serving):
    measurement, judgement = seen_by_the_watch(serving)
    assert (measurement.canary.answers, measurement.stable.answers) == (400, 400)
    assert (measurement.canary.failed.k, measurement.canary.wrong_version) == (0, 0)
    assert judgement.verdict is Verdict.UNDECIDED


@pytest.mark.parametrize("bad", [{"status": 503}, {"latency_ms": 700.0}])
def test_the_watch_sees_a_bad_shadow(bad, serving):
    _, judgement = seen_by_the_watch(serving, **bad)
    assert (judgement.verdict, judgement.final) == (Verdict.FAIL, True)


def test_preflight_judges_a_shadow_as_it_would_a_candidate(serving, monkeypatch):
    answers = [Answer(Request("x"), 503, 1.0)]
    monkeypatch.setattr(
        preflight,
        "tried",
        lambda _, model, *__: findings_of(model, answers, requests=9, seconds=0.5),
    )
    found = drills._preflight(serving, load(serving.models_dir / "v1"), SHADOW, PLAN)
    assert (found["caught"], found["verdict"], found["after_s"], found["answers"]) == (True, "fail", 0.5, 1)
    assert found["reason"] == "1 of 1 answers failed; the limit is 0.0%"


def test_history_is_what_the_table_holds(serving):
    rows = [trial("slow", WATCH), trial("stale", PREFLIGHT, run="two")]
    with serving.records.begin() as connection:
        for row in rows:
            connection.execute(insert(table).values({name: getattr(row, name) for name in row.__slots__}))
    assert history(serving.records) == rows
    assert history(serving.records, run="two") == rows[1:]
