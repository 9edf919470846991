"""Releases on the real stack without Airflow: supervisord, NGINX, Prometheus, gunicorn, recorder.

Viewers ask all the while, and every answer that is not good is counted: there may be none.
"""

import os
import re
import signal
import time
from dataclasses import replace

import httpx
import psutil
import pytest
from sqlalchemy import func, select

from pipelines.fault import Fault
from pipelines.local.stack import Stack, answers, wait_for
from pipelines.records.tables import reccom
from pipelines.release import by_hand, keep, steps, watch
from pipelines.release import world as parts
from pipelines.release.entries import State
from pipelines.release.fleet import STABLE_REPLICAS
from pipelines.release.fleet.local import LocalFleet
from pipelines.release.judge import Verdict
from pipelines.release.plan import Plan
from pipelines.settings import read
from tests.fakes import FakeRegistry, tiny_artifact
from tests.ports import free_ports
from tests.viewers import Answers, viewers

PORTS = (
    *("nginx_port", "stable_1_port", "stable_2_port", "canary_port", "shadow_port"),
    *("prometheus_port", "airflow_port", "receipts_port"),
)
ASKED_PER_S = 100
FLAWED = 3
"""A version that is fine as a candidate and gives short lists once all viewers have it."""
# What some hundred answers can show; and no limit that a busy machine could break.
PLAN = Plan.of(
    read(
        canary_window_s=20,
        canary_extension_s=40,
        guard_s=20,
        see_error_share=0.5,
        see_slow_share=0.5,
        see_below_more=0.6,
        tail_floor_ms=5_000,
        max_preflight_p99_ms=5_000,
    )
)


class Artifacts(FakeRegistry):
    """Versions whose artifacts are real but tiny."""

    def export(self, version, models_dir):
        folder = models_dir / f"v{version}"
        return folder if folder.exists() else tiny_artifact(folder, version=version)


class Fleet(LocalFleet):
    """Replicas of which some have a flaw that no watch could see."""

    def deploy(self, replica, version, *, arm, release=None, fault=Fault.NONE):
        flawed = version == FLAWED and replica in STABLE_REPLICAS
        fault = Fault.SHORT if flawed else fault
        super().deploy(replica, version, arm=arm, release=release, fault=fault)


@pytest.fixture
def config(tmp_path):
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    log = tmp_path / "movielog.log"
    log.touch()
    return read(var_dir=tmp_path, replica_workers=1, event_source="file", event_file=log, **ports)


@pytest.fixture
def stack(config):
    made = Stack(config, kafka_home=None)
    made.start(with_airflow=False)
    wait_for("Prometheus", lambda: answers(f"{config.prometheus}/-/ready"))
    yield made
    made.stop()


@pytest.fixture
def world(config, stack):
    here = parts.world(config)
    yield replace(here, fleet=Fleet(config, stack.supervisor), registry=Artifacts())
    here.records.dispose()


@pytest.fixture
def alerts():
    return []


class Phase:
    """What viewers met while something was done: written down, and not one answer failed."""

    def __init__(self, name, met, record_property):
        self._name, self._met, self._record = name, met, record_property

    def __enter__(self):
        self._began = len(self._met.latencies_ms)

    def __exit__(self, *_):
        latencies_ms = self._met.latencies_ms[self._began :]
        p99_ms = round(Answers(latencies_ms=latencies_ms).percentile_ms(99), 1)
        self._record(f"{self._name}: answers", len(latencies_ms))
        self._record(f"{self._name}: p99, ms", p99_ms)
        print(f"{self._name}: {len(latencies_ms)} answers, {self._met.failed} failed, p99 {p99_ms} ms")


def release(world, version):
    release_id = steps.open_release(world, version=version, plan=PLAN, requested_by="test").release_id
    steps.preflight(world, release_id)
    steps.start_canary(world, release_id)
    return release_id


def first_version(world, alerts):
    steps.promote(world, release(world, 1), announce=alerts.append)


def watch_to_the_end(world, release_id):
    while not (judgement := watch.look(world, release_id)).final:
        time.sleep(1)
    return judgement


def versions(world):
    return {name: running.version for name, running in world.fleet.running().items()}


@pytest.mark.timeout(240)
def test_no_answer_fails_from_start_through_promotion_and_guard_to_rollback(
    config, world, alerts, record_property
):
    first_version(world, alerts)
    with viewers(config, per_second=ASKED_PER_S) as met:

        def phase(name):
            return Phase(name, met, record_property)

        with phase("start"):
            release_id = release(world, 2)
        with phase("watch"):
            judgement = watch_to_the_end(world, release_id)
        assert judgement.verdict is Verdict.PASS, judgement.reason
        with phase("promote"):
            steps.promote(world, release_id, announce=alerts.append)
        assert versions(world) == {"canary": 2, "stable-1": 2, "stable-2": 2}
        with phase("guard"):
            judgement = watch_to_the_end(world, release_id)
        assert judgement.verdict is Verdict.PASS, judgement.reason
        assert steps.settle(world, release_id, announce=alerts.append) == "promoted"
        with phase("rollback"):
            by_hand.rollback(world, 1, plan=PLAN, why="test", requested_by="test", announce=alerts.append)
        last = httpx.get(f"{config.recommend_url}/1")
        assert set(last.headers["X-Marquee-Version"]) == {"1"}
    assert met.statuses.keys() == {200}
    assert met.statuses[200] > 1_000
    wait_for("every receipt", lambda: recorded(world) == met.statuses[200] + 1, within_s=30)
    told = httpx.get(f"http://127.0.0.1:{config.receipts_port}/receipt/{last.headers['X-Request-Id']}").json()
    assert ",".join(told["receipt"]["movie_ids"]) == last.text.strip()
    assert (told["release"]["version"], told["release"]["verdict"]) == (1, "by hand")


def recorded(world):
    with world.records.connect() as connection:
        return connection.execute(select(func.count()).select_from(reccom)).scalar_one()


@pytest.mark.timeout(240)
def test_what_turns_bad_once_all_have_it_gives_way_to_the_version_before(
    config, world, alerts, record_property
):
    first_version(world, alerts)
    with viewers(config, per_second=ASKED_PER_S) as met:
        release_id = release(world, FLAWED)
        judgement = watch_to_the_end(world, release_id)
        assert judgement.verdict is Verdict.PASS, judgement.reason
        steps.promote(world, release_id, announce=alerts.append)
        judgement = watch_to_the_end(world, release_id)
        assert judgement.verdict is Verdict.FAIL, judgement.reason
        assert "were short" in judgement.reason
        with Phase("revert", met, record_property):
            assert steps.settle(world, release_id, announce=alerts.append) == "reverted"
    assert versions(world) == {"stable-1": 1, "stable-2": 1}
    assert world.ledger.stable() == 1
    assert world.registry.notes[FLAWED].startswith("reverted: ")
    assert [alert.key for alert in alerts[-2:]] == [
        f"release-{release_id}-promoted",
        f"release-{release_id}-reverted",
    ]
    assert met.statuses.keys() == {200}


@pytest.mark.timeout(240)
def test_dead_canary_is_aborted_and_its_users_are_answered_by_stable(
    config, world, stack, alerts, record_property
):
    first_version(world, alerts)
    with viewers(config, per_second=ASKED_PER_S) as met:
        release_id = release(world, 2)
        stack.supervisor.control("stop", "replica-canary")
        judgement = watch_to_the_end(world, release_id)
        with Phase("abort", met, record_property):
            steps.abort(world, release_id, announce=alerts.append)
    assert judgement.verdict is Verdict.FAIL
    # Whichever is noticed first: it is away, or its users meet somebody else.
    assert re.search("the candidate is down|users met the candidate", judgement.reason)
    assert versions(world).keys() == {"stable-1", "stable-2"}
    assert met.statuses.keys() == {200}


@pytest.mark.timeout(240)
def test_killed_canary_comes_back_and_the_watch_goes_on(config, world, alerts):
    first_version(world, alerts)
    with viewers(config, per_second=ASKED_PER_S) as met:
        release_id = release(world, 2)
        victim = next(
            process for process in psutil.process_iter(["cmdline"]) if listens(process, config.canary_port)
        )
        os.kill(victim.pid, signal.SIGKILL)
        judgement = watch_to_the_end(world, release_id)
    assert judgement.verdict is Verdict.PASS, judgement.reason
    assert met.statuses.keys() == {200}


def listens(process: psutil.Process, port: int) -> bool:
    try:
        found = any(
            one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in process.net_connections()
        )
    except psutil.Error:
        return False
    return found


@pytest.mark.timeout(240)
def test_dead_prometheus_neither_promotes_nor_aborts(config, world, stack, alerts):
    first_version(world, alerts)
    with viewers(config, per_second=ASKED_PER_S):
        release_id = release(world, 2)
        stack.supervisor.control("stop", "prometheus")
        judgement = watch_to_the_end(world, release_id)
        assert judgement.verdict is Verdict.INSTRUMENT_BROKEN
        assert "gave no answer" in judgement.reason
        assert steps.outcome(world, release_id) == "ask"
        assert world.ledger.get(release_id).state is State.ASKING
        assert world.fleet.running()["canary"].version == 2


@pytest.mark.timeout(240)
def test_stack_comes_back_in_the_middle_of_a_watch(config, world, stack, alerts):
    first_version(world, alerts)
    release_id = release(world, 2)
    window = world.ledger.get(release_id).watch_from
    stack.stop()
    assert not stack.is_up()
    stack.start(with_airflow=False)
    keep.restore(world)
    assert world.fleet.running()["canary"].version == 2
    assert "percent=20" in world.router.current()
    assert world.ledger.get(release_id).watch_from == window


@pytest.mark.timeout(240)
def test_killed_supervisord_leaves_no_process_behind_after_stop(config, world, stack, alerts):
    first_version(world, alerts)
    os.kill(int(stack.supervisor.pid_path.read_text()), signal.SIGKILL)
    assert answers(f"{config.recommend_url}/1")
    counters = LocalFleet(config, stack.supervisor).counters_dir
    assert counters.exists()
    stack.stop()
    assert not answers(f"{config.recommend_url}/1")
    assert not counters.exists()
    stack.check_ports()
