"""The shadow: a replica that preflights and fire drills try, and that no viewer is ever answered by.

One at a time: whoever has one holds a lock, which also kill -9 lets go of. What a killed process has left
behind is taken away by the next who wants one. It is a lock of its own, because a candidate that takes long
to become ready must not keep a rollback waiting.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from filelock import FileLock

from pipelines.fault import Fault
from pipelines.release.fleet import SHADOW_REPLICA
from pipelines.release.router import split_of
from pipelines.release.world import World

# A fire drill gives way to a release at its next look, or when its own preflight is over.
_LOCK_TIMEOUT_S = 300


@contextmanager
def shadowing(world: World, version: int, fault: Fault = Fault.NONE) -> Iterator[str]:
    """Run ``version``, exported into ``world.models_dir``, as the shadow; yields its host:port.

    Raises:
        FleetError: it did not become ready.
        filelock.Timeout: somebody else has the shadow and does not let go of it.
    """
    world.models_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(world.models_dir / ".shadow.lock", timeout=_LOCK_TIMEOUT_S):
        _remove(world)
        try:
            world.fleet.deploy(SHADOW_REPLICA, version, arm="shadow", fault=fault)
            yield world.fleet.address(SHADOW_REPLICA)
        finally:
            _remove(world)


@contextmanager
def mirrored(world: World) -> Iterator[None]:
    """Have NGINX copy to the shadow what viewers ask, until a step of a release sets another split.

    Raises:
        RouterError: NGINX does not answer or does not take it.
    """
    with world.converging():
        split = split_of(world.router.current())
        world.router.apply(replace(split, shadow=world.fleet.address(SHADOW_REPLICA)))
    try:
        yield
    finally:
        _stop_copies(world)


def _remove(world: World) -> None:
    _stop_copies(world)
    world.fleet.remove(SHADOW_REPLICA)
    shutil.rmtree(world.shadow_spool_dir, ignore_errors=True)


def _stop_copies(world: World) -> None:
    with world.converging():
        if (in_force := world.router.current()) and (split := split_of(in_force)).shadow:
            world.router.apply(replace(split, shadow=None))
