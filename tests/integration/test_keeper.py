"""The keeper on a real Docker engine, with a compose project as small as can be."""

import os
import signal
import subprocess
import sys
import time
import uuid

import httpx
import pytest
from docker import APIClient
from docker.errors import APIError

from pipelines.containers.keeper import METRICS_PORT, Starter
from pipelines.release.world import converging
from pipelines.settings import PROJECT_DIR, environment, read

SOCKET = "unix:///var/run/docker.sock"
IMAGE = "python:3.13-slim-trixie"
PATIENCE_S = 30.0
COMPOSE = f"""
x-service: &service
  image: {IMAGE}
  command: [sleep, infinity]
  init: true
  restart: always
  stop_grace_period: 1s
services:
  plain: *service
  stable-1: *service
  deaf:
    <<: *service
    # It does not end in time when it is stopped: exit code 137, like one that is killed.
    command: [sh, -c, "trap '' TERM; while true; do sleep 0.1; done"]
    init: false
  one-shot:
    <<: *service
    restart: "no"
  door: *service
  nginx:
    <<: *service
    init: false
    network_mode: service:door
    pid: service:door
"""


class Project:
    """A compose project of its own."""

    def __init__(self, folder):
        self.config = read(
            _env_file=None,
            var_dir=folder / "var",
            docker_host=SOCKET,
            compose_project=f"marquee-tests-keeper-{uuid.uuid4().hex[:8]}",
        )
        self.file = folder / "compose.yaml"
        self.file.write_text(COMPOSE)
        self.docker = APIClient(SOCKET, version="auto", timeout=30)

    def compose(self, *arguments):
        command = ["docker", "compose", "-p", self.config.compose_project, "-f", str(self.file)]
        subprocess.run([*command, *arguments], check=True, capture_output=True, timeout=120)

    def name(self, service):
        return f"{self.config.compose_project}-{service}-1"

    def state(self, service):
        return self.docker.inspect_container(self.name(service))["State"]

    def runs(self, service):
        return self.state(service)["Running"]

    def kill(self, *services):
        for service in services:
            self.docker.kill(self.name(service))
        wait_until(lambda: not any(map(self.runs, services)), "they are dead")

    def starter(self):
        return Starter(self.config, lambda: self.docker)


@pytest.fixture(scope="module")
def up(docker_engine, tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    try:
        project.compose("up", "-d")
        yield project
    finally:
        project.compose("kill")
        project.compose("down", "--volumes")
        project.docker.close()


@pytest.fixture
def project(up):
    """The project with everything running, as compose would start it."""
    up.compose("up", "-d")
    return up


def wait_until(condition, what, within_s=PATIENCE_S):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s:g} s in vain until {what}"
        time.sleep(0.05)


def look_again_and_again(starter, for_s):
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        starter.look()
        time.sleep(0.1)


def test_docker_does_not_start_again_what_was_killed(project):
    """Why there is a keeper at all; an engine that does makes half of it superfluous."""
    project.kill("plain")
    time.sleep(2.0)
    assert not project.runs("plain")


def test_what_was_killed_comes_back_and_a_one_shot_does_not(project):
    project.kill("plain", "deaf", "one-shot")
    starter = project.starter()
    wait_until(lambda: starter.look() or (project.runs("plain") and project.runs("deaf")), "both are back")
    look_again_and_again(starter, for_s=1.5)
    assert not project.runs("one-shot")


def test_what_a_person_stopped_stays_stopped_however_it_ended(project, caplog):
    project.compose("stop", "plain", "deaf")
    assert [project.state(service)["ExitCode"] for service in ("plain", "deaf")] == [128 + 15, 128 + 9]
    look_again_and_again(project.starter(), for_s=3.0)
    assert not project.runs("plain")
    assert not project.runs("deaf")
    told = [record.getMessage() for record in caplog.records if project.name("deaf") in record.getMessage()]
    assert len(told) == 1
    assert "it was stopped, and did not end in time" in told[0]


def test_what_was_stopped_started_and_then_killed_comes_back(project):
    project.compose("stop", "deaf")
    project.compose("start", "deaf")
    project.kill("deaf")
    starter = project.starter()
    wait_until(lambda: starter.look() or project.runs("deaf"), "it is back")


def test_what_is_killed_again_and_again_has_to_wait_longer_and_longer(project):
    starter, waited_s = project.starter(), []
    for _ in range(3):
        project.kill("plain")
        died = time.monotonic()
        wait_until(lambda: starter.look() or project.runs("plain"), "it is back")
        waited_s.append(time.monotonic() - died)
    assert waited_s[0] < 2.0
    assert waited_s[1] + 0.5 >= 2.0 * 2
    assert waited_s[2] + 0.5 >= 2.0 * 4


def test_no_replica_is_touched_while_a_release_moves_them(project):
    project.kill("stable-1")
    starter = project.starter()
    with converging(project.config.models_dir):
        look_again_and_again(starter, for_s=2.5)
        assert not project.runs("stable-1")
    wait_until(lambda: starter.look() or project.runs("stable-1"), "it is back")


def test_keeper_starts_what_was_killed_and_counts_it_and_ends_when_told(project, tmp_path):
    heartbeat = tmp_path / "heartbeat"
    command = [sys.executable, "-m", "pipelines", "keep", "--heartbeat", str(heartbeat)]
    env = {**os.environ, **environment(project.config)}
    keeper = subprocess.Popen(command, cwd=PROJECT_DIR, env=env)
    try:
        wait_until(heartbeat.exists, "both duties are well")
        project.kill("plain")
        wait_until(lambda: project.runs("plain"), "it is back")
        metrics = httpx.get(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=10.0).text
        assert 'marquee_keeper_started_total{service="plain"} 1.0' in metrics
        assert 'marquee_keeper_well{duty="starting what was killed"} 1.0' in metrics
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(timeout=2.0) == 0
    finally:
        keeper.kill()
        keeper.wait()


def test_who_dies_with_another_comes_back_after_it(project):
    project.kill("door")
    starter = project.starter()
    wait_until(lambda: starter.look() or (project.runs("door") and project.runs("nginx")), "both are back")
    assert project.state("nginx")["StartedAt"] > project.state("door")["StartedAt"]


def test_who_started_before_another_as_after_a_reboot_is_started_again(project):
    project.compose("stop", "nginx", "door")
    with pytest.raises(APIError, match="cannot join network of a non running container"):
        project.docker.start(project.name("nginx"))
    starter = project.starter()
    look_again_and_again(starter, for_s=2.0)
    assert not project.runs("nginx"), "there is nothing to live in"
    project.docker.start(project.name("door"))
    wait_until(lambda: starter.look() or project.runs("nginx"), "it is back")
