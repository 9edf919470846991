from dataclasses import replace

import pytest

from pipelines.release import by_hand, rollout, steps
from pipelines.release.fleet import STABLE_REPLICAS
from tests.releases import PLAN, opened, promoted


def test_a_release_notes_the_image_that_its_replicas_are_made_of(world):
    first = promoted(world, 1)
    assert world.ledger.get(first).image == world.fleet.pack(1)
    second = opened(world, 2)
    assert world.ledger.get(second).image is None
    steps.start_canary(world, second)
    assert world.ledger.get(second).image == world.fleet.pack(2)


def test_a_fleet_without_images_leaves_no_note(world, monkeypatch):
    monkeypatch.setattr(world.fleet, "pack", lambda version: "")
    assert world.ledger.get(promoted(world, 1)).image is None


def test_replicas_are_told_which_release_they_are_for(world):
    first = promoted(world, 1)
    assert world.fleet.releases == {"stable-1": first, "stable-2": first}
    second = opened(world, 2)
    steps.start_canary(world, second)
    assert world.fleet.releases["canary"] == second
    by_hand.rollback(world, 3, plan=PLAN, why="", requested_by="ada", announce=lambda alert: None)
    newest = world.ledger.latest(1)[0]
    assert newest.image == world.fleet.pack(3)
    assert world.fleet.releases["stable-1"] == world.fleet.releases["stable-2"] == newest.release_id


@pytest.mark.parametrize(("down", "other"), [STABLE_REPLICAS, STABLE_REPLICAS[::-1]])
def test_the_replica_that_does_not_answer_is_served_first_and_the_other_covers(world, down, other):
    promoted(world, 1)
    world.fleet.replicas[down] = replace(world.fleet.replicas[down], version=None)
    world.fleet.deployed.clear()
    rollout.serve(world, 3)
    assert world.fleet.deployed == [(down, 3), (other, 3)]
