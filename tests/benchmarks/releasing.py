"""Viewers at a steady rate, and meanwhile a whole release on the real one-machine stack."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from pipelines.local.stack import Stack, answers, wait_for
from pipelines.model.artifact import read_meta, write_meta
from pipelines.records.database import connect, migrate
from pipelines.release import steps
from pipelines.release.fleet.local import LocalFleet
from pipelines.release.ledger import Ledger
from pipelines.release.measure import Prometheus
from pipelines.release.plan import Plan
from pipelines.release.steps import World
from pipelines.release.world import local_nginx
from pipelines.settings import Settings, read
from tests.benchmarks.load import Outcome, ask
from tests.ports import free_ports

ASKED_S = 40.0
WATCHED_S = 10.0
_PLAN = Plan(
    canary_percent=20, window_s=60, extension_s=60, max_mean_ms=500, min_requests=10, max_error_share=0.05
)
_PORTS = [
    *("nginx_port", "stable_1_port", "stable_2_port", "canary_port"),
    *("prometheus_port", "airflow_port", "receipts_port"),
]


@dataclass(frozen=True, slots=True)
class _Registry:
    """Versions that are there already."""

    models_dir: Path

    def versions(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(number=number) for number in (1, 2)]

    def export(self, version: int, models_dir: Path) -> Path:
        return models_dir / f"v{version}"

    def annotate(self, version: int, text: str) -> None:
        """Keep no notes."""

    def push(self) -> str:
        return ""


def while_releasing(folder: Path, *, rate: float, users: int) -> Outcome:
    """Return what viewers met at ``rate`` questions per second while version 2 was released.

    ``folder`` holds version 1 as ``v1``.
    """
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    events = folder / "events.log"
    events.touch()
    config = read(var_dir=folder / "var", replica_workers=1, event_source="file", event_file=events, **ports)
    for version in (1, 2):
        _same_model(folder / "v1", config.models_dir / f"v{version}", version)
    stack = Stack(config, kafka_home=None)
    migrate(config.records)
    stack.start(with_airflow=False)
    try:
        wait_for("Prometheus", lambda: answers(f"{config.prometheus}/-/ready"))
        world = _world(config, stack)
        _release(world, 1, watched_s=0.0)
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask, config.nginx_port, seconds=ASKED_S, users=users, seed=6, rate=rate)
            time.sleep(2.0)
            _release(world, 2, watched_s=WATCHED_S)
            assert not asking.done(), "the release took longer than the viewers asked"
            return asking.result()
    finally:
        stack.stop()


def _same_model(source: Path, target: Path, version: int) -> None:
    target.mkdir(parents=True)
    for array in source.glob("*.npy"):
        os.link(array, target / array.name)
    write_meta(target, {**read_meta(source), "version": version})


def _world(config: Settings, stack: Stack) -> World:
    return World(
        ledger=Ledger(connect(config.records)),
        fleet=LocalFleet(config, stack.supervisor),
        router=local_nginx(config),
        registry=_Registry(config.models_dir),
        prometheus=Prometheus(config.prometheus),
        models_dir=config.models_dir,
        look_here="the benchmark",
    )


def _release(world: World, version: int, *, watched_s: float) -> None:
    release_id = steps.open_release(world, version=version, plan=_PLAN, requested_by="benchmark").release_id
    steps.preflight(world, release_id)
    steps.start_canary(world, release_id)
    time.sleep(watched_s)
    steps.promote(world, release_id, announce=lambda alert: None)
