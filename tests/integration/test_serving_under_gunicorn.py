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
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.recents import RecentsWriter, Viewing
from pipelines.settings import PROJECT_DIR
from tests.fakes import tiny_artifact

PRODUCTION = "serving.wsgi:create_app_from_env()"
SLOW = "pipelines.release.faults:create_app_from_env()"
DELAY_S = 0.3
TIMED = "flask_http_request_duration_seconds_count"
POPULAR = ",".join(f"m{row:02}" for row in range(20))
EVEN_MOVIES = ",".join([*(f"m{row:02}" for row in range(2, 40, 2)), "m01"])
BOTH_KINDS = ",".join(f"m{row:02}" for row in range(2, 22))
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

    def receipts(self) -> list[dict[str, Any]]:
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
        "MARQUEE_RECENTS_DIR": str(folder / "recents"),
        "MARQUEE_BIND_ADDRESS": "127.0.0.1:0",
        "MARQUEE_REPLICA_WORKERS": "2",
        "MARQUEE_FAULT": "slow",
        "MARQUEE_FAULT_DELAY_MS": str(round(DELAY_S * 1_000)),
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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """One replica for all tests that only ask."""
    yield from running(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    yield from running(tmp_path)


@pytest.fixture
def slow_replica(tmp_path: Path) -> Iterator[Replica]:
    yield from running(tmp_path, SLOW)


def running(folder: Path, app: str = PRODUCTION) -> Iterator[Replica]:
    """Yield a replica with a tiny model, and stop it unless the test has done so."""
    tiny_artifact(folder / "v7", version=7)
    replica = start(folder, app)
    yield replica
    if replica.process.poll() is None:
        replica.stop()


def ask(replica: Replica, times: int) -> None:
    """Ask so many times over a connection each, so that both workers have a turn."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: httpx.get(f"{replica.url}/recommend/1"), range(times)))
    assert {answer.text for answer in answers} == {EVEN_MOVIES}


@contextmanager
def viewers(replica: Replica) -> Iterator[set[str]]:
    """Have twelve viewers ask without a pause; yield the ids of the answers that reached them so far."""
    answered: set[str] = set()
    over = Event()

    def ask_on(number: int) -> None:
        with httpx.Client(base_url=replica.url, timeout=WAIT_S) as client:
            for turn in count():
                if over.is_set():
                    return
                request_id = f"viewer-{number}-{turn}"
                # A worker was killed, or the replica has stopped: what was asked then has no answer.
                with suppress(httpx.TransportError):
                    answer = client.get("/recommend/1", headers={"X-Request-Id": request_id})
                    assert answer.text == EVEN_MOVIES
                    answered.add(request_id)

    with ThreadPoolExecutor(12) as pool:
        views = [pool.submit(ask_on, number) for number in range(12)]
        try:
            yield answered
        finally:
            over.set()
    for view in views:
        view.result()


def grown(answered: set[str]) -> Callable[[], bool]:
    """Tell whether a hundred more answers have come since now."""
    goal = len(answered) + 100
    return lambda: len(answered) >= goal


def pid(spool: Path) -> int:
    return int(spool.stem.split("-")[-2])


def test_a_known_user_a_stranger_and_the_answers_headers(shared: Replica) -> None:
    known = httpx.get(f"{shared.url}/recommend/1", headers={"X-Request-Id": "abc"})
    stranger = httpx.get(f"{shared.url}/recommend/99")

    assert (known.status_code, known.text) == (200, EVEN_MOVIES)
    assert (stranger.status_code, stranger.text) == (200, POPULAR)
    assert known.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert {name: known.headers[name] for name in known.headers if name.startswith("x-")} == {
        "x-request-id": "abc",
        "x-marquee-version": "7",
        "x-marquee-arm": "canary",
        "x-marquee-source": "personal",
    }


def test_what_somebody_watches_now_changes_the_next_list(replica: Replica) -> None:
    def lists() -> set[str]:
        return {httpx.get(f"{replica.url}/recommend/99").text for _ in range(8)}

    assert lists() == {POPULAR}
    with RecentsWriter(replica.folder / "recents", keep_days=7.0) as recents:
        for watched, like_it in (("m00", EVEN_MOVIES), ("m01", BOTH_KINDS)):
            recents.add([Viewing("99", watched, datetime.now(UTC))], {})
            # Within a second either worker has found the folder, and what comes into it is there at once.
            eventually(lambda wanted=like_it: lists() == {wanted})

    assert httpx.get(f"{replica.url}/recommend/99").headers["X-Marquee-Source"] == "folded-in"
    latest = max(replica.receipts(), key=lambda receipt: receipt["served_at"])
    assert set(latest["watched"].split(",")) == {"m00", "m01"}


@pytest.mark.parametrize(
    "path",
    [
        b"/recommend/",
        b"/recommend/%zz%00%0d%0a",
        b"/recommend/a//b/../c",
        b"/recommend/%F0%9F%8E%AC",
        b"/recommend/\xc3\xbcnbekannt",
        b"/recommend/\xff",
        b"/recommend/" + b"9" * 8_000,
    ],
)
def test_rubbish_on_the_wire_gets_the_general_list(shared: Replica, path: bytes) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=WAIT_S) as connection:
        connection.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()

        assert (answer.status, answer.read().decode()) == (200, POPULAR)


def test_a_replica_says_that_it_is_ready_and_what_it_serves(shared: Replica) -> None:
    ready = {"version": 7, "arm": "canary", "replica": "canary", "ready": True}

    assert httpx.get(f"{shared.url}/readyz").json() == ready
    assert httpx.get(f"{shared.url}/healthz").text == "ok\n"
    assert httpx.get(f"{shared.url}/version").json()["rmse"] == 0.875


def test_the_metrics_of_both_workers_add_up(replica: Replica) -> None:
    asked = 0
    while len(replica.spool()) < 2:
        assert asked < 2_000, "one worker answered them all"
        ask(replica, 50)
        asked += 50

    assert {pid(path) for path in replica.spool()} == replica.workers()
    for _ in range(4):
        assert replica.total(TIMED) == asked
    assert replica.total("marquee_answers_total") == asked
    assert replica.total("marquee_receipts_lost_total") == 0
    assert len(replica.receipts()) == asked


def test_a_killed_worker_comes_back_and_nothing_is_forgotten(replica: Replica) -> None:
    killed = replica.workers()
    with viewers(replica) as answered:
        for worker in killed:
            eventually(grown(answered))
            counted = replica.total(TIMED)
            os.kill(worker, signal.SIGKILL)
            eventually(lambda gone=worker: len(replica.workers() - {gone}) == 2)
            assert replica.total(TIMED) >= counted
        eventually(grown(answered))

    remembered = {receipt["request_id"] for receipt in replica.receipts()}
    assert answered <= remembered
    assert len(answered) <= replica.total(TIMED) <= len(remembered)
    sealed = {pid(path) for path in replica.spool() if path.suffix == ".done"}
    assert sealed
    assert sealed <= killed


def test_stopping_under_load_loses_no_answer(replica: Replica) -> None:
    with viewers(replica) as answered:
        eventually(grown(answered))
        assert replica.stop() == 0

    assert {receipt["request_id"] for receipt in replica.receipts()} == answered
    assert {path.suffix for path in replica.spool()} == {".done"}


def test_a_stopping_replica_answers_whoever_has_come_in(slow_replica: Replica) -> None:
    def come_in() -> http.client.HTTPConnection:
        connection = open_connections.enter_context(
            closing(http.client.HTTPConnection("127.0.0.1", slow_replica.port, timeout=WAIT_S))
        )
        connection.request("GET", "/recommend/1")
        return connection

    with ExitStack() as open_connections:
        # More than the workers have threads, so that some must wait.
        guests = [come_in() for _ in range(12)]
        slow_replica.process.terminate()
        with suppress(ConnectionRefusedError):
            while late := come_in():
                assert late.getresponse().read().decode() == EVEN_MOVIES

        assert [guest.getresponse().read().decode() for guest in guests] == [EVEN_MOVIES] * 12
    assert slow_replica.process.wait(timeout=WAIT_S) == 0


def test_the_slow_replica_of_the_demo_is_slow_in_metrics_and_receipts(slow_replica: Replica) -> None:
    ask(slow_replica, 3)

    assert slow_replica.total("flask_http_request_duration_seconds_sum") >= 3 * DELAY_S
    assert all(receipt["latency_ms"] >= DELAY_S * 1_000 for receipt in slow_replica.receipts())


def test_a_new_start_counts_from_zero_and_hands_over_old_receipts(replica: Replica) -> None:
    ask(replica, 20)
    counters = list((replica.folder / "counters").glob("*.db"))
    replica.stop()
    left_by_a_killed_worker = replica.folder / "spool" / f"canary-{replica.process.pid}-1.jsonl"
    left_by_a_killed_worker.touch()

    again = start(replica.folder)
    try:
        ask(again, 1)
        assert counters
        assert again.total(TIMED) == 1
        assert left_by_a_killed_worker.with_suffix(".done") in again.spool()
    finally:
        again.stop()


def test_a_replica_without_a_model_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ModelError"):
        start(tmp_path)
