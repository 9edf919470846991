"""Answers of two arms, as the recorder writes them into the records database."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import Engine, insert

from pipelines.records.database import naive_utc
from pipelines.records.tables import reccom
from tests.receipts import row

FULL_LIST = ",".join(f"movie+{rank:02}+2000" for rank in range(20))
SHORT_LIST = "movie+00+2000"


@dataclass(frozen=True)
class Arm:
    """How an arm answers; the shares are of its answers."""

    version: int
    mean_ms: float = 20.0
    failed: float = 0.0
    below: float = 0.2
    short: float = 0.0


def serve(engine: Engine, **what: Any) -> None:
    """Write `rows` into the records database behind ``engine``."""
    with engine.begin() as connection:
        connection.execute(insert(reccom), rows(**what))


def rows(
    *,
    since: datetime,
    seconds: float,
    canary: Arm | None,
    stable: Arm,
    per_s: float = 10.0,
    users: int = 500,
    canary_percent: int = 20,
    mixed_users: int = 0,
) -> list[dict[str, Any]]:
    """Return ``per_s`` answers a second from ``since`` on, evenly over ``users``, as rows of ``reccom``.

    ``canary_percent`` of the users meet the canary (0, 5, 10, …), the others stable; without a canary all do.
    ``mixed_users`` of the canary's meet it every third time only. An arm has just the mean and the shares
    that it is given, as far as whole answers go; its times spread as those of real replicas do.
    """
    begin, random = naive_utc(since), np.random.default_rng(20)
    numbers = np.arange(round(per_s * seconds))
    user = numbers % users
    on_canary = user * canary_percent % 100 < (canary_percent if canary else 0)
    mixed = np.isin(user, np.unique(user[on_canary])[:mixed_users])
    on_canary &= ~mixed | (numbers // users % 3 == 0)
    given = []
    for arm, name, own in ((canary, "canary", on_canary), (stable, "stable", ~on_canary)):
        if arm:
            columns = zip(numbers[own], user[own], *_answers(arm, int(own.sum()), random), strict=True)
            share = canary_percent if canary else 0
            alike = row(version_number=arm.version, arm=name, replica=name, canary_percent=share)
            given += [
                alike
                | {
                    "request_id": f"{begin}-{number}",
                    "served_at": begin + timedelta(seconds=int(number) / per_s),
                    "user_id": str(one),
                    "latency_ms": float(latency_ms),
                    "status": 503 if failed else 200,
                    "source": "trending" if below else "personal",
                    "movie_ids": SHORT_LIST if short else FULL_LIST,
                }
                for number, one, latency_ms, failed, below, short in columns
            ]
    return given


def _answers(arm: Arm, count: int, random: np.random.Generator):
    """Return the columns: ms of each answer, and whether it failed, was below personal, was short."""
    marks = [random.permutation(count) < round(share * count) for share in (arm.failed, arm.below, arm.short)]
    spread = random.gamma(4.0, size=count)
    good = ~marks[0]
    latency_ms = spread * (arm.mean_ms / spread[good].mean() if good.any() else 1.0)
    return [latency_ms, *marks]
