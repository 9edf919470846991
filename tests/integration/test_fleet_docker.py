"""Replicas behind the one interface: what holds for every fleet, and what Docker adds, on a real engine.

Real are Docker, `docker compose`, the serving image, supervisord and gunicorn.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from docker import APIClient
from docker.errors import ImageNotFound

from pipelines.errors import FleetError
from pipelines.fault import Fault
from pipelines.local.stack import wait_for
from pipelines.release import world as parts
from pipelines.release.fleet import Fleet, images
from pipelines.release.fleet.docker import PORT, DockerFleet
from pipelines.release.fleet.local import LocalFleet
from pipelines.settings import PROJECT_DIR, Settings, read
from tests.engine import NoEngine, engine
from tests.fakes import tiny_artifact
from tests.ports import free_ports

REPOSITORY = "marquee-tests-serving"
READY_S = 20.0
MOST_MB = 250
VERSIONS = (1, 2)
BROKEN = 5
"""A version whose artifact cannot be read."""
ARTIFACTS = (*VERSIONS, 3, 4, BROKEN)
REPLICAS = ("stable-1", "stable-2", "canary", "shadow")
PORTS = ("stable_1_port", "stable_2_port", "canary_port", "shadow_port")

COMPOSE = """
x-replica: &replica
  image: python:3.13-slim-trixie
  command: [sleep, infinity]
  user: "10001:10001"
  init: true
  restart: always
  read_only: true
  tmpfs: ["/tmp:mode=1777,size=256m"]
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  pids_limit: 512
  mem_limit: 512m
  environment: {MARQUEE_REPLICA_WORKERS: "1"}
  volumes: ["spool:/var/lib/marquee/spool"]
  networks: [marquee]
  stop_grace_period: 15s
services:
  stable-1: *replica
  stable-2: *replica
  canary: *replica
  shadow: {<<: *replica, volumes: ["shadow:/var/lib/marquee/shadow"]}
networks: {marquee: {internal: true}}
volumes: {spool: , shadow: }
"""

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.integration.test_fleet_docker"])


@dataclass
class Project:
    """A compose project of the tests' own, with the places of all replicas."""

    name: str
    folder: Path
    docker: APIClient

    def compose(self, *arguments: str, check: bool = True) -> str:
        file = self.folder / "docker-compose.yaml"
        file.write_text(COMPOSE)
        command = ["docker", "compose", "-p", self.name, "-f", str(file), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def containers(self, replica: str) -> list[dict[str, Any]]:
        """Return what Docker says of all containers of a replica."""
        labels = [f"com.docker.compose.project={self.name}", f"com.docker.compose.service={replica}"]
        listed = self.docker.containers(all=True, filters={"label": labels})
        return [self.docker.inspect_container(each["Id"]) for each in listed]

    def container(self, replica: str) -> dict[str, Any]:
        """Return the only container of a replica, which has the name that compose would give it."""
        found = self.containers(replica)
        assert [each["Name"] for each in found] == [f"/{self.name}-{replica}-1"]
        return found[0]

    def at(self, replica: str) -> str:
        (network,) = self.container(replica)["NetworkSettings"]["Networks"].values()
        return f"{network['IPAddress']}:{PORT}"

    def keeps_place(self, replica: str) -> bool:
        return self.container(replica)["Config"]["Cmd"] == ["sleep", "infinity"]


@dataclass
class Bench:
    """A fleet, and where its replicas can be asked from here."""

    fleet: Fleet
    at: Callable[[str], str]

    def ask(self, replica: str, path: str = "/recommend/1") -> httpx.Response:
        return httpx.get(f"http://{self.at(replica)}{path}", timeout=10)


@pytest.fixture(scope="module")
def docker() -> Iterator[APIClient]:
    try:
        client = engine()
    except NoEngine as reason:
        pytest.skip(str(reason))
    yield client
    client.close()


@pytest.fixture(scope="module")
def runtime(docker: APIClient) -> Iterator[str]:
    """The image of a replica without a model."""
    tag = f"{REPOSITORY}:runtime"
    command = ["docker", "build", "--quiet", "--tag", tag, "--file", "docker/serving/Dockerfile", "."]
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    done = subprocess.run(
        command, cwd=PROJECT_DIR, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    yield tag
    for name in (*(f"{REPOSITORY}:v{version}" for version in ARTIFACTS), tag):
        remove_image(docker, name)


def remove_image(docker: APIClient, name: str) -> None:
    with suppress(ImageNotFound):
        docker.remove_image(name, force=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run-time folder with artifacts."""
    var_dir = tmp_path_factory.mktemp("var")
    for version in ARTIFACTS:
        tiny_artifact(var_dir / "models" / f"v{version}", version=version)
    (var_dir / "models" / f"v{BROKEN}" / "trending.npy").write_bytes(b"")
    return var_dir


@pytest.fixture(scope="module")
def project(docker: APIClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(f"marquee-tests-fleet-{os.getpid()}", tmp_path_factory.mktemp("compose"), docker)
    try:
        made.compose("up", "--detach")
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "1", check=False)


@pytest.fixture(scope="module")
def config(models: Path, project: Project, runtime: str) -> Settings:
    return settings(models, project.name)


def settings(var_dir: Path, project: str) -> Settings:
    return read(
        var_dir=var_dir, compose_project=project, serving_repository=REPOSITORY, ready_timeout_s=READY_S
    )


@pytest.fixture
def containers(config: Settings, project: Project) -> Iterator[DockerFleet]:
    fleet = DockerFleet(config, lambda: project.docker)
    yield fleet
    for replica in REPLICAS:
        fleet.remove(replica)


@contextmanager
def programs(var_dir: Path) -> Iterator[LocalFleet]:
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    config = read(var_dir=var_dir, replica_workers=1, ready_timeout_s=READY_S, **ports)
    supervisor = parts.supervisor(config)
    supervisor.write_config()
    process = subprocess.Popen(supervisor.command())
    try:
        wait_for("supervisord", supervisor.socket_path.exists)
        fleet = LocalFleet(config, supervisor)
        yield fleet
        for replica in REPLICAS:
            fleet.remove(replica)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(params=["local", "docker"])
def bench(request: pytest.FixtureRequest, models: Path) -> Iterator[Bench]:
    if request.param == "docker":
        project = request.getfixturevalue("project")
        yield Bench(request.getfixturevalue("containers"), project.at)
        return
    with programs(models) as fleet:
        yield Bench(fleet, fleet.address)


# --- what holds for every fleet ---------------------------------------------------------------


def test_a_replica_answers_with_what_was_deployed_and_moves_to_the_next(bench):
    assert bench.fleet.running() == {}
    for version in (1, 2, 1):
        bench.fleet.deploy("stable-1", version, arm="stable", release=version)
        running = bench.fleet.running()
        assert {name: (each.version, each.arm) for name, each in running.items()} == {
            "stable-1": (version, "stable")
        }
        assert running["stable-1"].address == bench.fleet.address("stable-1")
        assert bench.ask("stable-1").headers["X-Marquee-Version"] == str(version)


def test_deploying_what_runs_already_changes_nothing(bench):
    bench.fleet.deploy("stable-1", 1, arm="stable", release=1)
    bench.ask("stable-1")
    # A later release of the same version, too: a rollback that was not needed.
    bench.fleet.deploy("stable-1", 1, arm="stable", release=2)
    # A replica that begins counts from nothing.
    assert 'source="personal",version="1"} 1.0' in bench.ask("stable-1", "/metrics").text


def test_a_replica_that_is_removed_is_gone_and_removing_nothing_is_fine(bench):
    bench.fleet.deploy("canary", 1, arm="canary")
    for _ in range(2):
        bench.fleet.remove("canary")
        assert bench.fleet.running() == {}
        with pytest.raises(httpx.HTTPError):
            bench.ask("canary")


def test_the_shadow_has_its_fault_and_is_not_among_those_that_viewers_meet(bench):
    bench.fleet.deploy("shadow", 1, arm="shadow", fault=Fault.SHORT)
    assert bench.fleet.running() == {}
    assert len(bench.ask("shadow").text.split(",")) == 3
    bench.fleet.deploy("shadow", 1, arm="shadow")
    assert len(bench.ask("shadow").text.split(",")) == 20


def test_a_version_that_was_not_fetched_is_named(bench):
    with pytest.raises(FleetError, match=r"no model in .*; fetch it with `python -m pipelines fetch 9`"):
        bench.fleet.deploy("stable-1", 9, arm="stable")


def test_packing_twice_gives_the_same(bench):
    assert bench.fleet.pack(1) == bench.fleet.pack(1)


# --- containers ----------------------------------------------------------------------------------


def test_a_container_says_what_it_is_and_where_it_belongs(containers, project):
    before = project.container("canary")
    containers.deploy("canary", 1, arm="canary", release=7)
    after = project.container("canary")
    labels = after["Config"]["Labels"]
    told = {key: labels[f"marquee.{key}"] for key in ("replica", "version", "release", "arm", "fault")}
    assert told == {"replica": "canary", "version": "1", "release": "7", "arm": "canary", "fault": "none"}
    assert labels["org.opencontainers.image.version"] == "v1"
    assert after["Image"] == containers.pack(1)
    assert after["HostConfig"] == before["HostConfig"]
    assert (after["Config"]["User"], after["Config"]["StopTimeout"]) == ("10001:10001", 15)
    (network,) = after["NetworkSettings"]["Networks"].values()
    assert "canary" in network["Aliases"]
    containers.remove("canary")
    restored = project.container("canary")
    assert {key: restored["Config"][key] for key in ("Cmd", "Env", "Image", "Labels", "User")} == {
        key: before["Config"][key] for key in ("Cmd", "Env", "Image", "Labels", "User")
    }
    assert restored["HostConfig"] == before["HostConfig"]


def test_compose_takes_a_replica_for_its_own(containers, project, docker):
    containers.deploy("stable-1", 1, arm="stable")
    made = project.container("stable-1")["Id"]
    project.compose("up", "--detach")
    assert project.container("stable-1")["Id"] == made
    services = [json.loads(line) for line in project.compose("ps", "--format", "json").splitlines()]
    assert {each["Service"]: each["Image"] for each in services}["stable-1"] == f"{REPOSITORY}:v1"
    project.compose("restart", "--timeout", "5", "stable-1")
    wait_for("the replica", lambda: containers.running()["stable-1"].version == 1)
    try:
        # Docker 20.10 on a busy machine at times miscounts who is left in the network, and keeps that.
        project.compose("down", "--timeout", "5", check=False)
        assert project.containers("stable-1") == []
        with pytest.raises(FleetError, match=r"keeps the place of stable-1; .*`docker compose up -d`"):
            containers.deploy("stable-1", 1, arm="stable")
    finally:
        project.compose("up", "--detach")
    assert project.keeps_place("stable-1")


def test_a_replica_that_is_stopped_is_started_and_not_made_anew(containers, project, docker):
    containers.deploy("stable-1", 1, arm="stable")
    made = project.container("stable-1")["Id"]
    docker.stop(made)
    assert containers.running()["stable-1"].version is None
    containers.deploy("stable-1", 1, arm="stable")
    assert project.container("stable-1")["Id"] == made
    assert containers.running()["stable-1"].version == 1


def test_a_replica_that_ends_at_once_is_told_at_once_with_its_last_words_and_taken_away(containers, project):
    containers.deploy("stable-1", 1, arm="stable")
    began_s = time.monotonic()
    with pytest.raises(FleetError, match=r"stable-1 ended \(exit code \d+\)[\s\S]*trending.npy"):
        containers.deploy("stable-1", BROKEN, arm="stable")
    assert time.monotonic() - began_s < READY_S / 2
    assert project.container("stable-1")["Config"]["Image"] == f"{REPOSITORY}:v1"
    assert containers.running()["stable-1"].version == 1


def test_a_changed_model_makes_another_image_and_an_unchanged_one_does_not(containers, models):
    first = containers.pack(2)
    meta = models / "models" / "v2" / "model.json"
    original = meta.read_text()
    try:
        meta.write_text(original.replace('"rmse": 0.875', '"rmse": 0.75'))
        second = containers.pack(2)
    finally:
        meta.write_text(original)
    assert first != second
    assert second.startswith("sha256:")
    third = containers.pack(2)
    assert containers.pack(2) == third


def test_images_of_old_versions_go_but_for_those_in_use(containers, project, monkeypatch):
    monkeypatch.setattr(images, "KEEP", 2)
    containers.deploy("stable-1", 1, arm="stable")
    for version in (2, 3, 4, 5):
        remove_image(project.docker, f"{REPOSITORY}:v{version}")
    kept = []
    # At last one that is old and wanted again, as for a rollback.
    for version in (2, 3, 4, 5, 2):
        containers.pack(version)
        tags = [tag for image in project.docker.images(name=REPOSITORY) for tag in image["RepoTags"] or ()]
        kept.append("".join(sorted(tag[-1] for tag in tags if not tag.endswith("runtime"))))
    assert kept == ["12", "123", "134", "145", "125"]


def test_receipts_survive_a_change_of_replicas(containers, project, docker):
    containers.deploy("stable-1", 1, arm="stable")
    bench = Bench(containers, project.at)
    asked = [bench.ask("stable-1").headers["X-Request-Id"]]
    containers.deploy("stable-1", 2, arm="stable")
    asked.append(bench.ask("stable-1").headers["X-Request-Id"])
    script = "cd /var/lib/marquee/spool; grep '' *"
    said = run_in(docker, project.container("stable-1")["Id"], ["sh", "-c", script]).splitlines()
    files = {json.loads(line)["request_id"]: file for file, _, line in (each.partition(":") for each in said)}
    # The first one has ended and sealed its own; nobody took the second one's for ended.
    assert [Path(files[request_id]).suffix for request_id in asked] == [".done", ".jsonl"]


def run_in(docker: APIClient, container: str, command: list[str]) -> str:
    made = docker.exec_create(container, command)["Id"]
    return docker.exec_start(made).decode()


# --- viewers --------------------------------------------------------------------------------------

VIEWERS = """
import http.client, json, socket, sys, threading, time
# As NGINX does: names resolved anew each second, both replicas in turn, the other one when one fails.
NAMES, met, seen = ["stable-1", "stable-2"], {"answers": 0, "failed": 0, "slowest_ms": 0.0}, {}

def addresses(name):
    found, at = seen.get(name, ((), 0.0))
    if time.monotonic() - at > 1.0:
        try:
            found = sorted({each[4][0] for each in socket.getaddrinfo(name, 8000, socket.AF_INET)})
        except OSError:
            pass
        seen[name] = found, time.monotonic()
    return found

def ask(address):
    connection = http.client.HTTPConnection(address, 8000, timeout=2.0)
    try:
        # A container that has gone does not even refuse; NGINX is not to wait for it either.
        connection.sock = socket.create_connection((address, 8000), 0.05)
        connection.sock.settimeout(2.0)
        connection.request("GET", "/recommend/1")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()

stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set())).start()
turn = 0
while not stop.wait(0.01):
    turn += 1
    began = time.monotonic()
    names = NAMES[turn % 2:] + NAMES[:turn % 2]
    good = any(ask(address) for name in names for address in addresses(name))
    met["answers" if good else "failed"] += 1
    met["slowest_ms"] = max(met["slowest_ms"], (time.monotonic() - began) * 1_000)
    if turn == 1:
        print("asks", flush=True)
print(json.dumps(met))
"""


@contextmanager
def viewers(project: Project) -> Iterator[dict[str, float]]:
    """Have a container ask all the time; what it met is known afterwards."""
    met: dict[str, float] = {}
    network = f"{project.name}_marquee"
    command = ["docker", "run", "--rm", "--interactive", "--network", network, "python:3.13-slim-trixie"]
    process = subprocess.Popen(
        [*command, "python", "-c", VIEWERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "asks\n"
    yield met
    said, _ = process.communicate(timeout=30)
    met |= json.loads(said)


def test_no_viewer_meets_a_failure_while_replicas_are_made_anew(containers, project, record_property):
    for replica in ("stable-1", "stable-2"):
        containers.deploy(replica, 1, arm="stable")
    with viewers(project) as met:
        for version in (2, 1):
            for replica in ("stable-1", "stable-2"):
                containers.deploy(replica, version, arm="stable")
    print(met)
    for name, value in met.items():
        record_property(name, value)
    assert met["failed"] == 0
    assert met["answers"] > 100


# --- kill -9 ----------------------------------------------------------------------------------------


class Dying(APIClient):
    """A client whose process dies by SIGKILL while Docker carries out a change, or right after it."""

    IN_THE_MIDDLE_S = 0.03

    def __init__(self, die_at: int | None, place: Path) -> None:
        self._die_at, self._place, self._passed = die_at, place, 0
        super().__init__(timeout=60, version="auto")

    def send(self, request: Any, **options: Any) -> Any:
        changes = request.method != "GET"
        if changes and self._passed == self._die_at:
            self._place.write_text(
                f"{request.method} {request.path_url.partition('?')[0].rpartition('/')[2]}"
            )
            kill = partial(os.kill, os.getpid(), signal.SIGKILL)
            threading.Timer(self.IN_THE_MIDDLE_S, kill).start()
            super().send(request, **options)
            kill()
        self._passed += changes
        return super().send(request, **options)


def carry_out(config: Settings, step: Callable[[Fleet], None], die_at: int | None, place: Path) -> None:
    step(DockerFleet(config, lambda: Dying(die_at, place)))


def dies(config: Settings, step: Callable[[Fleet], None], die_at: int, place: Path) -> str | None:
    """Run ``step`` in a process of its own; return in which change it died, None: it lived through."""
    process = FORKS.Process(target=carry_out, args=(config, step, die_at, place))
    process.start()
    process.join(60)
    if process.exitcode == -signal.SIGKILL:
        return place.read_text()
    assert process.exitcode == 0
    return None


def deploy(fleet: Fleet, version: int) -> None:
    fleet.deploy("stable-1", version, arm="stable")


def remove(fleet: Fleet) -> None:
    fleet.remove("stable-1")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("then", VERSIONS)
def test_a_deploy_that_is_killed_in_any_change_is_finished_or_undone_by_the_next(
    containers, project, config, tmp_path, then
):
    died = []
    for die_at in range(100):
        containers.deploy("stable-1", 1, arm="stable")
        remove_image(project.docker, f"{REPOSITORY}:v2")
        before = dies(config, partial(deploy, version=2), die_at, tmp_path / "place")
        containers.deploy("stable-1", then, arm="stable")
        assert containers.running()["stable-1"].version == then, before
        # On a busy machine Docker makes a container for the dead client only now; the next one finds it.
        time.sleep(1.0)
        containers.deploy("stable-1", then, arm="stable")
        assert project.container("stable-1")["Config"]["Image"] == f"{REPOSITORY}:v{then}", before
        assert containers.running()["stable-1"].version == then, before
        if before is None:
            break
        died.append(before.split()[0] if before.startswith("DELETE") else before)
    assert died == ["POST build", "POST create", "POST start", "POST stop", "DELETE", "POST rename"]


@pytest.mark.timeout(600)
def test_a_removal_that_is_killed_in_any_change_is_finished_by_the_next(
    containers, project, config, tmp_path
):
    for die_at in range(100):
        containers.deploy("stable-1", 1, arm="stable")
        before = dies(config, remove, die_at, tmp_path / "place")
        containers.remove("stable-1")
        assert containers.running() == {}, before
        time.sleep(1.0)
        containers.remove("stable-1")
        assert project.keeps_place("stable-1"), before
        assert project.container("stable-1")["State"]["Running"], before
        if before is None:
            break
    assert die_at == 5


# --- the image ----------------------------------------------------------------------------------------


def test_the_image_holds_what_serves_and_nothing_that_builds(docker, runtime, record_property):
    about = docker.inspect_image(runtime)
    megabytes = about["Size"] / 1e6
    record_property("image without a model, MB", round(megabytes))
    print(f"{megabytes:.0f} MB")
    assert megabytes <= MOST_MB
    assert about["Config"]["User"] == "10001:10001"
    history = json.dumps(docker.history(runtime)) + json.dumps(about["Config"]["Env"])
    for secret in ("PASSWORD", "SECRET", "TOKEN", "WEBHOOK", "KEY="):
        assert secret not in history.upper()
    script = """
import importlib.util as u, json, os, shutil, sys
from pathlib import Path
print(json.dumps({
    "programs": [p for p in ("gcc", "cc", "make", "pip", "pip3", "git", "curl", "wget") if shutil.which(p)],
    "modules": [m for m in ("pip", "ensurepip", "surprise", "scipy", "pandas", "pydantic", "sqlalchemy", "docker") if u.find_spec(m)],
    "ours": sorted(str(p.relative_to("/opt/marquee")) for p in Path("/opt/marquee").rglob("*.py")),
    "compiled": all(list((p.parent / "__pycache__").glob(p.stem + ".*pyc")) for p in Path("/opt/marquee/serving").glob("[!g]*.py")),
    "writable": [d for d in ("/opt/marquee", "/opt/venv", "/") if os.access(d, os.W_OK)],
    "owned": [os.stat("/var/lib/marquee/" + d).st_uid for d in ("spool", "recents", "shadow")],
    "whoami": [os.getuid(), os.getgid()],
}))
"""  # noqa: E501
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "python", runtime, "-c", script]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert said["programs"] == said["modules"] == said["writable"] == []
    assert said["compiled"]
    assert said["owned"] == [10001] * 3
    assert said["whoami"] == [10001, 10001]
    assert said["ours"] == sorted(imported_by_serving() | {"serving/gunicorn.conf.py"})


def imported_by_serving() -> set[str]:
    """Return the files of ours that a replica, a known-bad one too, loads."""
    script = (
        "import sys, serving.wsgi, serving.worker, pipelines.release.faults; "
        "print(*(m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT_DIR, capture_output=True, text=True)
    files = [Path(line) for line in done.stdout.splitlines()]
    ours = [file.relative_to(PROJECT_DIR) for file in files if file.is_relative_to(PROJECT_DIR)]
    return {str(file) for file in ours if file.parts[0] in ("pipelines", "serving")}


def test_a_replica_runs_with_a_read_only_root_and_stops_when_it_is_told(containers, project, docker):
    containers.deploy("stable-1", 1, arm="stable")
    container = project.container("stable-1")
    assert container["HostConfig"]["ReadonlyRootfs"]
    wait_for("Docker to find it healthy", lambda: health(project) == "healthy", within_s=30)
    began_s = time.monotonic()
    docker.stop(container["Id"])
    assert time.monotonic() - began_s < 5
    assert project.container("stable-1")["State"]["ExitCode"] == 0


def health(project: Project) -> str:
    return str(project.container("stable-1")["State"]["Health"]["Status"])
