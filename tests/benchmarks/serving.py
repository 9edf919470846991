"""A replica with a million users: how fast, how soon, how much memory, and beside whom."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import psutil
from surprise import SVD, Dataset, Reader

from pipelines.model.artifact import load
from pipelines.recents import RecentsWriter, Viewing
from pipelines.settings import PROJECT_DIR
from tests.benchmarks.load import Outcome, ask
from tests.benchmarks.releasing import while_releasing
from tests.benchmarks.report import Report
from tests.ports import free_ports

SECTION = "Serving"
USERS = 1_000_000
MOVIES = 27_000
ASKING = USERS * 11 // 10
"""One in eleven is a stranger to the model."""
WATCHING = USERS // 10
"""The first users have watched something since the training."""
ROUNDS = 10
ROUND_S = 1.5
MIB = 2**20
READY_TIMEOUT_S = 60.0

OURS = "serving.wsgi:create_app_from_env()"
RIVAL = "tests.benchmarks.constant:create_app_from_env()"


@dataclass(frozen=True, slots=True)
class Replica:
    """A gunicorn that answers."""

    process: subprocess.Popen[bytes]
    port: int
    ready_s: float
    """From its start to its first answer to ``/readyz``."""

    def memory_mib(self) -> float:
        """Return the memory of master and workers together, pages that they share counted once."""
        master = psutil.Process(self.process.pid)
        return sum(one.memory_full_info().pss for one in [master, *master.children()]) / MIB


def run(report: Report) -> None:
    """Measure everything; some five minutes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_dir = _model(folder / "v1", report)
        _remember_viewings(folder / "recents", model_dir)
        rate = _throughput(folder, report)
        _beside_predict(rate, report)
        _memory(folder, report)
        _while_releasing(folder, report)


def _model(folder: Path, report: Report) -> Path:
    arguments = [str(folder), str(USERS), str(MOVIES), "1"]
    subprocess.run([sys.executable, "-m", "tests.benchmarks.synthetic", *arguments], check=True)
    size = sum(path.stat().st_size for path in folder.iterdir())
    what = f"artifact of {USERS:,} users and {MOVIES:,} movies"
    report.add(SECTION, what, size / 1e6, unit="MB", better="less", wanted="at most 600")
    return folder


def _remember_viewings(folder: Path, model_dir: Path) -> None:
    model, now = load(model_dir), datetime.now(UTC)
    movies = model.popular("", MOVIES).movie_ids
    draw = np.random.default_rng(2)
    with RecentsWriter(folder, keep_days=7.0) as recents:
        chosen = draw.choice(MOVIES, (WATCHING, 3))
        recents.add(
            (Viewing(str(user), movies[row], now) for user, rows in enumerate(chosen, 1) for row in rows),
            {},
        )


def _throughput(folder: Path, report: Report) -> float:
    with replica(folder, OURS) as ours, replica(folder, RIVAL) as rival:
        report.add(
            SECTION,
            "a replica is ready after its start",
            ours.ready_s,
            unit="s",
            better="less",
            wanted="at most 3",
        )
        for port in (ours.port, rival.port):
            ask(port, seconds=3.0, users=ASKING, seed=0)
        rounds = [
            [ask(port, seconds=ROUND_S, users=ASKING, seed=seed) for port in (ours.port, rival.port)]
            for seed in range(ROUNDS)
        ]
        folded = ask(ours.port, seconds=ROUND_S, users=WATCHING, seed=ROUNDS)
    mine, theirs = (_median(outcomes) for outcomes in zip(*rounds, strict=True))
    constant = "Flask and its exporter answering a constant line"
    what = "answers of one worker, receipts on"
    report.add(
        SECTION, what, mine, theirs, unit="/s", rival_name=constant, wanted="at least 0.8 of the rival"
    )
    what = "answers of one worker to users who have all just watched something"
    report.add(SECTION, what, folded.per_second, unit="/s")
    return mine


def _median(outcomes: tuple[Outcome, ...]) -> float:
    assert not any(outcome.failed for outcome in outcomes)
    return statistics.median(outcome.per_second for outcome in outcomes)


def _beside_predict(rate: float, report: Report) -> None:
    draw = np.random.default_rng(3)
    pairs = pd.DataFrame(
        {"user": draw.integers(0, 20_000, 200_000), "movie": draw.integers(0, MOVIES, 200_000), "rating": 4.0}
    )
    trainset = Dataset.load_from_df(pairs, Reader(rating_scale=(1, 5))).build_full_trainset()
    svd = SVD(n_factors=50, n_epochs=1, random_state=4).fit(trainset)
    start = time.perf_counter()
    for user in range(5):
        sorted(((svd.predict(user, movie).est, movie) for movie in range(MOVIES)), reverse=True)[:20]
    by_predict = 5 / (time.perf_counter() - start)
    report.add(
        SECTION,
        f"lists of the best 20 of {MOVIES:,} movies",
        rate,
        by_predict,
        unit="/s",
        rival_name="ranking by scikit-surprise's predict, without a server",
        wanted="at least 300 times the rival",
    )


def _memory(folder: Path, report: Report) -> None:
    used_mib = []
    for workers in (2, 3):
        with replica(folder, OURS, workers=workers) as ours:
            ask(ours.port, seconds=6.0, users=ASKING, seed=5)
            used_mib.append(ours.memory_mib())
    more = used_mib[1] - used_mib[0]
    report.add(SECTION, "memory of a further worker", more, unit="MiB", better="less", wanted="at most 60")


def _while_releasing(folder: Path, report: Report) -> None:
    outcome = while_releasing(folder, rate=500.0, users=ASKING)
    what = "answers through NGINX at 500 questions/s, from a canary's start to its promotion"
    report.add(SECTION, f"p50 of {what}", outcome.p50_ms, unit="ms", better="less")
    report.add(SECTION, f"p99 of {what}", outcome.p99_ms, unit="ms", better="less", wanted="below 10")
    report.add(SECTION, f"failed {what}", outcome.failed, unit="answers", better="less", wanted="0")


@contextmanager
def replica(folder: Path, app: str, *, workers: int = 1) -> Iterator[Replica]:
    """Run ``app`` as a replica runs, with the model ``v1`` and the recents of ``folder``."""
    (port,) = free_ports(1)
    with (
        tempfile.TemporaryDirectory(dir=folder) as own,
        tempfile.TemporaryDirectory(dir="/dev/shm") as memory,
    ):
        environment = {
            "MARQUEE_MODEL_DIR": str(folder / "v1"),
            "MARQUEE_RECENTS_DIR": str(folder / "recents"),
            "MARQUEE_ARM": "stable",
            "MARQUEE_REPLICA": "stable-1",
            "MARQUEE_SPOOL_DIR": f"{own}/spool",
            "MARQUEE_BIND_ADDRESS": f"127.0.0.1:{port}",
            "MARQUEE_REPLICA_WORKERS": str(workers),
            "PROMETHEUS_MULTIPROC_DIR": memory,
            "PYTHONPATH": str(PROJECT_DIR),
        }
        gunicorn = [
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            str(PROJECT_DIR / "serving/gunicorn.conf.py"),
            app,
        ]
        start = time.perf_counter()
        process = subprocess.Popen(gunicorn, env=os.environ | environment, stderr=subprocess.DEVNULL)
        try:
            _wait_until_ready(port)
            yield Replica(process, port, time.perf_counter() - start)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/readyz").raise_for_status()
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "the replica did not become ready"
            time.sleep(0.02)
        else:
            return
