"""The world is kept as the ledger wants it, again and again."""

import time

import pytest
from filelock import Timeout

from pipelines.errors import FleetError
from pipelines.release import keep
from pipelines.release.entries import State
from pipelines.release.fleet import Running
from pipelines.release.router import Split
from tests.releases import (
    CANARY,
    GUARDED,
    PLAN,
    STABLE,
    opened,
    promoted,
    started,
    watched,
)


def both(world, plan=PLAN):
    promoted(world, 1)
    return promoted(world, 2, plan)


def asking(world):
    promoted(world, 1)
    world.ledger.decide(started(world, 2), State.ASKING, verdict="no traffic", reason="nobody came")


WORLDS = {
    "nothing serves": lambda world: None,
    "the first version serves": lambda world: promoted(world, 1),
    "the second serves, its canary helps": lambda world: both(world),
    "guarding": lambda world: both(world, GUARDED),
    "watching": lambda world: promoted(world, 1) or started(world, 2),
    "asking": asking,
}


@pytest.fixture(params=WORLDS.values(), ids=WORLDS)
def served(request, world):
    """A world as its steps leave it."""
    request.param(world)
    return world


def shape(world):
    return world.fleet.versions(), world.router.current()


def test_a_world_that_is_well_is_left_alone_and_one_made_anew_becomes_what_it_was(served):
    """Anew after `down` and `up -d`: NGINX kept its split in a volume, nobody keeps replicas."""
    deployed, splits = list(served.fleet.deployed), list(served.router.splits)
    assert keep.keep(served) == []
    assert (served.fleet.deployed, served.router.splits) == (deployed, splits)

    wanted = served.fleet.versions()
    if splits and splits[-1].canary_percent == 0:
        wanted.pop("canary", None)  # extra capacity after a promotion, which no ledger names
    served.fleet.replicas.clear()
    keep.keep(served)
    assert served.fleet.versions() == wanted
    assert keep.keep(served) == []


def test_what_is_mended_is_told(world, caplog):
    promoted(world, 1)
    del world.fleet.replicas["stable-2"]
    assert keep.keep(world) == ["stable-2 answers nothing, version 1 was wanted"]
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}
    assert "mended: stable-2 answers nothing" in caplog.text


def test_a_version_that_nobody_shall_get_is_taken_away(world):
    promoted(world, 1)
    world.fleet.deploy("canary", 3, arm="canary")
    world.router.apply(Split(STABLE, CANARY, 20))
    assert len(keep.keep(world)) == 2
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}
    assert world.router.splits[-1] == Split(STABLE)


def test_another_split_is_set_right(world):
    promoted(world, 1)
    started(world, 2)
    world.router.apply(Split(STABLE))
    assert len(keep.keep(world)) == 1
    assert world.router.splits[-1] == Split(STABLE, CANARY, 20)


def test_copies_to_a_shadow_are_left_alone(world):
    promoted(world, 1)
    world.router.apply(Split(STABLE, shadow="shadow:80"))
    assert keep.keep(world) == []


def test_nginx_that_is_away_is_left_to_itself(world, monkeypatch):
    promoted(world, 1)
    monkeypatch.setattr(world.router, "current", lambda: "")
    assert keep.keep(world) == []


def test_extra_capacity_that_is_coming_back_is_waited_for(world):
    """It was killed: taking it away now would be for good."""
    both(world)
    world.fleet.replicas["canary"] = Running("canary", CANARY, None, "canary")
    assert keep.keep(world) == []
    assert "canary" in world.fleet.replicas


def test_candidate_that_does_not_start_keeps_no_stable_replica_away(world):
    promoted(world, 1)
    started(world, 2)
    world.fleet.replicas.clear()
    world.fleet.broken = {2}
    with pytest.raises(FleetError):
        keep.keep(world)
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}


def test_world_is_restored_in_the_middle_of_a_watch(world):
    release_id = watched(world)
    window = world.ledger.get(release_id).watch_from
    world.fleet.replicas.clear()
    keep.restore(world)
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1, "canary": 2}
    assert world.router.splits[-1] == Split(STABLE, CANARY, 20)
    assert world.ledger.get(release_id).watch_from == window


def test_nothing_is_restored_where_nothing_served(world):
    keep.restore(world)
    assert world.fleet.versions() == {}


# --- while a release is moved ------------------------------------------------------------------------


def test_what_a_dead_step_has_begun_is_left_to_it(world):
    promoted(world, 1)
    release_id = started(world, 2)
    world.ledger.decide(release_id, State.PROMOTING, verdict="pass", reason="sound")
    world.fleet.deploy("stable-1", 2, arm="stable")
    before = shape(world)
    assert keep.keep(world) == []
    assert shape(world) == before


def test_viewers_do_not_wait_for_a_dead_step(world):
    """The machine went down in the middle: its step is run again minutes later."""
    promoted(world, 1)
    opened(world, 2)
    del world.fleet.replicas["stable-2"]
    assert keep.keep(world) == ["stable-2 is not there, version 1 was wanted"]
    assert world.fleet.versions() == {"stable-1": 1, "stable-2": 1}


def test_turn_is_skipped_while_a_step_is_at_work(world):
    promoted(world, 1)
    world.fleet.replicas.clear()
    began_s = time.monotonic()
    with world.converging(), pytest.raises(Timeout):
        keep.keep(world)
    assert time.monotonic() - began_s < 1.0
    assert world.fleet.versions() == {}
