from pipelines.release import steps
from pipelines.release.plan import Plan
from pipelines.settings import read

PLAN = Plan.of(read(guard_s=0))


def opened(world, version):
    return steps.open_release(world, version=version, plan=PLAN, requested_by="test").release_id


def served(world, version):
    release_id = opened(world, version)
    steps.start_canary(world, release_id)
    steps.promote(world, release_id, announce=lambda alert: None)
    return release_id


def test_a_release_notes_the_image_that_its_replicas_are_made_of(world):
    first = served(world, 1)
    assert world.ledger.get(first).image == world.fleet.pack(1)
    second = opened(world, 2)
    assert world.ledger.get(second).image is None
    steps.start_canary(world, second)
    assert world.ledger.get(second).image == world.fleet.pack(2)


def test_a_fleet_without_images_leaves_no_note(world, monkeypatch):
    monkeypatch.setattr(world.fleet, "pack", lambda version: "")
    assert world.ledger.get(served(world, 1)).image is None


def test_replicas_are_told_which_release_they_are_for(world):
    first = served(world, 1)
    assert world.fleet.releases == {"stable-1": first, "stable-2": first}
    second = opened(world, 2)
    steps.start_canary(world, second)
    assert world.fleet.releases["canary"] == second
    steps.rollback(world, 3, plan=PLAN, why="", requested_by="ada", announce=lambda alert: None)
    newest = world.ledger.latest(1)[0]
    assert newest.image == world.fleet.pack(3)
    assert world.fleet.releases["stable-1"] == world.fleet.releases["stable-2"] == newest.release_id
