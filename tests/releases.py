"""Releases brought to a point: opened, watched, promoted, guarded; what persons and looks do to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path

from sqlalchemy import Engine, event

from pipelines.records.database import connect
from pipelines.release import by_hand, steps, watch
from pipelines.release.entries import State
from pipelines.release.plan import Plan
from pipelines.settings import read
from tests.arms import Arm, serve

# What is to be seen is coarse, so that a minute of viewers is enough.
PLAN = Plan.of(
    read(
        _env_file=None,
        canary_window_s=60,
        canary_extension_s=30,
        see_error_share=0.5,
        see_slow_share=0.5,
        see_below_more=0.6,
        guard_s=0,
    )
)
GUARDED = replace(PLAN, guard_s=60.0)
STABLE = ("stable-1:80", "stable-2:80")
CANARY = "canary:80"
"""Addresses in a fleet of fakes."""
_LONG_S = 100


@contextmanager
def records_in(file: Path) -> Iterator[Engine]:
    """The records database in ``file``, as a process finds it that has just begun."""
    engine = _engine_of(file)
    try:
        yield engine
    finally:
        engine.dispose()


# A new engine compiles every statement anew, which costs more than most tests.
@cache
def _engine_of(file: Path) -> Engine:
    engine = connect(f"sqlite:///{file}")
    # Nobody pulls the plug here: waiting for the disk takes longer than the tests.
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    return engine


def opened(world, version=None, plan=PLAN):
    """Open a release, of the newest version by default; returns its number, as all here do."""
    return steps.open_release(world, version=version, plan=plan, requested_by="test").release_id


def started(world, version, plan=PLAN):
    """Open a release and begin its watch; the first version has none."""
    release_id = opened(world, version, plan)
    steps.start_canary(world, release_id)
    return release_id


def promoted(world, version, plan=PLAN):
    """Promote a version, measured or not."""
    release_id = started(world, version, plan)
    if world.ledger.get(release_id).state is State.WATCHING:
        world.ledger.decide(release_id, State.PROMOTING, verdict="pass", reason="sound")
    steps.promote(world, release_id, announce=lambda alert: None)
    return release_id


def watched(world, version=2, *, plan=PLAN, canary=None, stable=None, seconds=_LONG_S):
    """Promote version 1, start a candidate and let viewers come for so many seconds from then on."""
    promoted(world, 1)
    release_id = started(world, version, plan)
    since = world.ledger.get(release_id).watch_from
    if seconds:
        canary, stable = canary or Arm(version), stable or Arm(1)
        serve(world.records, since=since, seconds=seconds, canary=canary, stable=stable)
    return release_id


def guarded(world, *, now, announce=lambda alert: None):
    """Let a person promote version 2 with a guard, and viewers meet it as ``now`` says (None: none come)."""
    release_id = watched(world, plan=GUARDED, seconds=0)
    steer(world, "approve")
    steps.promote(world, release_id, announce=announce)
    if now:
        since = world.ledger.get(release_id).served_from
        serve(world.records, since=since - timedelta(seconds=100), seconds=100, canary=None, stable=Arm(1))
        serve(world.records, since=since, seconds=60, canary=None, stable=now)
    return release_id


def steer(world, what, **more):
    """Do with the release under way what ada wants."""
    return by_hand.intervene(world, None, what, who="ada", why="I saw enough", **more)


def look(world, release_id, after_s, **more):
    """Look so many seconds after the window began."""
    release = world.ledger.get(release_id)
    now = (release.served_from or release.watch_from) + timedelta(seconds=after_s)
    return watch.look(world, release_id, now=now, **more)
