"""A real NGINX in front of small backends that say who they are."""

import subprocess
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from pipelines.release.router import Split, fingerprint
from pipelines.release.router.configuration import MOST_WAITING
from pipelines.release.router.local import LocalNginx, find_nginx
from tests.ports import free_ports

USERS = 2_000


class Backend:
    """Answers every request with its name, after a while, and remembers it: (path, request id)."""

    def __init__(self, name: str, *, delay_s: float = 0.0):
        self.asked = asked = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet, or every answer waits for a delayed ACK

            def do_GET(self):
                asked.append((self.path, self.headers["X-Request-Id"]))
                time.sleep(delay_s)
                body = f"{name} {self.headers['X-Marquee-Canary-Percent']}".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def backends():
    made = {name: Backend(name) for name in ("stable-1", "stable-2", "canary")}
    yield made
    for backend in made.values():
        backend.stop()


@pytest.fixture
def nginx(tmp_path, backends):
    (port,) = free_ports(1)
    with running(tmp_path, f"127.0.0.1:{port}", backends) as router:
        yield router


@contextmanager
def running(folder, listen, backends):
    router = LocalNginx(find_nginx(), folder, listen=listen)
    router.write(Split(stable_of(backends)))
    process = subprocess.Popen(router.command())
    for _ in range(200):
        if router.current():
            break
        threading.Event().wait(0.02)
    router.url = f"http://{listen}"
    yield router
    process.terminate()
    process.wait(10)


def stable_of(backends) -> tuple[str, ...]:
    return (backends["stable-1"].address, backends["stable-2"].address)


def ask(client: httpx.Client, user: int | str) -> str:
    response = client.get(f"/recommend/{user}")
    assert response.status_code == 200
    return response.text.split()[0]


def asked(nginx, users=range(USERS)) -> dict[int, str]:
    with httpx.Client(base_url=nginx.url) as client:
        return {user: ask(client, user) for user in users}


def test_a_fifth_of_the_users_meets_the_canary_and_always_the_same_ones(nginx, backends):
    nginx.apply(Split(stable_of(backends), backends["canary"].address, 20))
    first, second = asked(nginx), asked(nginx)
    arms = Counter(name.split("-")[0] for name in first.values())
    # Binomial: 4 standard deviations around a fifth.
    assert abs(arms["canary"] - USERS * 0.2) < 4 * (USERS * 0.2 * 0.8) ** 0.5
    assert {user for user, name in first.items() if name == "canary"} == {
        user for user, name in second.items() if name == "canary"
    }


def test_both_stable_replicas_share_the_rest(nginx, backends):
    counts = Counter(asked(nginx, range(400)).values())
    assert set(counts) == {"stable-1", "stable-2"}
    assert min(counts.values()) > 100


def test_replicas_are_told_the_split_in_force(nginx, backends):
    nginx.apply(Split(stable_of(backends), backends["canary"].address, 20))
    assert httpx.get(f"{nginx.url}/recommend/1").text.split()[1] == "20"


def test_stable_covers_for_a_dead_canary(nginx, backends):
    nginx.apply(Split(stable_of(backends), backends["canary"].address, 20))
    backends["canary"].stop()
    assert set(asked(nginx, range(300)).values()) == {"stable-1", "stable-2"}


def test_canary_covers_when_every_stable_replica_is_dead(nginx, backends):
    nginx.apply(Split(stable_of(backends), backends["canary"].address, 20))
    backends["stable-1"].stop()
    backends["stable-2"].stop()
    assert set(asked(nginx, range(300)).values()) == {"canary"}


def test_promoted_canary_is_extra_capacity_for_everybody(nginx, backends):
    nginx.apply(Split(stable_of(backends), backends["canary"].address, 0))
    assert set(asked(nginx, range(300)).values()) == {"stable-1", "stable-2", "canary"}


def test_no_answer_fails_while_the_split_changes(nginx, backends):
    with_canary = Split(stable_of(backends), backends["canary"].address, 20)
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def keep_asking():
        with httpx.Client(base_url=nginx.url) as client:
            user = 0
            while not stop.is_set():
                user += 1
                statuses[client.get(f"/recommend/{user}").status_code] += 1

    asking = threading.Thread(target=keep_asking)
    asking.start()
    for split in (with_canary, Split(stable_of(backends))) * 3:
        nginx.apply(split)
        assert nginx.current() == fingerprint(split)
    stop.set()
    asking.join()
    assert set(statuses) == {200}


@pytest.fixture
def shadow():
    """Takes longer than a viewer would wait."""
    made = Backend("shadow", delay_s=2.0)
    yield made
    made.stop()


def test_viewers_neither_see_nor_wait_for_the_shadow(nginx, backends, shadow):
    nginx.apply(Split(stable_of(backends), shadow=shadow.address))
    began_s = time.monotonic()
    assert set(asked(nginx, range(8)).values()) == {"stable-1", "stable-2"}
    # On one connection: each would hold up the next one for 2 s.
    assert time.monotonic() - began_s < 2.0
    eventually(lambda: len(shadow.asked) == 8)
    told = [request for name in ("stable-1", "stable-2") for request in backends[name].asked]
    assert sorted(shadow.asked) == sorted(told)


def test_a_shadow_that_cannot_keep_up_is_sent_no_more(nginx, backends, shadow):
    nginx.apply(Split(stable_of(backends), shadow=shadow.address))
    asked(nginx, range(100))
    eventually(lambda: len(shadow.asked) >= MOST_WAITING)
    assert len(shadow.asked) <= MOST_WAITING


def test_a_dead_shadow_costs_nothing(nginx, backends, shadow):
    shadow.stop()
    nginx.apply(Split(stable_of(backends), shadow=shadow.address))
    assert set(asked(nginx, range(100)).values()) == {"stable-1", "stable-2"}
    nginx.apply(Split(stable_of(backends)))
    assert set(asked(nginx, range(100)).values()) == {"stable-1", "stable-2"}


def eventually(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_only_recommendations_by_get_pass(nginx):
    with httpx.Client(base_url=nginx.url) as client:
        assert client.get("/metrics").status_code == 404
        assert client.get("/receipt/1").status_code == 404
        assert client.post("/recommend/1").status_code == 405


def test_this_machine_is_told_the_split_wherever_nginx_listens(tmp_path, backends):
    (port,) = free_ports(1)
    with running(tmp_path, f"127.0.0.2:{port}", backends) as nginx:
        assert nginx.current() == fingerprint(Split(stable_of(backends)))
