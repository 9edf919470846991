"""``kill -9`` at every moment of a release on the real stack: the next run finds its way to the right world.

supervisord, NGINX, gunicorn, SQLite and git are real. Viewers ask all the while, and none may notice.
"""

import json
import multiprocessing
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path

import psutil
import pytest

from pipelines.errors import StackError
from pipelines.local.stack import Stack, wait_for
from pipelines.model.repository import Repository
from pipelines.release import by_hand, steps
from pipelines.release import world as parts
from pipelines.release.entries import State
from pipelines.release.fleet import CANARY_REPLICA, STABLE_REPLICAS
from pipelines.release.plan import Plan
from pipelines.release.router import Split, fingerprint
from pipelines.release.world import World
from pipelines.settings import Settings, read
from tests import killing
from tests.fakes import tiny_artifact
from tests.killing import Step
from tests.ports import free_ports
from tests.viewers import Answers, viewers

PORTS = (
    *("nginx_port", "stable_1_port", "stable_2_port", "canary_port", "shadow_port"),
    *("prometheus_port", "airflow_port", "receipts_port"),
)
VERSIONS = (1, 2, 3)
PLAN = Plan.of(read())
ASKED_PER_S = 10
STEP_S = 60.0
SETTLED_S = 10.0

# Forks from a process that has imported everything: a run of a step costs what the step does.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.killing"])

# Who starts a process asks all others how they ended; of two that ask at once, one reads it and the other is
# told 255 (49 times in 3,000, on Python 3.11 and five threads).
ASKING = threading.Lock()


class Bare(Stack):
    """NGINX and replicas alone: nobody measures here."""

    def _write_programs(self) -> None:
        self._write_nginx()


@dataclass(frozen=True)
class Wanted:
    """What is left when nothing happens to a step."""

    stable: int
    canary: int | None
    percent: int
    states: dict[int, State]
    """Of the releases it has to do with, the newest of all among them."""
    told: tuple[str, ...] = ()
    """Keys of alerts."""
    notes: dict[int, str] = field(default_factory=dict)
    """By version."""
    tags: tuple[str, ...] = ()
    """All that the releases have."""
    perhaps: str = ""
    """Alert and tag that are there, too, when the step came so far."""


class Machine:
    """A stack that serves, viewers that ask, and steps that die on it."""

    def __init__(self, config: Settings, stack: Stack, world: World, met: Answers) -> None:
        self.config, self.stack, self.world, self.met = config, stack, world, met
        self._told = config.var_dir / "told"

    def run(self, step: Step, die_at: int | None = None) -> str | None:
        """Run a step in a process of its own; return what it would have done next when it died."""
        place = self.config.var_dir / "place"
        arguments = (self.config, step, die_at, self._told, place)
        process = FORKS.Process(target=killing.die_in_the_middle, args=arguments)
        with ASKING:
            process.start()
        wait([process.sentinel], STEP_S)
        with ASKING:
            exitcode = process.exitcode
        if exitcode == -signal.SIGKILL:
            return place.read_text().splitlines()[-1]
        assert exitcode == 0, f"{step} ended with {exitcode}, 0 was wanted"
        return None

    def versions(self) -> tuple[int, int, int]:
        """The version that serves, then the two others."""
        serving = self.world.ledger.stable() or VERSIONS[0]
        return serving, serving % 3 + 1, (serving + 1) % 3 + 1

    def opened(self, version: int) -> int:
        opened = steps.open_release(self.world, version=version, plan=PLAN, requested_by="test")
        return opened.release_id

    def watched(self, version: int) -> int:
        release_id = self.opened(version)
        steps.start_canary(self.world, release_id)
        return release_id

    def check(self, wanted: Wanted, died_before: str | None) -> None:
        """Compare all that a step touches with what it should be."""
        self._check_replicas(wanted)
        self._check_records(wanted, died_before)
        wait_for("every process to belong to a program", self._is_tidy, within_s=SETTLED_S)
        assert not self.met.failed, self.met.statuses

    def _check_replicas(self, wanted: Wanted) -> None:
        fleet = self.world.fleet
        canary = {CANARY_REPLICA: wanted.canary} if wanted.canary else {}
        running = {name: replica.version for name, replica in fleet.running().items()}
        assert running == dict.fromkeys(STABLE_REPLICAS, wanted.stable) | canary
        stable = tuple(fleet.address(replica) for replica in STABLE_REPLICAS)
        split = Split(stable, fleet.address(CANARY_REPLICA) if canary else None, wanted.percent)
        assert self.world.router.current() == fingerprint(split)

    def _check_records(self, wanted: Wanted, died_before: str | None) -> None:
        releases = {each.release_id: each.state for each in self.world.ledger.latest(None)}
        assert releases.items() >= wanted.states.items()
        assert max(releases) == max(wanted.states)
        told = Counter(self._told.read_text().split() if self._told.exists() else [])
        # Sent and not yet noted: nobody can know that it was sent.
        most = 2 if died_before == "INSERT INTO alerts" else 1
        about = {key: told[key] for key in told if key.startswith(_of(wanted.states))}
        assert about.keys() - {wanted.perhaps} == set(wanted.told)
        assert max(about.values(), default=1) <= most
        notes = {info.number: info.note for info in self.world.registry.versions()}
        assert notes.items() >= wanted.notes.items()
        tags = Repository(self.config.registry).git("tag", "--list", "release-*").split()
        found = {tag for tag in tags if tag.startswith(_of(wanted.states))}
        assert found - {wanted.perhaps} == set(wanted.tags)

    def _is_tidy(self) -> bool:
        """Whether each process of this stack is a program's, and each program has its process."""
        supervisor = self.stack.supervisor
        supervisord = psutil.Process(int(supervisor.pid_path.read_text()))
        family = {supervisord, *supervisord.children(recursive=True)}
        programs = list(supervisor.programs_dir.glob("*.ini"))
        left_over = [
            process
            for process in psutil.process_iter(["cmdline"])
            if str(supervisor.config_path) in (process.info["cmdline"] or []) and process != supervisord
        ]
        return (
            len(supervisord.children()) == len(programs)
            and family.issuperset(self.stack._processes())
            and not left_over
        )


def _of(releases: dict[int, State]) -> tuple[str, ...]:
    return tuple(f"release-{release_id}-" for release_id in releases)


@dataclass(frozen=True)
class Death:
    """A step that dies, and what comes after it."""

    name: str
    step: Step
    wanted: Wanted
    then: Step | None = None
    """What comes instead of the same step; it comes too when the step has lived through."""


def start_and_abort(machine: Machine) -> Iterator[Death]:
    serving, candidate, _ = machine.versions()
    release = machine.opened(candidate)
    watching = Wanted(serving, candidate, PLAN.canary_percent, {release: State.WATCHING})
    yield Death("start", partial(killing.start, release_id=release), watching)
    machine.world.ledger.decide(release, State.ABORTING, verdict="fail", reason="slow")
    key = f"release-{release}-aborted"
    aborted = Wanted(serving, None, 0, {release: State.ABORTED}, (key,), {candidate: "aborted: slow"}, (key,))
    yield Death("abort", partial(steps.abort, release_id=release), aborted)


def promote(machine: Machine) -> Iterator[Death]:
    _, candidate, _ = machine.versions()
    release = machine.watched(candidate)
    machine.world.ledger.decide(release, State.PROMOTING, verdict="pass", reason="fast")
    key = f"release-{release}-promoted"
    guarding = Wanted(
        candidate, candidate, 0, {release: State.GUARDING}, (key,), {candidate: "promoted"}, (key,)
    )
    yield Death("promote", partial(steps.promote, release_id=release), guarding)
    machine.world.ledger.end(release, State.PROMOTED)


def revert(machine: Machine) -> Iterator[Death]:
    serving, candidate, _ = machine.versions()
    release = machine.watched(candidate)
    machine.world.ledger.decide(release, State.PROMOTING, verdict="pass", reason="fast")
    machine.run(partial(steps.promote, release_id=release))
    machine.world.ledger.revert(release, reason="slow after all")
    keys = (f"release-{release}-promoted", f"release-{release}-reverted")
    reverted = Wanted(
        serving, None, 0, {release: State.REVERTED}, keys, {candidate: "reverted: slow after all"}, keys
    )
    yield Death("revert", partial(steps.settle, release_id=release), reverted)


def rollback_under_watch(machine: Machine) -> Iterator[Death]:
    _, candidate, other = machine.versions()
    release = machine.watched(candidate)
    yield Death("rollback", back_to(other), rolled_back(release, candidate, other))


def rollback_after_a_promotion(machine: Machine) -> Iterator[Death]:
    serving, candidate, _ = machine.versions()
    release = machine.watched(candidate)
    machine.world.ledger.decide(release, State.PROMOTING, verdict="pass", reason="fast")
    key, before = f"release-{release}-reverted", f"release-{release}-promoted"
    note = {candidate: f"reverted: rolled back to version {serving} by ada: angry"}
    taken_back = Wanted(serving, None, 0, {release: State.REVERTED}, (key,), note, (key,), perhaps=before)
    step = partial(steps.promote, release_id=release)
    yield Death("promote, then a rollback", step, taken_back, then=back_to(serving))


def back_to(version: int) -> Step:
    return partial(by_hand.rollback, version=version, plan=PLAN, why="angry", requested_by="ada")


def rolled_back(release: int, candidate: int, version: int) -> Wanted:
    states = {release: State.ABORTED, release + 1: State.PROMOTED}
    aborted, promoted = f"release-{release}-aborted", f"release-{release + 1}-promoted"
    notes = {candidate: f"aborted: rolled back to version {version} by ada: angry", version: "promoted"}
    told = (aborted, f"release-{release + 1}-rolled-back")
    return Wanted(version, None, 0, states, told, notes, (aborted, promoted))


LANES = (start_and_abort, promote, revert, rollback_under_watch, rollback_after_a_promotion)


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """A machine of its own that serves version 1 to viewers."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    config = read(var_dir=folder, replica_workers=1, **ports)
    register(config)
    here = parts.world(config)
    stack = Bare(config, kafka_home=None)
    stack.start(with_airflow=False)
    try:
        first = steps.open_release(here, version=1, plan=PLAN, requested_by="test").release_id
        steps.start_canary(here, first)
        steps.promote(here, first, announce=lambda alert: None)
        with viewers(config, per_second=ASKED_PER_S) as met:
            yield Machine(config, stack, here, met)
    finally:
        stack.stop()
        here.records.dispose()


def register(config: Settings) -> None:
    """Make versions whose models are tiny and lie where replicas look for them."""
    registry, repository = parts.registry(config), Repository(config.registry)
    registry.init()
    for version in VERSIONS:
        tiny_artifact(config.models_dir / f"v{version}", version=version)
        metrics = json.dumps({"version": version, "rmse": 0.9})
        (config.registry / "metrics.json").write_text(f"{metrics}\n")
        repository.git("add", "--force", "metrics.json")
        repository.git("commit", "--quiet", "-m", f"version {version}")
        repository.git("tag", f"v{version}")


def die_everywhere(here: Machine, lane: Callable[[Machine], Iterator[Death]]) -> dict[str, list[float]]:
    """Let each step of a lane die at its first, second, … last moment; return the recoveries, by step."""
    recoveries: dict[str, list[float]] = {}
    for die_at in count():
        deaths = 0
        for death in lane(here):
            died_before = here.run(death.step, die_at)
            began_s = time.monotonic()
            if died_before or death.then:
                here.run(death.then or death.step)
            if died_before:
                deaths += 1
                recoveries.setdefault(death.name, []).append(time.monotonic() - began_s)
            try:
                here.check(death.wanted, died_before)
            except (AssertionError, StackError) as error:
                error.add_note(f"{death.name} had died at moment {die_at}, before: {died_before}")
                raise
        if not deaths:
            break
    return recoveries


@pytest.mark.timeout(1_800)
def test_a_release_that_is_killed_anywhere_ends_as_if_nothing_had_happened(tmp_path, record_property):
    with ExitStack() as machines, ThreadPoolExecutor(len(LANES)) as pool:
        here = [machines.enter_context(machine(tmp_path / lane.__name__)) for lane in LANES]
        for recoveries in pool.map(die_everywhere, here, LANES):
            for name, seconds in recoveries.items():
                record_property(f"kill points of {name}", len(seconds))
                record_property(f"slowest recovery of {name}, s", round(max(seconds), 1))
                assert len(seconds) > 10, "everything that a step does was to be a moment"
