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

from pipelines.release.fleet.place import body_of_placeholder, body_of_replica, kept_place, place_of
from tests.compose import Compose

PLACE = "python:3.13-slim-trixie"
VERSION = 900_000_000 + os.getpid() % 1_000_000
IMAGE = f"marquee-serving:v{VERSION}"
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
    victims: dict[str, str] = {}
    try:
        compose.run("up", "--detach", "--no-deps", "--build", "--wait", "gate", "canary")
        labels = {"com.docker.compose.project": project}
        script = "trap 'echo hup' HUP; echo up; while :; do sleep 0.1; done"
        for name in ("mysql", "nginx", "other"):
            own = {} if name == "other" else labels | {"com.docker.compose.service": name}
            made = docker_engine.create_container(
                PLACE, ["sh", "-c", script], environment=["PASSWORD=s3cret"], labels=own
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
        with contextlib.suppress(NotFound):
            docker_engine.remove_image(IMAGE, force=True)


@pytest.fixture(autouse=True)
def _sockets_are_collected() -> Iterator[None]:
    """What docker-py streamed from, it leaves to the garbage collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def context(dockerfile: str, megabytes: int = 1) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in (("Dockerfile", dockerfile.encode()), ("big", bytes(megabytes * 2**20))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    file.seek(0)
    return file


def build(client: docker.APIClient, tag: str, dockerfile: str, **options: Any) -> list[tuple[float, str]]:
    """Build, and return what was said and when, in seconds."""
    began_s = time.monotonic()
    said = client.build(
        fileobj=context(dockerfile), custom_context=True, tag=tag, rm=True, decode=True, **options
    )
    return [(time.monotonic() - began_s, str(line)) for line in said]


@pytest.fixture(scope="module")
def image(stage: Stage) -> str:
    """An image of a version, built through the gate."""
    said = build(stage.gate, IMAGE, f"FROM {PLACE}\nCMD sleep infinity\n", labels={"marquee.version": "1"})
    assert "Successfully tagged" in said[-1][1]
    return str(stage.gate.inspect_image(IMAGE)["Id"])


def training(stage: Stage, command: str, **host: Any) -> dict[str, Any]:
    """What makes a training, as the operator of Airflow does."""
    limits = {"network_mode": f"{stage.project}_marquee", "mem_limit": "64m", "cap_drop": ["ALL"]} | host
    return {
        "image": PLACE,
        "command": ["sh", "-c", command],
        "user": "10001:10001",
        "labels": {"com.docker.compose.project": stage.project, "marquee.task": "train"},
        "host_config": stage.engine.create_host_config(**limits),
    }


def test_a_replica_is_made_anew_and_its_place_put_back(stage: Stage, image: str) -> None:
    gate, name = stage.gate, f"{stage.project}-canary-1"
    (listed,) = gate.containers(filters={"label": "com.docker.compose.service=canary"})
    old = gate.inspect_container(listed["Id"])
    place = place_of(old, gate.inspect_image(old["Image"]))
    replica = body_of_replica(place, old, image=IMAGE, env={"MARQUEE_ARM": "canary"}, labels={"a": "b"})
    for body, made_of in ((replica, image), (body_of_placeholder(place, old), old["Image"])):
        new = gate.create_container_from_config(body, f"{name}-next")["Id"]
        gate.start(new)
        gate.stop(name, timeout=1)
        gate.remove_container(name)
        gate.rename(new, name)
        now = stage.engine.inspect_container(name)
        assert (now["Image"], now["State"]["Running"]) == (made_of, True)
        limits = ("Memory", "PidsLimit", "ReadonlyRootfs", "CapDrop", "SecurityOpt", "Binds", "Tmpfs")
        assert {key: now["HostConfig"][key] for key in limits} == {
            key: old["HostConfig"][key] for key in limits
        }
        assert now["HostConfig"]["MaskedPaths"] == old["HostConfig"]["MaskedPaths"]
    assert kept_place(now) is None


def test_a_training_is_followed_as_it_speaks(stage: Stage) -> None:
    gate = stage.gate
    made = gate.create_container(name=f"{stage.project}-train", **training(stage, SAYS_THREE_LINES))["Id"]
    lines = gate.attach(made, stdout=True, stderr=True, stream=True)
    gate.start(made)
    began_s = time.monotonic()
    came_s = [time.monotonic() - began_s for _ in lines]
    assert len(came_s) == 3
    assert came_s[-1] - came_s[0] > 0.4
    assert gate.wait(made)["StatusCode"] == 3
    assert gate.logs(made) == b"line 1\nline 2\nline 3\n"
    gate.remove_container(made, force=True, v=True)
    with pytest.raises(NotFound, match="No such container"):
        gate.attach(made, stream=True)


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


def test_a_build_is_heard_as_it_goes_and_has_no_network(stage: Stage, image: str) -> None:
    steps = "RUN grep -c : /proc/net/dev > /cards\nRUN echo cards: $(cat /cards); sleep 1\nRUN sleep 1"
    said = build(stage.gate, IMAGE, f"FROM {PLACE}\n{steps}\n", nocache=True)
    (heard_s,) = [at_s for at_s, line in said if "cards: 1\\n" in line]
    assert said[-1][0] - heard_s > 1
    build(stage.gate, IMAGE, f"FROM {PLACE}\nCMD sleep infinity\n", labels={"marquee.version": "1"})


def test_a_build_may_come_in_chunks_and_takes_no_memory(stage: Stage, image: str) -> None:
    file = context(f"FROM {image}\n", megabytes=100)
    pieces = iter(lambda: file.read(2**16), b"")
    said = list(stage.gate.build(fileobj=pieces, custom_context=True, tag=IMAGE, decode=True))
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
    events = stage.gate.events(since=0, until=int(time.time()), decode=True)
    assert stage.victims["other"] not in {event.get("id") for event in events}


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
    "build of another image": lambda gate, stage: build(gate, "marquee-airflow", f"FROM {PLACE}\n"),
    "build from elsewhere": lambda gate, stage: list(gate.build(path="http://192.0.2.1/x.tar", tag=IMAGE)),
    "build in the host's network": lambda gate, stage: build(
        gate, IMAGE, f"FROM {PLACE}", network_mode="host"
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


def test_nothing_is_smuggled_behind_an_attachment(stage: Stage) -> None:
    made = stage.gate.create_container(**training(stage, "sleep 2"))["Id"]
    stage.gate.start(made)
    call = f"POST /containers/{made}/attach?stream=1&stdout=1 HTTP/1.1"
    head = f"{call}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    assert stage.ask(head.encode(), stop_of(stage.victims["mysql"])).startswith(b"HTTP/1.1 101 ")
    stage.gate.remove_container(made, force=True)
    assert stage.victims_are_well()


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
