"""A replica as it runs in production: gunicorn, two workers, a real (tiny) artifact, a real port."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.settings import PROJECT_DIR
from tests.fakes import tiny_artifact

PRODUCTION = "serving.wsgi:create_app_from_env()"
SLOW = "pipelines.local.slow:create_app_from_env()"
DELAY_S = 0.3
POPULAR = ",".join(f"m{row:02}" for row in range(20))
EVEN_MOVIES = ",".join([*(f"m{row:02}" for row in range(2, 40, 2)), "m01"])
WAIT_S = 20.0


def eventually(condition: Callable[[], object]) -> None:
    """Wait, with a bound, until ``condition`` holds."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S} s"
        time.sleep(0.02)


@dataclass
class Replica:
    """One gunicorn and the folders it works in."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> set[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(pid) for pid in children.read_text().split()}

    def spool(self) -> list[Path]:
        return sorted((self.folder / "spool").glob("*"))

    def receipts(self) -> list[dict[str, object]]:
        return [json.loads(line) for path in self.spool() for line in path.read_bytes().splitlines()]

    def total(self, series: str) -> float:
        """Return the sum of all samples of ``series``, as any worker tells it."""
        families = text_string_to_metric_families(httpx.get(f"{self.url}/metrics").text)
        return sum(one.value for family in families for one in family.samples if one.name == series)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(timeout=WAIT_S)


def start(folder: Path, app: str = PRODUCTION) -> Replica:
    """Start a replica on a port that the kernel chooses, and wait until it is ready."""
    environment = {
        "MARQUEE_MODEL_DIR": str(folder / "v7"),
        "MARQUEE_ARM": "canary",
        "MARQUEE_REPLICA": "canary",
        "MARQUEE_SPOOL_DIR": str(folder / "spool"),
        "MARQUEE_BIND_ADDRESS": "127.0.0.1:0",
        "MARQUEE_REPLICA_WORKERS": "2",
        "MARQUEE_LOCAL_DELAY_MS": str(round(DELAY_S * 1_000)),
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "counters"),
        "PYTHONPATH": str(PROJECT_DIR),
    }
    command = [sys.executable, "-m", "gunicorn", "-c", str(PROJECT_DIR / "serving/gunicorn.conf.py"), app]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=os.environ | environment, stderr=output)
    try:
        eventually(lambda: process.poll() is not None or "Listening at" in log.read_text())
        listening = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", log.read_text())
        assert listening, log.read_text()
        replica = Replica(process, folder, int(listening[1]))
        assert httpx.get(f"{replica.url}/readyz", timeout=WAIT_S).status_code == 200
    except BaseException:
        process.kill()
        process.wait()
        raise
    return replica


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_artifact(tmp_path / "v7", version=7)
    return tmp_path


@pytest.fixture
def replica(folder: Path, request: pytest.FixtureRequest) -> Iterator[Replica]:
    replica = start(folder, getattr(request, "param", PRODUCTION))
    yield replica
    if replica.process.poll() is None:
        replica.stop()


def ask(replica: Replica, count: int) -> None:
    """Ask ``count`` times over a connection each, so that both workers have a turn."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: httpx.get(f"{replica.url}/recommend/1"), range(count)))
    assert {answer.text for answer in answers} == {EVEN_MOVIES}


def test_a_known_user_a_stranger_and_the_answers_headers(replica: Replica) -> None:
    known = httpx.get(f"{replica.url}/recommend/1", headers={"X-Request-Id": "abc"})
    stranger = httpx.get(f"{replica.url}/recommend/99")

    assert (known.status_code, known.text) == (200, EVEN_MOVIES)
    assert (stranger.status_code, stranger.text) == (200, POPULAR)
    assert known.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert {name: known.headers[name] for name in known.headers if name.startswith("x-")} == {
        "x-request-id": "abc",
        "x-marquee-version": "7",
        "x-marquee-arm": "canary",
        "x-marquee-source": "personal",
    }


@pytest.mark.parametrize(
    "path",
    [
        b"/recommend/",
        b"/recommend/%zz%00%0d%0a",
        b"/recommend/a//b/../c",
        "/recommend/ünï".encode(),
        b"/recommend/" + b"9" * 8_000,
    ],
)
def test_rubbish_on_the_wire_gets_the_general_list(replica: Replica, path: bytes) -> None:
    with socket.create_connection(("127.0.0.1", replica.port), timeout=WAIT_S) as connection:
        connection.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()

        assert (answer.status, answer.read().decode()) == (200, POPULAR)


def test_a_replica_says_that_it_is_ready_and_what_it_serves(replica: Replica) -> None:
    ready = {"version": 7, "arm": "canary", "replica": "canary", "ready": True}

    assert httpx.get(f"{replica.url}/readyz").json() == ready
    assert httpx.get(f"{replica.url}/healthz").text == "ok\n"
    assert httpx.get(f"{replica.url}/version").json()["rmse"] == 0.875


def test_the_metrics_of_both_workers_add_up(replica: Replica) -> None:
    asked = 0
    while len(replica.spool()) < 2:
        assert asked < 2_000, "one worker answered them all"
        ask(replica, 50)
        asked += 50

    assert {int(path.stem.split("-")[-2]) for path in replica.spool()} == replica.workers()
    for _ in range(4):
        assert replica.total("flask_http_request_duration_seconds_count") == asked
    assert replica.total("marquee_answers_total") == asked
    assert replica.total("marquee_receipts_lost_total") == 0
    assert len(replica.receipts()) == asked


def test_a_killed_worker_comes_back_and_nothing_is_forgotten(replica: Replica) -> None:
    ask(replica, 100)
    before = replica.workers()
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    eventually(lambda: len(replica.workers() - before) == 2)
    ask(replica, 100)

    assert replica.total("flask_http_request_duration_seconds_count") == 200
    assert len(replica.receipts()) == 200
    sealed = {int(path.stem.split("-")[-2]) for path in replica.spool() if path.suffix == ".done"}
    assert sealed
    assert sealed <= before


def test_stopping_under_load_loses_no_answer(replica: Replica) -> None:
    stopping = False

    def viewer(number: int) -> set[str]:
        answered: set[str] = set()
        with httpx.Client(base_url=replica.url, timeout=WAIT_S) as client:
            while True:
                request_id = f"viewer-{number}-{len(answered)}"
                try:
                    answer = client.get("/recommend/1", headers={"X-Request-Id": request_id})
                except httpx.TransportError:
                    assert stopping
                    return answered
                assert answer.text == EVEN_MOVIES
                answered.add(request_id)

    with ThreadPoolExecutor(12) as pool:
        viewers = [pool.submit(viewer, number) for number in range(12)]
        eventually(lambda: len(replica.receipts()) > 200)
        stopping = True
        assert replica.stop() == 0
        answered = set[str]().union(*(each.result() for each in viewers))

    assert {receipt["request_id"] for receipt in replica.receipts()} == answered
    assert {path.suffix for path in replica.spool()} == {".done"}


@pytest.mark.parametrize("replica", [SLOW], indirect=True)
def test_a_stopping_replica_answers_whoever_has_come_in(replica: Replica) -> None:
    def come_in() -> http.client.HTTPConnection:
        connection = open_connections.enter_context(
            closing(http.client.HTTPConnection("127.0.0.1", replica.port, timeout=WAIT_S))
        )
        connection.request("GET", "/recommend/1")
        return connection

    with ExitStack() as open_connections:
        # More than the workers have threads, so that some must wait.
        guests = [come_in() for _ in range(12)]
        replica.process.terminate()
        with suppress(ConnectionRefusedError):
            while late := come_in():
                assert late.getresponse().read().decode() == EVEN_MOVIES

        assert [guest.getresponse().read().decode() for guest in guests] == [EVEN_MOVIES] * 12
    assert replica.process.wait(timeout=WAIT_S) == 0


@pytest.mark.parametrize("replica", [SLOW], indirect=True)
def test_the_slow_replica_of_the_demo_is_slow_in_metrics_and_receipts(replica: Replica) -> None:
    ask(replica, 3)

    assert replica.total("flask_http_request_duration_seconds_sum") >= 3 * DELAY_S
    assert all(receipt["latency_ms"] >= DELAY_S * 1_000 for receipt in replica.receipts())


def test_a_new_start_counts_from_zero_and_hands_over_old_receipts(folder: Path) -> None:
    first = start(folder)
    ask(first, 20)
    orphans = first.workers()
    first.stop(signal.SIGKILL)
    for orphan in orphans:
        os.kill(orphan, signal.SIGKILL)
    left = {path.stem for path in first.spool() if path.suffix == ".jsonl"}
    eventually(lambda: not any(Path(f"/proc/{orphan}").exists() for orphan in orphans))

    second = start(folder)
    try:
        assert {path.stem for path in second.spool() if path.suffix == ".done"} == left
        ask(second, 1)
        assert second.total("flask_http_request_duration_seconds_count") == 1
    finally:
        second.stop()


def test_a_replica_without_a_model_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ModelError"):
        start(tmp_path)
