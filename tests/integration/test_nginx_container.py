"""Two NGINX behind one door, before replicas that are containers: killed, replaced, not there."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from uuid import uuid4

import docker
import httpx
import pytest

from pipelines.errors import RouterError
from pipelines.release.router import Split, fingerprint
from pipelines.release.router.docker import SERVICES, DockerNginx
from pipelines.settings import PROJECT_DIR, read
from tests.viewers import viewers

STABLE = ("stable-1:8000", "stable-2:8000")
CANARY = "canary:8000"
USERS = 1_000
PER_SECOND = 100
AT_ONCE = 16
KILLS = 3
PATIENCE_S = 30
# A dead container's address swallows packets for up to 2 s. Who meets it waits 100 ms (p99 of a quiet
# machine: 105 ms), not the second after which Linux sends the first packet again.
NOT_A_SECOND_MS = 1_000
REPLICA_IMAGE = "python:3.13-slim-trixie"
# Says who it is, and on /asked what it was asked; one that is torn hangs up in the head of an answer.
REPLICA = """
import os, socket, struct
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME, TORN = os.environ["NAME"], os.environ.get("TORN")
asked = []

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        if self.path != "/asked":
            asked.append(self.path)
        if TORN and self.path != "/asked":
            self.connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Le")
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        body = ",".join(asked) if self.path == "/asked" else NAME
        self.send_response(200)
        self.send_header("X-Marquee-Version", NAME)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

Server(("0.0.0.0", 8000), Handler).serve_forever()
"""


class Stack:
    """A network with both NGINX, and the replicas that a test puts into it."""

    def __init__(self, engine: docker.APIClient, folder: Path) -> None:
        self.engine, self.project = engine, f"marquee-test-router-{uuid4().hex[:8]}"
        self.folder = folder
        self.labels = {"com.docker.compose.project": self.project}
        # What the container's user may read, whatever the folders above.
        folder.chmod(0o755)
        for line in engine.build(
            path=str(PROJECT_DIR / "docker/nginx"), tag=self.project, rm=True, decode=True
        ):
            assert "error" not in line, line["error"]
        engine.create_network(self.project, labels=self.labels)
        # All three as docker-compose.yaml has them.
        self.door = self._run(
            REPLICA_IMAGE,
            "door",
            command=["sleep", "infinity"],
            host_config=engine.create_host_config(init=True, port_bindings={8082: ("127.0.0.1",)}),
            ports=[8082],
        )
        self.find_ports()
        self.nginx = {service: self._run_nginx(service) for service in SERVICES}
        for service in SERVICES:
            wait_for(lambda service=service: self.answers(service))

    def find_ports(self) -> None:
        """A container that starts anew is published anew."""
        self.port = int(self.engine.port(self.door, 8082)[0]["HostPort"])
        # Past Docker's proxy, which would accept for who is dead.
        address = self.address(self.door)
        self.status_at = {"nginx": f"{address}:8083", "nginx-spare": f"{address}:8084"}

    def _run_nginx(self, service: str) -> str:
        made = self.engine.create_container(
            self.project,
            command=["-c", "/etc/nginx/spare.conf"] if service == "nginx-spare" else [],
            name=f"{self.project}-{service}",
            labels=self.labels | {"com.docker.compose.service": service},
            host_config=self.engine.create_host_config(
                network_mode=f"container:{self.door}",
                pid_mode=f"container:{self.door}",
                restart_policy={"Name": "always"},
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges:true"],
                tmpfs={"/tmp": "mode=1777,size=32m"},
                binds=[f"{self.folder}:/etc/marquee-nginx:ro"],
            ),
        )["Id"]
        self.engine.start(made)
        return made

    def answers(self, service: str) -> bool:
        try:
            return httpx.get(f"http://{self.status_at[service]}/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    def follows(self, service: str) -> str:
        """Return what one NGINX alone says of its split."""
        return httpx.get(f"http://{self.status_at[service]}/split").text.strip()

    def router(self, **options: int) -> DockerNginx:
        status_at = tuple(self.status_at.values())
        return DockerNginx(
            lambda: self.engine, self.folder, status_at=status_at, project=self.project, **options
        )

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}")

    def viewers(self):
        config = read(recommend_at=f"http://127.0.0.1:{self.port}/recommend")
        return viewers(config, per_second=PER_SECOND, at_once=AT_ONCE)

    def replica(self, alias: str, **environment: str) -> str:
        """Start one more container that answers to ``alias``; returns its id when it does."""
        container = self._run(
            REPLICA_IMAGE,
            alias,
            command=["python", "-c", REPLICA],
            environment={"NAME": alias} | environment,
            # It gets no signal that it knows: like the real one it is to end at once.
            stop_signal="SIGKILL",
        )
        wait_for(lambda: self.asked(container) is not None)
        return container

    def asked(self, container: str) -> list[str] | None:
        """Return what a replica was asked; None: it does not answer."""
        try:
            answer = httpx.get(f"http://{self.address(container)}:8000/asked", timeout=1.0)
        except httpx.HTTPError:
            return None
        return [path for path in answer.text.split(",") if path]

    def address(self, container: str) -> str:
        about = self.engine.inspect_container(container)
        return about["NetworkSettings"]["Networks"][self.project]["IPAddress"]

    def find(self, alias: str) -> str:
        """Return the id of the replica that answers to ``alias``."""
        labels = [f"{name}={value}" for name, value in self.labels.items()]
        labels.append(f"com.docker.compose.service={alias}")
        (found,) = self.engine.containers(filters={"label": labels})
        return found["Id"]

    def replicas(self) -> list[str]:
        found = self.engine.containers(
            all=True, filters={"label": f"com.docker.compose.project={self.project}"}
        )
        return [each["Id"] for each in found if each["Id"] not in (self.door, *self.nginx.values())]

    def _run(self, image: str, service: str, **options: object) -> str:
        aliases = self.engine.create_endpoint_config(aliases=[service])
        container = self.engine.create_container(
            image,
            name=f"{self.project}-{service}-{uuid4().hex[:4]}",
            labels=self.labels | {"com.docker.compose.service": service},
            networking_config=self.engine.create_networking_config({self.project: aliases}),
            **options,
        )["Id"]
        self.engine.start(container)
        return container

    def remove(self) -> None:
        for container in (*self.replicas(), *self.nginx.values(), self.door):
            self.engine.remove_container(container, force=True)
        self.engine.remove_network(self.project)
        self.engine.remove_image(self.project)


def wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def made(docker_engine, tmp_path_factory) -> Iterator[Stack]:
    stack = Stack(docker_engine, tmp_path_factory.mktemp("nginx"))
    yield stack
    stack.remove()


@pytest.fixture
def stack(made: Stack) -> Iterator[Stack]:
    """Two stable replicas and a canary behind an NGINX that knows them by their names."""
    for alias in ("stable-1", "stable-2", "canary"):
        made.replica(alias)
    made.router().apply(Split(STABLE, CANARY, 20))
    wait_for(lambda: set(asked(made, range(20)).values()) >= {"stable-1", "stable-2", "canary"})
    yield made
    for container in made.replicas():
        made.engine.remove_container(container, force=True)


def asked(stack: Stack, users=range(USERS)) -> dict[int, str]:
    with stack.client() as client:
        return {user: client.get(f"/recommend/{user}").text for user in users}


def test_before_the_first_release_viewers_are_told_to_come_back(made):
    with made.client() as client:
        answer = client.get("/recommend/1")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
        assert client.get("/healthz").status_code == 200
        assert client.get("/split").status_code == 404
    assert made.router().current() == ""


def test_a_fifth_of_the_users_meets_the_canary_and_always_the_same_ones(stack):
    first, second = asked(stack), asked(stack)
    arms = Counter(name.split("-")[0] for name in first.values())
    # Binomial: 4 standard deviations around a fifth.
    assert abs(arms["canary"] - USERS * 0.2) < 4 * (USERS * 0.2 * 0.8) ** 0.5
    assert {user for user, name in first.items() if name == "canary"} == {
        user for user, name in second.items() if name == "canary"
    }
    assert stack.router().current() == fingerprint(Split(STABLE, CANARY, 20))


def test_no_answer_fails_when_a_replica_is_killed(stack, record_property):
    killed = stack.find("stable-1")
    with stack.viewers() as met:
        time.sleep(1)
        stack.engine.kill(killed)
        time.sleep(4)
        met.versions.clear()
        stack.engine.start(killed)
        wait_for(lambda: "stable-1" in met.versions)
    tell(record_property, met)
    assert met.failed == 0, met.statuses
    assert met.percentile_ms(99) < NOT_A_SECOND_MS


def test_no_answer_fails_when_the_canary_is_killed(stack, record_property):
    with stack.viewers() as met:
        time.sleep(1)
        stack.engine.kill(stack.find("canary"))
        time.sleep(4)
    tell(record_property, met)
    assert met.failed == 0, met.statuses
    assert met.percentile_ms(99) < NOT_A_SECOND_MS


def test_no_answer_fails_when_a_replica_gives_way_to_one_at_another_address(stack, record_property):
    old = stack.find("stable-1")
    with stack.viewers() as met:
        time.sleep(1)
        stack.replica("stable-1", NAME="stable-1-next")
        stack.engine.stop(old, timeout=5)
        stack.engine.remove_container(old)
        wait_for(lambda: "stable-1-next" in met.versions)
        time.sleep(3)
    tell(record_property, met)
    assert met.failed == 0, met.statuses
    assert met.percentile_ms(99) < NOT_A_SECOND_MS


def test_no_answer_fails_while_the_split_changes(stack, record_property):
    router = stack.router()
    with stack.viewers() as met:
        for split in (Split(STABLE), Split(STABLE, CANARY, 20)) * 3:
            router.apply(split)
            assert router.current() == fingerprint(split)
    tell(record_property, met)
    assert met.failed == 0, met.statuses


def test_an_answer_that_breaks_off_in_its_head_is_given_by_another_replica(stack):
    stack.engine.kill(stack.find("stable-1"))
    torn = stack.replica("stable-1", TORN="yes")
    wait_for(lambda: asked(stack, range(20)) and stack.asked(torn))
    with stack.client() as client:
        assert {client.get(f"/recommend/{user}").status_code for user in range(200)} == {200}
    assert len(stack.asked(torn)) > 20


def test_a_canary_that_is_not_there_costs_nobody_an_answer(stack):
    stack.engine.remove_container(stack.find("canary"), force=True)
    stack.router().apply(Split(STABLE, "nobody:8000", 20))
    assert set(asked(stack, range(300)).values()) == {"stable-1", "stable-2"}


def test_viewers_neither_see_nor_wait_for_the_shadow(stack):
    shadow = stack.replica("shadow")
    stack.router().apply(Split(STABLE, shadow="shadow:8000"))
    assert set(asked(stack, range(100)).values()) == {"stable-1", "stable-2"}
    wait_for(lambda: set(stack.asked(shadow)) == {f"/recommend/{user}" for user in range(100)})
    with stack.client() as client:
        # A copy is taken from NGINX itself only.
        assert client.get("/recommend/1", headers={"Host": "shadow"}).status_code == 404


def test_what_nginx_refuses_is_put_back_and_told(stack):
    router, file = stack.router(), stack.folder / "split.conf"
    before = file.read_text()
    with pytest.raises(RouterError, match=r"refused.*\[emerg\].*invalid port.*the split is unchanged"):
        router.apply(Split(("stable-1:none",)))
    assert file.read_text() == before
    assert router.current() == fingerprint(Split(STABLE, CANARY, 20))
    # What it said of the refused one is no reason against the next.
    router.apply(Split(STABLE))
    assert router.current() == fingerprint(Split(STABLE))


def test_viewers_reach_recommendations_and_nothing_else(stack):
    with stack.client() as client:
        for hidden in (
            "/metrics",
            "/receipt/1",
            "/readyz",
            "/split",
            "/stub_status",
            "/",
            "/mirror",
            "/copy",
        ):
            assert client.get(hidden).status_code == 404, hidden
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
            assert client.request(method, "/recommend/1").status_code == 405, method
        assert client.head("/healthz").status_code == 200
        assert client.request("GET", "/recommend/1", content=b"x" * 2_000).status_code == 413
        assert client.get("/recommend/" + "x" * 5_000).status_code == 414
        assert client.get("/recommend/1", headers={"Cookie": "x" * 5_000}).status_code == 400
        assert client.get("/recommend/1").headers["Server"] == "nginx"


def test_whoever_asks_too_often_is_told_so_and_only_then(stack):
    with stack.client() as client:
        statuses = Counter(client.get(f"/recommend/{user}").status_code for user in range(100))
        assert statuses == {200: 100}, "without a limit"
        stack.router(max_requests_per_s=20).apply(Split(STABLE))
        began_s = time.monotonic()
        statuses = Counter(client.get(f"/recommend/{user}").status_code for user in range(300))
        took_s = time.monotonic() - began_s
    # A second's worth at once, and then as many as time allows.
    assert 20 <= statuses[200] <= 20 + 1 + 20 * took_s + 1
    assert statuses[200] + statuses[429] == 300


@pytest.mark.parametrize("service", SERVICES)
def test_nginx_comes_back_after_a_reload_and_follows_its_split(stack, service):
    stack.router().apply(Split(STABLE))
    nginx = stack.nginx[service]
    # Detached: now and then Docker never ends the answer to who asked inside of what has ended.
    stack.engine.exec_start(stack.engine.exec_create(nginx, ["nginx", "-s", "stop"]), detach=True)
    wait_for(lambda: stack.engine.inspect_container(nginx)["RestartCount"] == 1)
    wait_for(lambda: stack.answers(service))
    assert stack.follows(service) == fingerprint(Split(STABLE))
    assert set(asked(stack, range(20)).values()) == {"stable-1", "stable-2"}


@pytest.mark.parametrize("service", SERVICES)
def test_only_what_was_in_flight_fails_when_one_nginx_of_two_is_killed(stack, record_property, service):
    with stack.viewers() as met:
        for _ in range(KILLS):
            time.sleep(1)
            stack.engine.kill(stack.nginx[service])
            time.sleep(1)
            stack.engine.start(stack.nginx[service])
            wait_for(lambda: stack.answers(service))
    tell(record_property, met)
    # Away for a second and more each time: alone it would have failed a hundred.
    assert met.failed <= AT_ONCE * KILLS, met.statuses
    assert not {status for status in met.statuses if isinstance(status, int)} - {200}, met.statuses


@pytest.mark.parametrize("service", SERVICES)
def test_a_split_comes_into_force_while_one_nginx_is_dead_and_with_it_when_it_is_back(stack, service):
    stack.engine.kill(stack.nginx[service])
    (alive,) = {*SERVICES} - {service}
    stack.router().apply(Split(STABLE))
    assert stack.router().current() == stack.follows(alive) == fingerprint(Split(STABLE))
    stack.engine.start(stack.nginx[service])
    wait_for(lambda: stack.answers(service))
    assert stack.follows(service) == fingerprint(Split(STABLE))


def test_an_nginx_that_has_just_started_answers_at_once(stack):
    """It knows no replica's address yet; who is first to ask must not be told so."""
    stack.engine.kill(stack.nginx["nginx-spare"])
    first = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in range(KILLS):
            stack.engine.kill(stack.nginx["nginx"])
            waiting = [pool.submit(first_answer, stack.port) for _ in range(AT_ONCE)]
            stack.engine.start(stack.nginx["nginx"])
            first += [answer.result() for answer in waiting]
    stack.engine.start(stack.nginx["nginx-spare"])
    assert first == [200] * AT_ONCE * KILLS


def first_answer(port: int) -> int:
    """Ask until somebody is there; returns the status of the first answer."""
    while True:
        with (
            suppress(OSError, HTTPException),
            closing(HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection,
        ):
            connection.request("GET", "/recommend/1", headers={"Connection": "close"})
            with connection.getresponse() as answer:
                return answer.status


def test_both_die_with_the_door(stack):
    """Else they would go on in a network that is no more, and nobody would start them again."""
    stack.engine.kill(stack.door)
    time.sleep(2)
    states = [stack.engine.inspect_container(each)["State"] for each in stack.nginx.values()]
    for each in (stack.door, *stack.nginx.values()):
        stack.engine.start(each)
    stack.find_ports()
    wait_for(lambda: all(map(stack.answers, SERVICES)))
    assert not any(state["Running"] for state in states)
    assert asked(stack, range(20))


def test_what_is_written_while_nginx_is_away_is_followed_when_it_starts(stack):
    for nginx in stack.nginx.values():
        stack.engine.stop(nginx, timeout=10)
    stack.router().apply(Split(STABLE))
    for nginx in stack.nginx.values():
        stack.engine.start(nginx)
    wait_for(lambda: stack.router().current() == fingerprint(Split(STABLE)))


def tell(record_property, met) -> None:
    for percent in (50, 95, 99, 100):
        record_property(f"p{percent}_ms", round(met.percentile_ms(percent)))
    print(
        dict(met.statuses),
        *(f"p{percent} {met.percentile_ms(percent):.0f} ms" for percent in (50, 95, 99, 100)),
    )
