"""Releases under viewers: answers that fail, the slowest hundredth, and how fast a version is put back."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipelines.release import by_hand, steps
from pipelines.release.entries import State
from pipelines.release.fleet import STABLE_REPLICAS
from pipelines.release.world import World
from tests.benchmarks.load import Outcome
from tests.benchmarks.releasing import PLAN, begin, met_during, no_one, serving
from tests.benchmarks.report import Report

SECTION = "Releases"
USERS = 100_000
MOVIES = 10_000
RATE = 100.0
ASKED_S = 20.0
"""For each act: longer than any of them takes."""
RIVAL = "both replicas restarted at once"


def run(report: Report) -> None:
    """Measure everything; some three minutes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = [str(folder / "v1"), str(USERS), str(MOVIES), "1"]
        subprocess.run([sys.executable, "-m", "tests.benchmarks.synthetic", *arguments], check=True)
        with serving(folder) as (config, world):

            def met(act: Callable[[], object]) -> tuple[Outcome, float]:
                return met_during(act, config, seconds=ASKED_S, rate=RATE, users=USERS)

            ours: dict[str, list[tuple[Outcome, float]]] = {}
            for act in _acts(world):
                ours.setdefault(act.__name__, []).append(met(act))
            rival, rival_s = met(partial(_restart_all, world, 2))
    for name, times in ours.items():
        failed = sum(outcome.failed for outcome, _ in times)
        _add(report, f"answers that fail at {RATE:.0f}/s: {name}", failed, rival.failed, wanted="0")
    for name, times in ours.items():
        slowest_ms = max(outcome.p99_ms for outcome, _ in times)
        _add(report, f"p99: {name}", slowest_ms, unit="ms", wanted="< 100")
    [(_, rollback_s)] = ours["rollback"]
    _add(report, "rollback to a kept version", rollback_s, rival_s, unit="s", wanted="at most 10")


def _acts(world: World) -> list[Callable[[], object]]:
    """Return the acts in the order in which each finds its world."""

    def release_id() -> int:
        return world.ledger.latest(1)[0].release_id

    def start() -> None:
        begin(world, 2)

    def promote() -> None:
        world.ledger.decide(release_id(), State.PROMOTING, verdict="pass", reason="the benchmark")
        steps.promote(world, release_id(), announce=no_one)

    def revert() -> None:
        world.ledger.revert(release_id(), reason="the benchmark")
        steps.settle(world, release_id(), announce=no_one)

    def abort() -> None:
        steps.abort(world, release_id(), announce=no_one)

    def rollback() -> None:
        by_hand.rollback(world, 1, plan=PLAN, why="", requested_by="benchmark", announce=no_one)

    return [start, abort, start, promote, revert, start, promote, rollback]


def _restart_all(world: World, version: int) -> None:
    """Put a version into place as one would without a plan: stop all, start all."""
    for replica in STABLE_REPLICAS:
        world.fleet.remove(replica)
    for replica in STABLE_REPLICAS:
        world.fleet.deploy(replica, version, arm="stable")


def _add(
    report: Report, what: str, ours: float, rival: float | None = None, *, wanted: str, unit: str = ""
) -> None:
    name = "" if rival is None else RIVAL
    report.add(SECTION, what, ours, rival, unit=unit, rival_name=name, better="less", wanted=wanted)
