"""Viewers, NGINX, replicas, recorder and database: all of them real, and all to be killed with -9."""

import http.client
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Protocol

import psutil

from pipelines.records.database import connect, migrate
from pipelines.records.lookup import Receipts
from pipelines.release.router import Split
from pipelines.release.router.local import LocalNginx, find_nginx
from pipelines.settings import PROJECT_DIR
from tests.fakes import tiny_artifact
from tests.ports import free_ports

PATIENCE_S = 60.0
RECORDER = """
import sys
from pathlib import Path
from pipelines.records.recorder import run

run(sys.argv[1], Path(sys.argv[2]), 0.2)
"""


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait with a bound."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s in vain until {what}"
        time.sleep(0.01)


class Database(Protocol):
    """What can be taken away and brought back."""

    url: str

    def kill(self) -> None:
        """Take it away."""

    def start(self) -> None:
        """Bring it back."""


class SqliteFile:
    """A SQLite file; somebody who locks it takes it away from everybody else."""

    def __init__(self, file: Path) -> None:
        self.url = f"sqlite:///{file}?timeout=0.1"
        self._file = file
        self._lock: sqlite3.Connection | None = None

    def kill(self) -> None:
        self._lock = sqlite3.connect(self._file, isolation_level=None, timeout=PATIENCE_S)
        self._lock.execute("begin exclusive")

    def start(self) -> None:
        assert self._lock is not None
        self._lock.close()


@dataclass
class Program:
    """A process in a group of its own."""

    command: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(PROJECT_DIR)} | self.environment
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """End it and all its children at once, as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, how)
            self.process.wait(timeout=PATIENCE_S)
            self.process = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What reached a viewer with status 200."""

    request_id: str
    user_id: str
    line: str
    source: str
    at_s: float
    """Monotonic clock."""
    latency_ms: float


class Viewers:
    """Threads that ask NGINX at a rate, whatever happens behind it."""

    def __init__(self, port: int, *, per_second: float, threads: int = 8) -> None:
        self.answers: list[Answer] = []
        self.failures = 0
        self._port = port
        self._pause_s = threads / per_second
        self._over = Event()
        self._threads = [Thread(target=self._ask_on, args=(Random(seed),)) for seed in range(threads)]

    def __enter__(self) -> "Viewers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def wait_for(self, more: int) -> None:
        """Wait until so many more answers have come."""
        goal = len(self.answers) + more
        wait_until(lambda: len(self.answers) >= goal, f"{more} more viewers are answered")

    def _ask_on(self, random: Random) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        due_s = time.monotonic() + random.random() * self._pause_s
        while not self._over.wait(max(0.0, due_s - time.monotonic())):
            due_s += self._pause_s
            try:
                self._ask(connection, str(random.randrange(4)))
            except (http.client.HTTPException, OSError):
                self.failures += 1
                connection.close()
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, user_id: str) -> None:
        began_s = time.monotonic()
        connection.request("GET", f"/recommend/{user_id}")
        response = connection.getresponse()
        line = response.read().decode()
        ended_s = time.monotonic()
        if response.status != 200:
            self.failures += 1
            return
        headers = response.headers
        took_ms = (ended_s - began_s) * 1_000.0
        source = headers["X-Marquee-Source"]
        self.answers.append(Answer(headers["X-Request-Id"], user_id, line, source, ended_s, took_ms))


def tells(receipts: Receipts, answer: Answer) -> bool:
    """Return whether the receipt of an answer is there and says what the viewer got."""
    found = receipts.find(answer.request_id)
    if not found:
        return False
    delivered = found[-1]
    told = (delivered.user_id, ",".join(delivered.movie_ids), delivered.source, delivered.status)
    return told == (answer.user_id, answer.line, answer.source, 200)


class Stage:
    """Two replicas behind NGINX, and a recorder that ships their receipts into a database."""

    def __init__(self, folder: Path, database: Database, *, workers: int = 2) -> None:
        self.spool_dir = folder / "spool"
        self.archive_dir = folder / "receipts"
        self.database = database
        self.port, *ports = free_ports(3)
        self.replica_urls = [f"http://127.0.0.1:{port}" for port in ports]
        model = tiny_artifact(folder / "v7")
        self.replicas = [
            self._replica(folder, f"stable-{number}", port, model, workers)
            for number, port in enumerate(ports, start=1)
        ]
        self.nginx = self._nginx(folder, tuple(f"127.0.0.1:{port}" for port in ports))
        command = [sys.executable, "-c", RECORDER, database.url, str(self.spool_dir)]
        self.recorder = Program(command, folder / "recorder.log")

    @contextmanager
    def receipts(self) -> Iterator[Receipts]:
        """Look receipts up."""
        engine = connect(self.database.url)
        yield Receipts(engine, self.archive_dir, self.spool_dir)
        engine.dispose()

    @contextmanager
    def running(self) -> Iterator["Stage"]:
        """Run everything; at the end nothing of it is left."""
        self.spool_dir.mkdir()
        migrate(self.database.url)
        with ExitStack() as programs:
            for program in (*self.replicas, self.nginx, self.recorder):
                programs.callback(program.stop)
                program.start()
            wait_until(self._answers, "NGINX and a replica answer")
            yield self

    def workers(self) -> list[psutil.Process]:
        """Return the processes that answer."""
        masters = [psutil.Process(replica.process.pid) for replica in self.replicas if replica.process]
        return [worker for master in masters for worker in master.children()]

    def kill_worker(self, random: Random) -> None:
        """Kill one worker of a replica; its master starts another."""
        # Right after both replicas were killed there is none for a while.
        wait_until(self.workers, "a replica has workers")
        with suppress(psutil.NoSuchProcess):
            random.choice(self.workers()).kill()

    def kill_replica(self, random: Random) -> None:
        """Kill a replica with all its workers, and start it again."""
        replica = random.choice(self.replicas)
        replica.kill()
        replica.start()

    def kill_recorder(self, _: Random) -> None:
        """Kill the recorder, and start it again."""
        self.recorder.kill()
        self.recorder.start()

    def ship_everything(self) -> None:
        """Stop the replicas, so that their files are finished, and wait until the spool is empty."""
        for replica in self.replicas:
            replica.stop()
        wait_until(lambda: not list(self.spool_dir.iterdir()), "all receipts are in the database")

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request("GET", "/recommend/1")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _replica(self, folder: Path, name: str, port: int, model: Path, workers: int) -> Program:
        environment = {
            "MARQUEE_MODEL_DIR": str(model),
            "MARQUEE_ARM": "stable",
            "MARQUEE_REPLICA": name,
            "MARQUEE_SPOOL_DIR": str(self.spool_dir),
            "MARQUEE_BIND_ADDRESS": f"127.0.0.1:{port}",
            "MARQUEE_REPLICA_WORKERS": str(workers),
            "PROMETHEUS_MULTIPROC_DIR": str(folder / f"counters-{name}"),
        }
        configuration = str(PROJECT_DIR / "serving/gunicorn.conf.py")
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            configuration,
            "serving.wsgi:create_app_from_env()",
        ]
        return Program(command, folder / f"{name}.log", environment)

    def _nginx(self, folder: Path, stable: tuple[str, ...]) -> Program:
        router = LocalNginx(find_nginx(), folder / "nginx", listen=f"127.0.0.1:{self.port}")
        router.write(Split(stable))
        return Program(router.command(), folder / "nginx.log")
