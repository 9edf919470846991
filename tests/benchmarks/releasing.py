"""Releases on the real one-machine stack while viewers ask at a steady rate."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

from pipelines.alerts import Alert
from pipelines.local.stack import Stack, answers, wait_for
from pipelines.model.artifact import read_meta, write_meta
from pipelines.release import by_hand, steps
from pipelines.release import world as parts
from pipelines.release.plan import Plan
from pipelines.release.world import World
from pipelines.settings import Settings, read
from tests.benchmarks.load import Outcome, ask
from tests.ports import free_ports

ASKED_S = 40.0
WATCHED_S = 10.0
SETTLING_S = 2.0
PLAN = Plan.of(read())
VERSIONS = (1, 2)
_PORTS = [
    *("nginx_port", "stable_1_port", "stable_2_port", "canary_port", "shadow_port"),
    *("prometheus_port", "airflow_port", "receipts_port"),
]


@dataclass(frozen=True, slots=True)
class _Registry:
    """Versions that are there already."""

    models_dir: Path

    def versions(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(number=number) for number in VERSIONS]

    def export(self, version: int, models_dir: Path) -> Path:
        return models_dir / f"v{version}"

    def annotate(self, version: int, text: str) -> None:
        """Keep no notes."""

    def tag(self, name: str, version: int, text: str) -> None:
        """Keep no tags."""

    def push(self) -> str:
        return ""


def while_releasing(folder: Path, *, rate: float, users: int) -> Outcome:
    """Return what viewers met at ``rate`` questions per second while version 2 was released.

    ``folder`` holds version 1 as ``v1``.
    """
    with serving(folder) as (config, world):

        def release() -> None:
            release_id = begin(world, 2)
            time.sleep(WATCHED_S)
            by_hand.intervene(world, release_id, "approve", who="benchmark", why="")
            steps.promote(world, release_id, announce=no_one)

        return met_during(release, config, seconds=ASKED_S, rate=rate, users=users)[0]


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Settings, World]]:
    """Run a stack on which version 1, lying in ``folder`` as ``v1``, serves; version 2 is the same model."""
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    events = folder / "events.log"
    events.touch()
    config = read(var_dir=folder / "var", replica_workers=1, event_source="file", event_file=events, **ports)
    for version in VERSIONS:
        _same_model(folder / "v1", config.models_dir / f"v{version}", version)
    world = replace(parts.world(config), registry=_Registry(config.models_dir))
    stack = Stack(config, kafka_home=None)
    stack.start(with_airflow=False)
    try:
        wait_for("Prometheus", lambda: answers(f"{config.prometheus}/-/ready"))
        steps.promote(world, begin(world, 1), announce=no_one)
        yield config, world
    finally:
        stack.stop()


def begin(world: World, version: int) -> int:
    """Give ``version`` its share of the viewers; return the number of its release."""
    release_id = steps.open_release(world, version=version, plan=PLAN, requested_by="benchmark").release_id
    steps.preflight(world, release_id)
    steps.start_canary(world, release_id)
    return release_id


def met_during(
    act: Callable[[], object], config: Settings, *, seconds: float, rate: float, users: int
) -> tuple[Outcome, float]:
    """Return what viewers met who asked for ``seconds`` while ``act`` went on, and how long that took (s)."""
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, config.nginx_port, seconds=seconds, users=users, seed=6, rate=rate)
        time.sleep(SETTLING_S)
        began_s = time.monotonic()
        act()
        took_s = time.monotonic() - began_s
        assert not asking.done(), f"it took longer than the {seconds:g} s for which the viewers asked"
        return asking.result(), took_s


def no_one(alert: Alert) -> None:
    """Tell nobody."""


def _same_model(source: Path, target: Path, version: int) -> None:
    target.mkdir(parents=True)
    for array in source.glob("*.npy"):
        os.link(array, target / array.name)
    write_meta(target, {**read_meta(source), "version": version})
