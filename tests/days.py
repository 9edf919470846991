"""Days of the stream as the audience makes them, quiet at night and busy in the evening, faults included."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.checks.census import COLUMNS, take
from pipelines.checks.profile import Profile, Reference
from pipelines.checks.validate import Report, validate
from pipelines.data.batches import list_batches, read_table
from pipelines.data.collect import collect
from pipelines.events.grammar import Request
from pipelines.events.sources import FileSource
from pipelines.local.audience.calls import Call
from pipelines.local.audience.tastes import Tastes
from pipelines.local.audience.viewers import RATING_SHARE, REQUEST_SHARE, WATCH_SHARE, Audience
from pipelines.settings import PROJECT_DIR

_STEP_S = 20
_DAY_S = 86_400
_BUSIEST_HOUR, _SWING = 20, 0.7
"""At 20:00 UTC there is 1.7 times the average, at 08:00 there is 0.3 times."""


@dataclass
class Days:
    """A stream that grows by a day at a time in ``folder``, and its batches."""

    folder: Path
    tastes: Tastes
    begin: datetime
    lines_a_day: int
    """On average; the real stream has 43 million."""
    seed: int = 1
    days: int = 0
    """Days that have passed."""
    audience: Audience = field(init=False)

    def __post_init__(self) -> None:
        self.audience = Audience(self.seed, self.tastes, requests_per_s=self._per_s(REQUEST_SHARE))
        self._draw = np.random.default_rng(self.seed)
        self._random = random.Random(self.seed)

    @property
    def batches(self) -> Path:
        return self.folder / "batches"

    def pass_one(self) -> list[str]:
        """Let a day pass and collect it; return the names of its batches."""
        with (self.folder / "movielog.log").open("a") as file:
            file.writelines(f"{line}\n" for line in self._lines())
        self.days += 1
        return collect(FileSource(self.folder / "movielog.log"), self.batches).batches

    def checked(self, names: list[str]) -> Report:
        """Check batches as a run on the evening of that day does, against all batches before them."""
        before = [batch for batch in list_batches(self.batches) if batch.name < min(names)]
        return validate(
            self.batches,
            names,
            PROJECT_DIR / "expectations",
            self.folder / "report.json",
            now=self.begin + timedelta(days=self.days),
            reference=self._reference([batch.name for batch in before]) if before else "the first day",
        )

    def _reference(self, names: list[str]) -> Reference:
        census = take(*(read_table(self.batches, kind, columns, names) for kind, columns in COLUMNS.items()))
        watched_or_rated = census.users.index[census.users["days"] > 0].astype("str")
        infos = [batch.info() for batch in list_batches(self.batches) if batch.name in names]
        return Reference(
            version=self.days,
            profile=Profile.of(census, infos),
            knows_users=lambda ids: pd.Index(ids).isin(watched_or_rated),
            knows_movies=lambda ids: pd.Index(ids).isin(census.movies.index),
        )

    def _lines(self) -> Iterator[str]:
        for second in range(0, _DAY_S, _STEP_S):
            at = self.begin + timedelta(days=self.days, seconds=second)
            pace = _STEP_S * (1 + _SWING * math.cos(2 * math.pi * (second / 3_600 - _BUSIEST_HOUR) / 24))
            self.audience.watches_per_s = pace * self._per_s(WATCH_SHARE)
            self.audience.ratings_per_s = pace * self._per_s(RATING_SHARE)
            n = self._draw.poisson(pace * self._per_s(REQUEST_SHARE))
            yield from self.audience.lines(at, [self._request(at) for _ in range(n)])

    def _request(self, at: datetime) -> str:
        rows = self.tastes.watched_rows(self._draw, 20)
        movies = tuple(dict.fromkeys(self.tastes.movie_ids[movie] for movie in self.tastes.movies[rows]))
        request = Request(at, 0, "recommender", 8082, 200, movies, "", int(self._draw.integers(2, 300)))
        return Call(self.audience.ask(), request, "").line(at, self._random)

    def _per_s(self, share: float) -> float:
        return share * self.lines_a_day / _DAY_S
