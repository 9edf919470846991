"""A step that dies anywhere and is run again leaves the world that it leaves when nothing happens to it."""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ReleaseError
from pipelines.release import by_hand, keep, steps
from pipelines.release.entries import State
from pipelines.release.fleet import CANARY_REPLICA, STABLE_REPLICAS
from pipelines.release.ledger import Ledger
from pipelines.release.plan import Plan
from pipelines.release.router import Split
from pipelines.release.world import World
from pipelines.settings import read
from tests.fakes import FakeFleet, FakeRouter, Killed
from tests.killing import Moments, Step
from tests.releases import records_in

PLAN = Plan.of(read(canary_window_s=60, canary_extension_s=30))
UNGUARDED = replace(PLAN, guard_s=0.0)
STABLE = tuple(f"{replica}:80" for replica in STABLE_REPLICAS)


class Told(list[str]):
    """Keys of the alerts that people got."""

    def __call__(self, alert):
        self.append(alert.key)


@dataclass(frozen=True)
class Death:
    """A world right after a step died in it."""

    before: str
    """What the step would have done next."""
    world: World
    told: Told


def opened(world, version, plan=PLAN):
    return steps.open_release(world, version=version, plan=plan, requested_by="test").release_id


def watched(world, version, plan=PLAN):
    release_id = opened(world, version, plan)
    steps.start_canary(world, release_id)
    return release_id


def judged(world, version, state=State.PROMOTING, plan=PLAN):
    release_id = watched(world, version, plan)
    world.ledger.decide(release_id, state, verdict="judged", reason="measured")
    return release_id


def serving(world, version, plan=UNGUARDED):
    release_id = judged(world, version, plan=plan)
    steps.promote(world, release_id, announce=Told())
    return release_id


def back_to(version):
    def roll_back(world, announce):
        by_hand.rollback(world, version, plan=PLAN, why="angry", requested_by="ada", announce=announce)

    return roll_back


# Each prepares a world and returns the step that dies in it.


def start(world):
    serving(world, 1)
    release_id = opened(world, 2)
    return lambda world, announce: steps.start_canary(world, release_id)


def start_beside_the_extra_replica(world):
    serving(world, 1)
    serving(world, 2)
    release_id = opened(world, 3)
    return lambda world, announce: steps.start_canary(world, release_id)


def start_of_the_first_version(world):
    release_id = opened(world, 1)
    return lambda world, announce: steps.start_canary(world, release_id)


def promote(world):
    serving(world, 1)
    release_id = judged(world, 2)
    return lambda world, announce: steps.promote(world, release_id, announce=announce)


def promote_by_a_person(world):
    serving(world, 1)
    release_id = watched(world, 2)

    def step(world, announce):
        by_hand.intervene(world, release_id, "approve", who="ada", why="", request="run 1")
        steps.promote(world, release_id, announce=announce)

    return step


def settle(world):
    serving(world, 1)
    release_id = serving(world, 2, PLAN)
    return lambda world, announce: steps.settle(world, release_id, announce=announce)


def revert(world):
    serving(world, 1)
    release_id = serving(world, 2, PLAN)
    world.ledger.revert(release_id, reason="slow")
    return lambda world, announce: steps.settle(world, release_id, announce=announce)


def abort(world):
    serving(world, 1)
    release_id = judged(world, 2, State.ABORTING)
    return lambda world, announce: steps.abort(world, release_id, announce=announce)


def abort_by_a_person(world):
    serving(world, 1)
    release_id = watched(world, 2)

    def step(world, announce):
        by_hand.intervene(world, release_id, "abort", who="ada", why="", request="run 1")
        steps.abort(world, release_id, announce=announce)

    return step


def rollback_while_a_candidate_is_watched(world):
    serving(world, 1)
    watched(world, 2)
    return back_to(3)


def rollback_while_a_version_is_guarded(world):
    serving(world, 1)
    serving(world, 2, PLAN)
    return back_to(1)


def ask(world):
    serving(world, 1)
    release_id = judged(world, 2, State.ASKING)
    return lambda world, announce: steps.ask(world, release_id, announce=announce)


def intervene(what):
    def intervention(world):
        serving(world, 1)
        release_id = watched(world, 2)
        return lambda world, announce: by_hand.intervene(
            world, release_id, what, who="ada", why="sure", seconds=60.0, request="run-7"
        )

    intervention.__name__ = f"intervene_{what}"
    return intervention


def open_the_newest_of_several(world):
    serving(world, 1)
    return lambda world, announce: steps.open_release(
        world, version=None, plan=PLAN, requested_by="asset", automatic=True
    )


def restore(world):
    serving(world, 1)
    watched(world, 2)
    world.fleet.replicas.clear()
    world.router.splits.clear()
    return lambda world, announce: keep.restore(world)


TURNS = [start, promote, revert, abort]
SCENES = [
    *TURNS,
    *(start_beside_the_extra_replica, start_of_the_first_version),
    *(promote_by_a_person, abort_by_a_person, settle),
    *(rollback_while_a_candidate_is_watched, rollback_while_a_version_is_guarded),
    *(ask, intervene("approve"), intervene("extend"), intervene("abort")),
    *(open_the_newest_of_several, restore),
]
over = lambda scenes: pytest.mark.parametrize("scene", scenes, ids=lambda scene: scene.__name__)  # noqa: E731


@contextmanager
def reopened(world: World, file: Path) -> Iterator[World]:
    """The same world as a new process finds it."""
    with records_in(file) as engine:
        yield replace(world, records=engine, ledger=Ledger(engine))


@contextmanager
def copy_of(world: World, file: Path) -> Iterator[World]:
    """A world of its own, equal to ``world``."""
    shutil.copy(world.records.url.database, file)
    parts = {part: deepcopy(getattr(world, part)) for part in ("fleet", "router", "registry")}
    with reopened(replace(world, **parts), file) as copy:
        yield copy


def deaths(world: World, step: Step) -> Iterator[Death]:
    """The worlds that ``step`` leaves when it dies at its first, second, … last moment in ``world``."""

    def die():
        raise Killed

    world.records.dispose()
    file = Path(world.records.url.database).with_name("dying.db")
    for die_at in count():
        moments, told = Moments(die_at, die), Told()
        with copy_of(world, file) as dying:
            try:
                moments.run(step, dying, told)
            except Killed:
                pass
            else:
                return
        with reopened(dying, file) as dead:
            yield Death(moments.passed[-1], dead, told)


def left(world: World) -> dict[str, Any]:
    """Everything that a step leaves behind but for the time of day."""
    releases = world.ledger.latest(None)
    return {
        "replicas": world.fleet.versions(),
        "split": world.router.current(),
        "notes": world.registry.notes,
        "tags": world.registry.tags,
        "releases": [
            (each.version, each.previous, each.state, each.verdict, each.reason, each.reverted_because)
            for each in releases
        ],
        "done by people": [
            (done.who, done.what, done.why, done.seconds)
            for each in releases
            for done in world.ledger.interventions(each.release_id)
        ],
    }


def named(router: FakeRouter) -> set[str]:
    """Whom viewers are sent to."""
    return {address for split in router.splits[-1:] for address in (*split.stable, split.canary) if address}


def addresses(fleet: FakeFleet) -> set[str]:
    return {running.address for running in fleet.running().values()}


def dates(world: World) -> dict[tuple[int, str], datetime]:
    """When each thing happened that has happened to each release."""
    return {
        (each.release_id, what): at
        for each in world.ledger.latest(None)
        for what in ("opened_at", "watch_from", "decided_at", "served_from", "ended_at")
        if (at := getattr(each, what))
    }


@over(SCENES)
def test_a_step_that_died_anywhere_is_finished_by_the_next_run(world, records_file, scene, record_property):
    step = scene(world)
    world.records.dispose()
    with copy_of(world, records_file.with_name("living.db")) as living:
        undisturbed = Told()
        step(living, announce=undisturbed)
        wanted = left(living)
    moments = 0
    for moments, death in enumerate(deaths(world, step), start=1):  # noqa: B007 - counted for the report
        if scene is not restore:
            assert named(death.world.router) <= addresses(death.world.fleet), f"died before {death.before}"
        before = dates(death.world)
        # Sent and not yet noted: nobody can know that it was sent.
        again = death.told[-1:] if death.before == "INSERT INTO alerts" else []
        step(death.world, announce=death.told)
        assert left(death.world) == wanted, f"died before {death.before}"
        assert dates(death.world).items() >= before.items(), f"died before {death.before}"
        assert Counter(death.told) == Counter(undisturbed + again), f"died before {death.before}"
    record_property("kill points", moments)


@over(TURNS)
def test_a_step_that_died_with_the_machine_is_finished_after_the_world_is_restored(
    world, records_file, scene
):
    step = scene(world)
    world.records.dispose()
    with copy_of(world, records_file.with_name("living.db")) as living:
        step(living, announce=Told())
        wanted = left(living)
    for death in deaths(world, step):
        death.world.fleet.replicas.clear()
        keep.restore(death.world)
        step(death.world, announce=death.told)
        assert but_extra(left(death.world)) == but_extra(wanted), f"died before {death.before}"


def but_extra(found: dict[str, Any]) -> dict[str, Any]:
    """Without the replica that is extra capacity after a promotion: a restored world may lack it."""
    if "percent=0" in found["split"]:
        stable = {name: version for name, version in found["replicas"].items() if name != CANARY_REPLICA}
        return found | {"replicas": stable, "split": ""}
    return found


@over(TURNS)
def test_a_rollback_succeeds_wherever_a_step_died_and_a_late_retry_does_not_undo_it(world, scene):
    step = scene(world)
    for death in deaths(world, step):
        back_to(3)(death.world, death.told)
        for _ in "now", "late":
            assert death.world.fleet.versions().items() >= dict.fromkeys(STABLE_REPLICAS, 3).items()
            assert death.world.router.splits[-1] in (Split(STABLE), Split(STABLE, "canary:80"))
            assert death.world.ledger.stable() == 3
            assert death.world.ledger.under_way() is None
            with suppress(ReleaseError):
                step(death.world, announce=death.told)


@over([start, start_beside_the_extra_replica])
def test_a_person_may_abort_wherever_the_start_died(world, scene):
    for death in deaths(world, scene(world)):
        release = death.world.ledger.under_way()
        by_hand.intervene(death.world, None, "abort", who="ada", why="doubts")
        steps.abort(death.world, release.release_id, announce=death.told)
        assert death.world.fleet.versions() == dict.fromkeys(STABLE_REPLICAS, release.previous)
        assert death.world.router.splits[-1] == Split(STABLE)
        assert death.world.ledger.get(release.release_id).reason == "refused by ada: doubts"
        assert death.told == [f"release-{release.release_id}-aborted"]


def test_a_guarded_version_may_be_taken_back_wherever_its_promotion_died(world):
    step = promote(world)
    for death in deaths(world, step):
        release = death.world.ledger.under_way()
        if release.state is State.GUARDING:
            by_hand.intervene(death.world, None, "abort", who="ada", why="doubts")
            step(death.world, announce=death.told)
            assert steps.settle(death.world, release.release_id, announce=death.told) == "reverted"
            assert death.world.fleet.versions() == dict.fromkeys(STABLE_REPLICAS, 1)
            assert death.world.ledger.stable() == 1
            assert death.told[-1] == f"release-{release.release_id}-reverted"
