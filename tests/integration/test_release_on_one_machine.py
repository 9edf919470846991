"""Releases on the real stack without Airflow: supervisord, NGINX, Prometheus, gunicorn, recorder."""

import os
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager

import httpx
import psutil
import pytest
from sqlalchemy import select

from pipelines.local.stack import Stack, answers, wait_for
from pipelines.records.database import connect, migrate
from pipelines.records.tables import reccom
from pipelines.release import steps
from pipelines.release.fleet.local import LocalFleet
from pipelines.release.judge import Verdict
from pipelines.release.ledger import Ledger, State
from pipelines.release.measure import Prometheus
from pipelines.release.plan import Plan
from pipelines.release.steps import World
from pipelines.release.world import local_nginx
from pipelines.settings import read
from tests.fakes import FakeRegistry, tiny_artifact
from tests.ports import free_ports

PORTS = (
    *("nginx_port", "stable_1_port", "stable_2_port", "canary_port"),
    *("prometheus_port", "airflow_port", "receipts_port"),
)
PLAN = Plan(
    canary_percent=20, window_s=14, extension_s=45, max_mean_ms=500, min_requests=10, max_error_share=0.05
)
ASKED_PER_S = 100


class Artifacts(FakeRegistry):
    """Versions whose artifacts are real but tiny."""

    def export(self, version, models_dir):
        folder = models_dir / f"v{version}"
        return folder if folder.exists() else tiny_artifact(folder, version=version)


@pytest.fixture
def config(tmp_path):
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    log = tmp_path / "movielog.log"
    log.touch()
    return read(var_dir=tmp_path, replica_workers=1, event_source="file", event_file=log, **ports)


@pytest.fixture
def stack(config):
    made = Stack(config, kafka_home=None)
    migrate(config.records)
    made.start(with_airflow=False)
    wait_for("Prometheus", lambda: answers(f"{config.prometheus}/-/ready"))
    yield made
    made.stop()


@pytest.fixture
def engine(config):
    made = connect(config.records)
    yield made
    made.dispose()


@pytest.fixture
def world(config, stack, engine):
    return World(
        ledger=Ledger(engine),
        fleet=LocalFleet(config, stack.supervisor),
        router=local_nginx(config),
        registry=Artifacts(),
        prometheus=Prometheus(config.prometheus),
        models_dir=config.models_dir,
        look_here="the test",
    )


@pytest.fixture
def alerts():
    return []


@contextmanager
def viewers(config):
    """Ask for recommendations all the time; yields the statuses counted so far."""
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=config.recommend_url, timeout=20) as client:
            user = 0
            while not stop.wait(1 / ASKED_PER_S):
                user += 1
                statuses[client.get(f"/{user % 1_000}").status_code] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        thread.join()


def release(world, version, alerts):
    release_id = steps.open_release(world, version=version, plan=PLAN, requested_by="test").release_id
    steps.preflight(world, release_id)
    steps.start_canary(world, release_id)
    return release_id


def first_version(world, alerts):
    release_id = release(world, 1, alerts)
    steps.promote(world, release_id, announce=alerts.append)


def watch(world, release_id):
    while not (judgement := steps.look(world, release_id)).final:
        time.sleep(1)
    return judgement


@pytest.mark.timeout(180)
def test_no_answer_fails_from_first_version_through_promotion_to_rollback(config, world, engine, alerts):
    first_version(world, alerts)
    with viewers(config) as statuses:
        release_id = release(world, 2, alerts)
        judgement = watch(world, release_id)
        assert judgement.verdict is Verdict.PASS, judgement.reason
        steps.promote(world, release_id, announce=alerts.append)
        assert {name: running.version for name, running in world.fleet.running().items()} == {
            "canary": 2,
            "stable-1": 2,
            "stable-2": 2,
        }
        steps.rollback(world, 1, plan=PLAN, why="test", requested_by="test", announce=alerts.append)
        last = httpx.get(f"{config.recommend_url}/1")
        assert set(last.headers["X-Marquee-Version"]) == {"1"}
    assert set(statuses) == {200}
    assert statuses[200] > 500

    def recorded() -> int:
        with engine.connect() as connection:
            return len(connection.execute(select(reccom.c.request_id)).all())

    wait_for("every receipt", lambda: recorded() == statuses[200] + 1, within_s=30)
    told = httpx.get(f"http://127.0.0.1:{config.receipts_port}/receipt/{last.headers['X-Request-Id']}").json()
    assert ",".join(told["receipt"]["movie_ids"]) == last.text.strip()
    assert (told["release"]["version"], told["release"]["verdict"]) == (1, "by hand")


@pytest.mark.timeout(180)
def test_dead_canary_is_aborted_and_its_users_are_answered_by_stable(config, world, stack, alerts):
    first_version(world, alerts)
    with viewers(config) as statuses:
        release_id = release(world, 2, alerts)
        stack.supervisor.control("stop", "replica-canary")
        judgement = watch(world, release_id)
        steps.abort(world, release_id, announce=alerts.append)
    assert judgement.verdict is Verdict.FAIL
    assert "down for 30 s" in judgement.reason
    assert world.fleet.running().keys() == {"stable-1", "stable-2"}
    assert set(statuses) == {200}


@pytest.mark.timeout(180)
def test_killed_canary_comes_back_and_the_watch_goes_on(config, world, alerts):
    first_version(world, alerts)
    with viewers(config) as statuses:
        release_id = release(world, 2, alerts)
        victim = next(
            process for process in psutil.process_iter(["cmdline"]) if listens(process, config.canary_port)
        )
        os.kill(victim.pid, signal.SIGKILL)
        judgement = watch(world, release_id)
    assert judgement.verdict is Verdict.PASS, judgement.reason
    assert set(statuses) == {200}


def listens(process: psutil.Process, port: int) -> bool:
    try:
        found = any(
            one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in process.net_connections()
        )
    except psutil.Error:
        return False
    return found


@pytest.mark.timeout(180)
def test_dead_prometheus_neither_promotes_nor_aborts(config, world, stack, alerts):
    first_version(world, alerts)
    with viewers(config):
        release_id = release(world, 2, alerts)
        stack.supervisor.control("stop", "prometheus")
        judgement = watch(world, release_id)
        assert judgement.verdict is Verdict.INSTRUMENT_BROKEN
        assert "gave no answer" in judgement.reason
        assert steps.outcome(world, release_id) == "ask"
        assert world.ledger.get(release_id).state is State.ASKING
        assert world.fleet.running()["canary"].version == 2


@pytest.mark.timeout(180)
def test_stack_comes_back_in_the_middle_of_a_watch(config, world, stack, alerts):
    first_version(world, alerts)
    release_id = release(world, 2, alerts)
    window = world.ledger.get(release_id).watch_from
    stack.stop()
    assert not stack.is_up()
    stack.start(with_airflow=False)
    steps.restore(world)
    assert world.fleet.running()["canary"].version == 2
    assert "percent=20" in world.router.current()
    assert world.ledger.get(release_id).watch_from == window


@pytest.mark.timeout(180)
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
