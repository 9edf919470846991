import pytest

from pipelines.local.audience import tastes
from pipelines.local.audience.tastes import Tastes


@pytest.fixture(scope="session")
def known() -> Tastes:
    """The tastes of MovieLens, which nobody changes."""
    return tastes.load()
