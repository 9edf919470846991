import pytest

from pipelines.release import steps
from pipelines.release.entries import State
from tests.releases import guarded, promoted, started


@pytest.fixture
def tags(world, monkeypatch):
    """What the tags in the registry say, by name."""
    said = {}
    monkeypatch.setattr(world.registry, "tag", lambda name, version, text: said.setdefault(name, text))
    return said


def test_a_tag_says_why_the_release_became_what_it_became(world, alerts, tags):
    release_id = guarded(world, now=None)
    world.ledger.revert(release_id, reason="mean response time 700 ms")
    steps.settle(world, release_id, announce=alerts.append)
    assert tags == {
        "release-1-promoted": "first version: nothing serves yet that it could be compared with",
        f"release-{release_id}-promoted": "approved by ada: I saw enough",
        f"release-{release_id}-reverted": "mean response time 700 ms",
    }


def test_a_note_says_what_became_of_a_version(world, alerts):
    promoted(world, 1)
    release_id = started(world, 2)
    world.ledger.decide(release_id, State.ABORTING, verdict="fail", reason="slow")
    steps.abort(world, release_id, announce=alerts.append)
    assert world.registry.notes == {1: "promoted", 2: "aborted: slow"}


def test_a_remote_that_is_away_keeps_nobody_from_being_told(world, alerts, monkeypatch, caplog):
    monkeypatch.setattr(world.registry, "push", lambda: "no route to host")
    release_id = started(world, 1)
    steps.promote(world, release_id, announce=alerts.append)
    assert len(alerts) == 1
    assert "the note on version 1 stays on this machine for now: no route to host" in caplog.text
