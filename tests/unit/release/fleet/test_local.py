from configparser import RawConfigParser

import pytest

from pipelines.errors import FleetError
from pipelines.fault import Fault
from pipelines.release.fleet import SHADOW_REPLICA
from pipelines.release.fleet.local import LocalFleet
from pipelines.release.fleet.supervisor import Supervisor
from pipelines.settings import read
from tests.fakes import tiny_artifact


class StillSupervisor(Supervisor):
    """Writes its files and runs nothing."""

    def update(self, *names):
        pass


@pytest.fixture
def supervisor(tmp_path):
    made = StillSupervisor(tmp_path / "supervisor", tmp_path / "logs")
    made.programs_dir.mkdir(parents=True)
    return made


@pytest.fixture
def fleet_of(tmp_path, supervisor, monkeypatch):
    monkeypatch.setattr(LocalFleet, "_wait_ready", lambda *_: None)
    tiny_artifact(tmp_path / "models" / "v7")

    def make(**settings):
        return LocalFleet(read(var_dir=tmp_path, **settings), supervisor)

    return make


def program(supervisor, name):
    """Return (command, environment) of a program."""
    config = RawConfigParser()
    config.read(supervisor.programs_dir / f"{name}.ini")
    section = config[f"program:{name}"]
    pairs = (pair.split("=", 1) for pair in section["environment"].split(","))
    return section["command"], {key: value.strip('"') for key, value in pairs}


def test_a_replica_keeps_its_receipts_where_the_recorder_finds_them(fleet_of, supervisor, tmp_path):
    fleet_of().deploy("stable-1", 7, arm="stable")
    _, environment = program(supervisor, "replica-stable-1")
    assert environment["MARQUEE_SPOOL_DIR"] == str(tmp_path / "spool")


def test_the_shadow_is_apart_from_the_replicas_that_viewers_meet(fleet_of, supervisor, tmp_path):
    fleet = fleet_of()
    fleet.deploy(SHADOW_REPLICA, 7, arm="shadow", fault=Fault.SHORT)
    _, environment = program(supervisor, "shadow")
    assert (environment["MARQUEE_FAULT"], environment["MARQUEE_ARM"]) == ("short", "shadow")
    assert environment["MARQUEE_SPOOL_DIR"] == str(tmp_path / "shadow" / "spool")
    assert fleet.running() == {}
    fleet.remove(SHADOW_REPLICA)
    assert list(supervisor.programs_dir.iterdir()) == []


def test_the_demo_gives_a_fault_to_the_canary_alone(fleet_of, supervisor):
    fleet = fleet_of(canary_fault="slow")
    for replica, arm in (("stable-1", "stable"), ("canary", "canary"), (SHADOW_REPLICA, "shadow")):
        fleet.deploy(replica, 7, arm=arm)
    names = ("replica-stable-1", "replica-canary", "shadow")
    assert [program(supervisor, name)[1]["MARQUEE_FAULT"] for name in names] == ["none", "slow", "none"]


def test_a_version_that_was_not_fetched_is_named(fleet_of):
    with pytest.raises(FleetError, match="pipelines fetch 8"):
        fleet_of().deploy("stable-1", 8, arm="stable")


def test_an_unknown_replica_is_named(fleet_of):
    with pytest.raises(FleetError, match="no replica is named 'stable-9'; there are stable-1"):
        fleet_of().address("stable-9")
