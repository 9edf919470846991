"""Fire drills on the real stack without Airflow: viewers go on being answered, and notice nothing."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from sqlalchemy import func, select

from pipelines.errors import NothingNew
from pipelines.fault import Fault
from pipelines.local.stack import Stack, wait_for
from pipelines.records.database import connect, migrate
from pipelines.records.tables import reccom
from pipelines.release import drills, steps
from pipelines.release.fleet.local import LocalFleet
from pipelines.release.ledger import Ledger
from pipelines.release.plan import Plan
from pipelines.release.prometheus import Prometheus
from pipelines.release.world import World, local_nginx
from pipelines.settings import PROJECT_DIR, environment, read
from tests.fakes import FakeRegistry, tiny_artifact
from tests.ports import free_ports
from tests.viewers import viewers

PORTS = (
    *("nginx_port", "stable_1_port", "stable_2_port", "canary_port", "shadow_port"),
    *("prometheus_port", "airflow_port", "receipts_port", "smtp_catcher_port", "slack_catcher_port"),
)
PLAN = Plan.of(read(guard_s=0, preflight_requests=500))
ASKED_PER_S = 100
DRILL = """
from dataclasses import replace
from pipelines.release import drills, world
from pipelines.release.plan import Plan
from pipelines.fault import Fault
from pipelines.settings import read
from tests.fakes import FakeRegistry

config = read()
here = replace(world.world(config), registry=FakeRegistry())
drills.drill(here, [Fault.SLOW], run="killed", plan=Plan.of(config), most_s=600, announce=print)
"""


class Artifacts(FakeRegistry):
    """Versions whose artifacts are real but tiny."""

    def export(self, version, models_dir):
        folder = models_dir / f"v{version}"
        return folder if folder.exists() else tiny_artifact(folder, version=version)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drill")
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    (folder / "movielog.log").touch()
    return read(
        var_dir=folder,
        replica_workers=1,
        event_source="file",
        event_file=folder / "movielog.log",
        guard_s=0,
        **ports,
    )


@pytest.fixture(scope="module")
def world(config):
    """The stack with version 1 serving."""
    stack = Stack(config, kafka_home=None)
    migrate(config.records)
    stack.start(with_airflow=False)
    engine = connect(config.records)
    here = World(
        ledger=Ledger(engine),
        fleet=LocalFleet(config, stack.supervisor),
        router=local_nginx(config),
        registry=Artifacts(),
        prometheus=Prometheus(config.prometheus),
        records=engine,
        models_dir=config.models_dir,
        shadow_spool_dir=config.shadow_spool_dir,
        look_here="the test",
    )
    release = steps.open_release(here, version=1, plan=PLAN, requested_by="test")
    steps.preflight(here, release.release_id)
    steps.start_canary(here, release.release_id)
    steps.promote(here, release.release_id, announce=print)
    yield here
    engine.dispose()
    stack.stop()
    stack.check_ports()


def drilled(world, *faults, most_s, run):
    alerts = []
    trials = drills.drill(world, faults, run=run, plan=PLAN, most_s=most_s, announce=alerts.append)
    return trials, alerts


def recorded(world):
    query = select(reccom.c.replica, func.count().label("answers")).group_by(reccom.c.replica)
    with world.records.connect() as connection:
        return {row.replica: row.answers for row in connection.execute(query)}


@contextmanager
def nobody_notices(config):
    """Viewers come; afterwards none of them was let down."""
    with viewers(config, per_second=ASKED_PER_S) as met:
        time.sleep(6)  # until receipts of a few hundred are in the database
        yield met
    print(f"viewers: {met.statuses.total()} answers, {met.failed} failed, p99 {met.percentile_ms(99):.1f} ms")
    assert met.failed == 0, met.statuses


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def nothing_is_left(config, world):
    assert not listens(config.shadow_port)
    assert "shadow" not in world.router.current()
    assert not config.shadow_spool_dir.exists()
    assert world.fleet.running().keys() == {"stable-1", "stable-2"}


@pytest.mark.timeout(180)
def test_known_faults_are_caught_and_a_sound_replica_is_not(config, world):
    with nobody_notices(config):
        trials, alerts = drilled(
            world, Fault.NONE, Fault.SLOW, Fault.ERRORING, Fault.WRONG_IDS, most_s=15, run="one"
        )
    for trial in trials:
        print(
            f"{trial.fault:10} {trial.instrument:9} {trial.verdict:10} {trial.after_s:5.1f} s  {trial.reason}"
        )
    caught = {(trial.fault, trial.instrument) for trial in trials if trial.caught}
    assert caught == {
        *((fault, drills.PREFLIGHT) for fault in (Fault.SLOW, Fault.ERRORING, Fault.WRONG_IDS)),
        *((fault, drills.WATCH) for fault in (Fault.SLOW, Fault.ERRORING)),
    }
    assert all(trial.answers > 0 for trial in trials)
    assert [alert.title for alert in alerts] == ["Marquee: fire drill over, all 4 as they should be"]
    assert recorded(world).keys() == {"stable-1", "stable-2"}
    nothing_is_left(config, world)


@pytest.mark.timeout(180)
def test_a_killed_drill_is_cleaned_up_by_the_next_one(config, world, tmp_path):
    with nobody_notices(config) as met:
        with (tmp_path / "log").open("wb") as log:
            killed = subprocess.Popen(
                [sys.executable, "-c", DRILL],
                env=os.environ | environment(config) | {"PYTHONPATH": str(PROJECT_DIR)},
                stdout=log,
                stderr=log,
            )
        wait_for("the copies", lambda: "shadow" in world.router.current(), within_s=60)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        before = met.statuses.total()
        wait_for("viewers who meet what was left", lambda: met.statuses.total() > before + ASKED_PER_S)
        assert listens(config.shadow_port)
        trials, _ = drilled(world, Fault.SHORT, most_s=5, run="two")
    assert any(trial.caught for trial in trials)
    assert recorded(world).keys() == {"stable-1", "stable-2"}
    nothing_is_left(config, world)


@pytest.mark.timeout(180)
def test_a_drill_gives_way_to_a_release(config, world):
    release = steps.open_release(world, version=2, plan=PLAN, requested_by="test")
    with pytest.raises(NothingNew, match="gives way"):
        drilled(world, Fault.SLOW, most_s=5, run="three")
    steps.abort(world, release.release_id, announce=print)
    nothing_is_left(config, world)
