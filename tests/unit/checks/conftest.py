"""Short ways to make what the checks look at."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from pipelines.checks.census import Census
from pipelines.checks.profile import Profile
from pipelines.data.batches import BatchInfo

_MOVIE = ["minutes", "viewers", "ratings"]
_USER = ["minutes", "ratings", "requests", "days", "repeats"]


def _census(movies=(), users=(), stars=(0, 0, 0, 0, 0), effective_viewings=0.0, days=1):
    return Census(
        movies=_frame(movies, _MOVIE),
        users=_frame(users, _USER),
        stars=np.array(stars),
        effective_viewings=effective_viewings,
        days=days,
    )


def _frame(rows, columns):
    return pd.DataFrame([row[1:] for row in rows], columns=columns, index=pd.Index([row[0] for row in rows]))


@pytest.fixture(scope="session")
def make_census():
    """Movies (id, minutes, viewers, ratings) and users (id, minutes, ratings, requests, days, repeats)."""
    return _census


@pytest.fixture(scope="session")
def no_lines():
    """What a batch of nothing says of itself."""
    return BatchInfo(
        lines=0,
        counts={"watch": 0, "rating": 0, "request": 0, "reject": 0},
        rejects={},
        duplicates=0,
        identity="one",
        collected_at=datetime(2026, 3, 3, 12, tzinfo=UTC),
        first_time=None,
        last_time=None,
    )


@pytest.fixture(scope="session")
def profile():
    """Of a hundred thousand lines; samples so large that chance explains nothing."""
    return Profile(
        lines=99_999,
        rejects={"bad-time": 99},
        stars=[0, 0, 3 * 10**9, 5 * 10**9, 2 * 10**9],
        minutes={"a": 6_000, "b": 3_000},
        other_minutes=1_000,
        effective_viewings=1e9,
        visits=10**9,
        visits_once=4 * 10**8,
        viewers=10**9,
        viewers_once=10**8,
    )
