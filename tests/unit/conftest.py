"""The unit tier imports nearly everything there is, so the garbage collector looks at that only once.

To look through it takes a third of a second. It went on while tests were collected, and whenever code or a
test asked for a full collection.
"""

import atexit
import gc
import os
from collections.abc import Generator

import pytest

# pytest-xdist has a worker on each core; threads for matrices would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import without the collector, then keep it from what is there."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
        # Extension modules count at the end what is left.
        atexit.register(gc.unfreeze)
        # Who reads events freezes for that time only, and would thaw all of it.
        gc.freeze = gc.unfreeze = lambda: None
