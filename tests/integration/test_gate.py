"""The gate as compose runs it, before a real engine: what the deployer does goes through, attacks do not."""

import contextlib
import gc
import io
import os
import socket
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Thread
from typing import Any

import docker
import pytest
from docker.errors import APIError, NotFound
from docker.types import Mount

from pipelines.containers.keeper import Starter
from pipelines.release.fleet.docker import DockerFleet
from pipelines.release.fleet.place import kept_place
from pipelines.settings import FleetKind, Settings, read
from tests.compose import Compose
from tests.fakes import tiny_artifact

PLACE = "python:3.13-slim-trixie"
VERSION = 900_000_000 + os.getpid() % 1_000_000
IMAGE = f"marquee-serving:v{VERSION}"
BIG_IMAGE = f"marquee-serving:v{VERSION - 1_000_000}"
EVIL_IMAGE = f"marquee-serving:v{VERSION - 2_000_000}"
RUNTIME = "FROM marquee-serving:runtime\n"
SAYS_THREE_LINES = "for i in 1 2 3; do echo line $i; sleep 0.4; done; exit 3"


@dataclass
class Stage:
    """A project with its gate, the place of the canary, and containers that the gate has to protect."""

    compose: Compose
    engine: docker.APIClient
    gate: docker.APIClient
    address: tuple[str, int]
    victims: dict[str, str]
    """Ids by name: ``mysql`` and ``nginx`` of the project, and ``other`` of none."""

    @property
    def project(self) -> str:
        return self.compose.project

    def victims_are_well(self) -> bool:
        states = [self.engine.inspect_container(each)["State"] for each in self.victims.values()]
        return all(state["Running"] for state in states)

    def ask(self, *pieces: bytes) -> bytes:
        """Send bytes as they are and return what comes back."""
        with socket.create_connection(self.address, timeout=10) as connection:
            for piece in pieces:
                connection.sendall(piece)
            answer = b""
            with contextlib.suppress(ConnectionResetError, TimeoutError):
                while piece := connection.recv(65536):
                    answer += piece
        return answer


@pytest.fixture(scope="module")
def stage(docker_engine: docker.APIClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    project = f"marquee-test-gate-{os.getpid()}"
    compose = Compose(project, tmp_path_factory.mktemp("gate"))
    if not docker_engine.images("marquee-serving:runtime"):
        compose.run("build", "serving-image")
    victims: dict[str, str] = {}
    try:
        compose.run("up", "--detach", "--no-deps", "--build", "--wait", "gate", "canary")
        labels = {"com.docker.compose.project": project}
        always = docker_engine.create_host_config(restart_policy={"Name": "always"})
        script = "trap 'echo hup' HUP; echo up; while :; do sleep 0.1; done"
        for name in ("mysql", "nginx", "other"):
            own = {} if name == "other" else labels | {"com.docker.compose.service": name}
            made = docker_engine.create_container(
                PLACE,
                ["sh", "-c", script],
                environment=["PASSWORD=s3cret"],
                labels=own,
                host_config=always,
            )
            victims[name] = made["Id"]
            docker_engine.start(made["Id"])
        (network,) = compose.containers()["gate"]["NetworkSettings"]["Networks"].values()
        address = (network["IPAddress"], 2375)
        gate = docker.APIClient(f"tcp://{address[0]}:{address[1]}", version="auto", timeout=60)
        yield Stage(compose, docker_engine, gate, address, victims)
        gate.close()
    finally:
        for victim in victims.values():
            docker_engine.remove_container(victim, force=True)
        compose.remove()
        for name in (IMAGE, BIG_IMAGE, EVIL_IMAGE):
            with contextlib.suppress(NotFound):
                docker_engine.remove_image(name, force=True)


@pytest.fixture(autouse=True)
def _sockets_are_collected() -> Iterator[None]:
    """What docker-py streamed from, it leaves to the garbage collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def context(dockerfile: str = RUNTIME, megabytes: int = 1) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        files = {"Dockerfile": dockerfile.encode(), "model/big": bytes(megabytes * 2**20)}
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    file.seek(0)
    return file


def build(client: docker.APIClient, tag: str, dockerfile: str = RUNTIME, **options: Any) -> list[str]:
    """Build, and return what was said."""
    said = client.build(
        fileobj=context(dockerfile), custom_context=True, tag=tag, rm=True, decode=True, **options
    )
    return [str(line) for line in said]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, stage: Stage) -> Settings:
    config = read(
        var_dir=tmp_path_factory.mktemp("var"), compose_project=stage.project, fleet=FleetKind.DOCKER
    )
    tiny_artifact(config.models_dir / f"v{VERSION}", version=VERSION)
    return config


@pytest.fixture(scope="module")
def fleet(config: Settings, stage: Stage) -> DockerFleet:
    return DockerFleet(config, lambda: stage.gate)


@pytest.fixture(scope="module")
def image(fleet: DockerFleet) -> str:
    """An image of a version, built through the gate."""
    return fleet.pack(VERSION)


def training(stage: Stage, command: str, **host: Any) -> dict[str, Any]:
    """What makes a training, as the operator of Airflow does."""
    limits = {"network_mode": f"{stage.project}_marquee", "mem_limit": "64m", "cap_drop": ["ALL"]} | host
    return {
        "name": f"{stage.project}-train",
        "image": PLACE,
        "command": ["sh", "-c", command],
        "user": "10001:10001",
        "labels": {"com.docker.compose.project": stage.project, "marquee.task": "train"},
        "host_config": stage.engine.create_host_config(**limits),
    }


def test_a_replica_is_made_anew_and_its_place_put_back(stage: Stage, fleet: DockerFleet, image: str) -> None:
    def now() -> dict[str, Any]:
        found: dict[str, Any] = stage.engine.inspect_container(f"{stage.project}-canary-1")
        return found

    old = now()
    limits = (
        "Memory",
        "PidsLimit",
        "ReadonlyRootfs",
        "CapDrop",
        "SecurityOpt",
        "Binds",
        "Tmpfs",
        "MaskedPaths",
    )
    # The second time its place has been put back by us.
    for _ in range(2):
        fleet.deploy("canary", VERSION, arm="canary")
        assert (now()["Image"], kept_place(now()) is None) == (image, False)
        assert fleet.running()["canary"].version == VERSION
        assert {key: now()["HostConfig"][key] for key in limits} == {
            key: old["HostConfig"][key] for key in limits
        }
        fleet.remove("canary")
        assert (now()["Image"], kept_place(now())) == (old["Image"], None)
        assert {key: now()["HostConfig"][key] for key in limits} == {
            key: old["HostConfig"][key] for key in limits
        }


def test_what_was_killed_is_started_again_by_the_keeper(stage: Stage, config: Settings) -> None:
    stage.engine.kill(stage.victims["mysql"])
    keeper, deadline = Starter(config, lambda: stage.gate), time.monotonic() + 15
    while not stage.victims_are_well():
        assert time.monotonic() < deadline, "it has not been started"
        time.sleep(0.2)
        keeper.look()


def test_a_training_is_followed_as_it_speaks(stage: Stage) -> None:
    gate = stage.gate
    made = gate.create_container(**training(stage, SAYS_THREE_LINES))["Id"]
    gate.start(made)
    lines = gate.logs(made, stream=True, follow=True)
    began_s = time.monotonic()
    came_s = [time.monotonic() - began_s for _ in lines]
    assert len(came_s) == 3
    assert came_s[-1] - came_s[0] > 0.4
    assert gate.wait(made)["StatusCode"] == 3
    assert gate.logs(made) == b"line 1\nline 2\nline 3\n"
    gate.remove_container(made, force=True, v=True)
    with pytest.raises(NotFound, match="No such container"):
        gate.logs(made)


def test_a_log_is_followed_as_it_grows_and_the_end_is_waited_for(stage: Stage) -> None:
    made = stage.gate.create_container(**training(stage, SAYS_THREE_LINES))["Id"]
    stage.gate.start(made)
    waited: list[int] = []
    waiter = Thread(target=lambda: waited.append(stage.gate.wait(made)["StatusCode"]))
    waiter.start()
    assert b"".join(stage.gate.logs(made, stream=True, follow=True)) == b"line 1\nline 2\nline 3\n"
    waiter.join(10)
    assert waited == [3]
    stage.gate.remove_container(made)


def test_a_build_may_come_in_chunks_and_takes_no_memory(stage: Stage) -> None:
    file = context(megabytes=100)
    pieces = iter(lambda: file.read(2**16), b"")
    said = list(stage.gate.build(fileobj=pieces, custom_context=True, tag=BIG_IMAGE, decode=True))
    assert "Successfully tagged" in str(said[-1])
    gate = stage.compose.containers()["gate"]["Id"]
    used = stage.engine.stats(gate, stream=False)["memory_stats"]
    assert used["max_usage"] - used["stats"].get("cache", 0) < 60 * 2**20


def test_nginx_is_told_to_read_again_and_heard(stage: Stage) -> None:
    stage.gate.kill(stage.victims["nginx"], "HUP")
    deadline = time.monotonic() + 10
    while b"hup" not in stage.gate.logs(stage.victims["nginx"]):
        assert time.monotonic() < deadline, "the signal has not arrived"
        time.sleep(0.1)


def test_only_the_project_is_seen_and_no_secret_of_others(stage: Stage) -> None:
    seen = {each["Id"] for each in stage.gate.containers(all=True)}
    assert {stage.victims["mysql"], stage.victims["nginx"]} < seen
    assert stage.victims["other"] not in seen
    assert stage.gate.inspect_container(stage.victims["mysql"])["Config"]["Env"] == []
    events = list(stage.gate.events(since=0, until=int(time.time()), decode=True))
    assert stage.victims["other"] not in {event.get("id") for event in events}
    assert {event["status"] for event in events} <= {"die", "stop"}
    names = [name for each in stage.gate.images() for name in each["RepoTags"] or ()]
    assert {name.partition(":")[0] for name in names} == {"marquee-serving"}


Attack = Callable[[docker.APIClient, Stage], object]
CONTAINERS: dict[str, dict[str, Any]] = {
    "privileged": {"privileged": True},
    "capability": {"cap_add": ["SYS_ADMIN"]},
    "folder of the host": {"binds": ["/:/host"]},
    "the socket": {"binds": ["/var/run/docker.sock:/s"]},
    "the socket as a mount": {"mounts": [Mount("/s", "/var/run/docker.sock", type="bind")]},
    "the host's network": {"network_mode": "host"},
    "the host's processes": {"pid_mode": "host"},
    "unconfined": {"security_opt": ["seccomp=unconfined"]},
    "port": {"port_bindings": {80: 80}},
}
ATTACKS: dict[str, Attack] = {
    "command in a replica": lambda gate, stage: gate.exec_create(f"{stage.project}-canary-1", "id"),
    "command in the database": lambda gate, stage: gate.exec_create(stage.victims["mysql"], "id"),
    "file into a replica": lambda gate, stage: gate.put_archive(f"{stage.project}-canary-1", "/", b""),
    "file out of the database": lambda gate, stage: list(gate.get_archive(stage.victims["mysql"], "/")[0]),
    "end of the database": lambda gate, stage: gate.stop(stage.victims["mysql"]),
    "death of the database": lambda gate, stage: gate.kill(stage.victims["mysql"]),
    "removal of the database": lambda gate, stage: gate.remove_container(stage.victims["mysql"], force=True),
    "log of the database": lambda gate, stage: gate.logs(stage.victims["mysql"]),
    "death of NGINX": lambda gate, stage: gate.kill(stage.victims["nginx"], "KILL"),
    "another project": lambda gate, stage: gate.inspect_container(stage.victims["other"]),
    "end of another project": lambda gate, stage: gate.stop(stage.victims["other"]),
    "start of another project": lambda gate, stage: gate.start(stage.victims["other"]),
    "end of the gate": lambda gate, stage: gate.stop(f"{stage.project}-gate-1"),
    "limits": lambda gate, stage: gate.update_container(f"{stage.project}-canary-1", mem_limit="64g"),
    "image of a container": lambda gate, stage: gate.commit(f"{stage.project}-canary-1", IMAGE),
    "image from elsewhere": lambda gate, stage: gate.pull("alpine"),
    "image from a file": lambda gate, stage: list(gate.load_image(b"")),
    "another image's name": lambda gate, stage: gate.tag(IMAGE, "marquee-airflow", "latest"),
    "a version's name for another image": lambda gate, stage: gate.tag(PLACE, "marquee-serving", "v1"),
    "another image": lambda gate, stage: gate.remove_image("marquee-airflow"),
    "build of another image": lambda gate, stage: build(gate, "marquee-airflow"),
    "build from elsewhere": lambda gate, stage: list(gate.build(path="http://192.0.2.1/x.tar", tag=IMAGE)),
    "build in the host's network": lambda gate, stage: build(gate, IMAGE, network_mode="host"),
    "build of another image's content": lambda gate, stage: build(gate, IMAGE, "FROM mysql:9\n"),
    "build that pulls": lambda gate, stage: build(gate, IMAGE, "FROM 192.0.2.1:5000/x\n"),
    "build that runs a command": lambda gate, stage: build(gate, IMAGE, f"{RUNTIME}USER 0:0\nRUN id\n"),
    "attachment to a replica": lambda gate, stage: gate.attach(f"{stage.project}-canary-1"),
    "secrets of another image": lambda gate, stage: gate.inspect_image("mysql:9"),
    "removal of another image by its id": lambda gate, stage: gate.remove_image(
        stage.engine.inspect_image("nginx:stable")["Id"]
    ),
    "the database's name": lambda gate, stage: gate.create_container(
        **training(stage, "id"), hostname="mysql"
    ),
    "volume": lambda gate, stage: gate.create_volume("x", driver_opts={"type": "none", "device": "/"}),
    "network": lambda gate, stage: gate.connect_container_to_network(stage.victims["other"], "bridge"),
    "tidying up": lambda gate, stage: gate.prune_containers(),
    "the machine": lambda gate, stage: gate.info(),
    "container of another image": lambda gate, stage: gate.create_container(
        **training(stage, "id") | {"image": "mysql:9"}
    ),
    "container of another image by its id": lambda gate, stage: gate.create_container(
        **training(stage, "id") | {"image": stage.engine.inspect_image("nginx:stable")["Id"]}
    ),
    "root": lambda gate, stage: gate.create_container(**training(stage, "id") | {"user": "0:0"}),
    "container of another project": lambda gate, stage: gate.create_container(
        **training(stage, "id") | {"labels": {"marquee.task": "train"}}
    ),
    **{
        f"container with {name}": lambda gate, stage, host=host: gate.create_container(
            **training(stage, "id", **host)
        )
        for name, host in CONTAINERS.items()
    },
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_the_deployer_does_not_need_is_refused(stage: Stage, image: str, attack: Attack) -> None:
    before = {each["Id"] for each in stage.engine.containers(all=True, filters={"label": "marquee.task"})}
    with pytest.raises(APIError, match="gate: ") as refusal:
        attack(stage.gate, stage)
    assert refusal.value.status_code == 403
    assert {
        each["Id"] for each in stage.engine.containers(all=True, filters={"label": "marquee.task"})
    } == before
    assert stage.victims_are_well()


def stop_of(victim: str) -> bytes:
    return f"POST /v1.41/containers/{victim}/stop?t=0 HTTP/1.1\r\nHost: docker\r\n\r\n".encode()


PING = b"GET /_ping HTTP/1.1\r\nHost: gate\r\n"
BUILD = f"POST /build?t={IMAGE} HTTP/1.1\r\nHost: gate\r\n".encode()
SMUGGLERS: dict[str, bytes] = {
    "right behind": PING + b"\r\n",
    "in a body that is not expected": PING + b"Content-Length: %d\r\n\r\n",
    "behind two lengths": PING + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n",
    "behind length and chunks": BUILD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "behind a length that is none": BUILD + b"Content-Length: +0\r\n\r\n",
    "behind the last chunk": BUILD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "behind a chunk with an extension": BUILD + b"Transfer-Encoding: chunked\r\n\r\n0;a=\r\n\r\n",
    "behind a short chunk": BUILD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    "behind a folded header": BUILD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "behind a bare line feed": PING + b"A: b\n\n",
    "behind the end of an archive": BUILD + b"Transfer-Encoding: chunked\r\n\r\n400\r\n" + bytes(1024),
    "behind an upgrade": PING + b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
}


@pytest.mark.parametrize("before", SMUGGLERS.values(), ids=SMUGGLERS)
def test_a_second_request_is_never_carried_out(stage: Stage, before: bytes) -> None:
    second = stop_of(stage.victims["mysql"])
    head = before.replace(b"%d", b"%d" % len(second))
    for pieces in ((head + second,), (head, second)):
        stage.ask(*pieces)
    time.sleep(0.2)
    assert stage.victims_are_well()


def test_a_file_of_root_in_an_image_makes_nobody_root(stage: Stage) -> None:
    """The image is as if somebody had got it past the gate."""
    steps = "COPY --from=place /bin/sh /bin/rootsh\nUSER 0:0\nRUN chmod 4755 /bin/rootsh\nENTRYPOINT []\n"
    service = "LABEL com.docker.compose.service=mysql\n"
    build(stage.engine, EVIL_IMAGE, f"FROM {PLACE} AS place\n{RUNTIME}{steps}{service}")
    command = "exec /bin/rootsh -p -c 'id -u; grep CapBnd /proc/self/status'"
    made = stage.gate.create_container(**training(stage, command, cap_drop=None) | {"image": EVIL_IMAGE})[
        "Id"
    ]
    stage.gate.start(made)
    stage.gate.wait(made)
    assert stage.gate.logs(made).split() == [b"10001", b"CapBnd:", b"0000000000000000"]
    # Neither is it taken for the service that its image is of.
    assert stage.engine.inspect_container(made)["Config"]["Labels"]["com.docker.compose.service"] == ""
    stage.gate.remove_container(made)


def test_the_log_tells_refusals_and_writes_and_no_secret(stage: Stage) -> None:
    with pytest.raises(APIError):
        stage.gate.create_container(**training(stage, "id", privileged=True), environment=["PASSWORD=s3cret"])
    said = stage.compose.run("logs", "--no-log-prefix", "gate")
    assert "403 gate: HostConfig.Privileged in a new container" in said
    assert f"POST /stop {stage.project}-canary-1: 204" in said
    assert "s3cret" not in said


def test_the_gate_itself_can_do_nothing_but_ask_docker(stage: Stage) -> None:
    gate = stage.compose.containers()["gate"]
    host = gate["HostConfig"]
    assert (host["CapDrop"], host["ReadonlyRootfs"], host["Privileged"]) == (["ALL"], True, False)
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert list(gate["NetworkSettings"]["Networks"]) == [f"{stage.project}_docker"]
    assert host["PortBindings"] == {}
