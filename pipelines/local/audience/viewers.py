"""What viewers do, second by second: a pure, seeded generator that knows no network and no clock.

Viewer ``u`` has the taste of MovieLens user ``(u - 1) % 610 + 1``. Viewers 1 to 610 are those
that an archive log (`history`) makes known to the first model; all others are strangers to it.
"""

import heapq
import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from pipelines.events.grammar import MAX_USER_ID, Rating, Watch
from pipelines.local.audience.faults import with_faults
from pipelines.local.audience.tastes import Tastes

WATCH_SHARE, REQUEST_SHARE, RATING_SHARE = 0.986, 0.0085, 0.0053
"""Shares of the lines, as measured on captures."""

INVALID_SHARE = 0.03
"""Share of the asked users that no viewer can be."""

_JUMP_BACK_SHARE = 0.01
_JUMP_FORWARD_SHARE = 0.005
_LEAVE_SHARE = 1 / 90
"""Chance per minute that a viewer stops before the end."""
_FOLLOW_SHARE = 0.2
"""Chance that an answered viewer then watches one of the recommended movies."""
_FOLLOW_AFTER_S, _FOLLOW_MEAN_S = 100.0, 900.0
_INVALID_USERS = ("0", "1000001", "6597125", "99999999", "-1", "1.5", "abc", "12a4", "nobody", "None")


class Taste(StrEnum):
    """How viewers rate."""

    MOVIELENS = "movielens"
    """As people did: a model can learn it."""
    RANDOM = "random"
    """By rolling dice: no model comes near."""


class Audience:
    """A crowd of viewers; the same seed and the same calls give the same events."""

    def __init__(
        self,
        seed: int,
        tastes: Tastes,
        *,
        requests_per_s: float = 10.0,
        taste: Taste = Taste.MOVIELENS,
        known_share: float = 0.25,
    ) -> None:
        """Seat the crowd: as many viewers in mid-movie as the rate of requests implies (7,000 per request/s).

        Args:
            seed: of all randomness.
            tastes: what viewers watch and how they rate.
            requests_per_s: how often somebody asks for a recommendation; watched minutes and ratings
                follow in the proportions of the stream.
            taste: how viewers rate.
            known_share: share of viewers that the first model has seen.
        """
        self.tastes = tastes
        self.taste = taste
        self.known_share = known_share
        self.watches_per_s = requests_per_s * WATCH_SHARE / REQUEST_SHARE
        self.ratings_per_s = requests_per_s * RATING_SHARE / REQUEST_SHARE
        # Asking depends on the pace of answers; its own generators keep the rest repeatable.
        self._rng = np.random.default_rng(seed)
        self._ask_rng = random.Random(seed)
        self._fault_rng = random.Random(seed + 1)
        self._last = datetime.min.replace(tzinfo=UTC)
        self._followers: list[tuple[datetime, int, int]] = []
        self._movie_index = {movie: i for i, movie in enumerate(tastes.movie_ids)}
        n_seats = math.ceil(60 * self.watches_per_s)
        self._next_seat = 0
        self._users = np.zeros(n_seats, dtype=np.int64)
        self._movies = np.zeros(n_seats, dtype=np.int64)
        self._minutes = np.zeros(n_seats, dtype=np.int64)
        self._start_viewing(np.arange(n_seats))
        self._minutes[:] = self._somewhere(np.arange(n_seats))

    def ask(self) -> str:
        """Return who asks next, as it stands in the address: mostly a stranger, sometimes nonsense."""
        chance = self._ask_rng.random()
        if chance < INVALID_SHARE:
            return self._ask_rng.choice(_INVALID_USERS)
        if chance < INVALID_SHARE + self.known_share:
            return str(self._ask_rng.randint(1, self.tastes.n_persons))
        return str(self._ask_rng.randint(self.tastes.n_persons + 1, MAX_USER_ID))

    def answered(self, user_id: int, movie_ids: Sequence[str], at: datetime) -> None:
        """Tell a viewer the answer; some will watch one of the movies, more than 100 s later."""
        if not 1 <= user_id <= MAX_USER_ID:
            return
        known = [movie for movie in movie_ids if movie in self._movie_index]
        if known and self._ask_rng.random() < _FOLLOW_SHARE:
            delay_s = _FOLLOW_AFTER_S + self._ask_rng.expovariate(1 / _FOLLOW_MEAN_S)
            movie = self._movie_index[self._ask_rng.choice(known)]
            heapq.heappush(self._followers, (at + timedelta(seconds=delay_s), user_id, movie))

    def lines(self, second: datetime, requests: Sequence[str] = ()) -> list[str]:
        """Return everything that reaches the stream in one second, in the order of arrival, faults included.

        Args:
            second: now; what is called with an earlier time than before counts as then.
            requests: lines of finished recommendation requests, none of them later than ``second``.
        """
        self._last = max(self._last, second.replace(microsecond=0))
        events: list[Watch | Rating] = [*self.watches(self._last), *self.ratings(self._last)]
        lines = [event.line() for event in events]
        self._fault_rng.shuffle(lines)
        return list(with_faults([*requests, *lines], self._fault_rng))

    def watches(self, second: datetime) -> list[Watch]:
        """Return the minutes that viewers finish in this second; every viewer comes round once a minute."""
        n = min(int(self._rng.poisson(self.watches_per_s)), len(self._users))
        seats = (self._next_seat + np.arange(n)) % len(self._users)
        self._next_seat = int(self._next_seat + n) % len(self._users)
        self._play_on(seats)
        self._seat_followers(seats, second)
        ids = self.tastes.movie_ids
        seated = (self._users[seats].tolist(), self._movies[seats].tolist(), self._minutes[seats].tolist())
        return [Watch(second, user, ids[movie], minute) for user, movie, minute in zip(*seated, strict=True)]

    def ratings(self, second: datetime) -> list[Rating]:
        """Return the ratings of this second."""
        n = int(self._rng.poisson(self.ratings_per_s))
        rows = self.tastes.rated_rows(self._rng, n)
        stars = self.tastes.stars[rows] if self.taste is Taste.MOVIELENS else self._rng.integers(1, 6, size=n)
        movies = (self.tastes.movie_ids[movie] for movie in self.tastes.movies[rows])
        users = self._viewers_like(rows).tolist()
        rated = zip(users, movies, stars.tolist(), strict=True)
        return [Rating(second, user, movie, star) for user, movie, star in rated]

    def _start_viewing(self, seats: NDArray[np.int64]) -> None:
        rows = self.tastes.watched_rows(self._rng, len(seats))
        self._users[seats] = self._viewers_like(rows)
        self._movies[seats] = self.tastes.movies[rows]
        self._minutes[seats] = 0

    def _viewers_like(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for each row a viewer with the taste of its person: the person itself, or a stranger."""
        n_persons = self.tastes.n_persons
        strangers = self._rng.integers(1, MAX_USER_ID // n_persons, size=len(rows))
        known = self._rng.random(len(rows)) < self.known_share
        strangers[known] = 0
        viewers: NDArray[np.int64] = self.tastes.persons[rows] + n_persons * strangers
        return viewers

    def _play_on(self, seats: NDArray[np.int64]) -> None:
        minutes = self._minutes[seats]
        chance = self._rng.random(len(seats))
        somewhere = self._somewhere(seats)
        back = chance < _JUMP_BACK_SHARE
        forward = ~back & (chance < _JUMP_BACK_SHARE + _JUMP_FORWARD_SHARE)
        leave = chance > 1 - _LEAVE_SHARE
        self._minutes[seats] = np.where(
            back,
            np.minimum(minutes, somewhere),
            np.where(forward, np.maximum(minutes, somewhere), minutes + 1),
        )
        ended = self._minutes[seats] >= self.tastes.lengths_min[self._movies[seats]]
        self._start_viewing(seats[ended | leave])

    def _somewhere(self, seats: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a random minute of the movie that each seat watches."""
        return self._rng.integers(self.tastes.lengths_min[self._movies[seats]])

    def _seat_followers(self, seats: NDArray[np.int64], second: datetime) -> None:
        for seat in seats.tolist():
            if not self._followers or self._followers[0][0] > second:
                return
            _, user, movie = heapq.heappop(self._followers)
            self._users[seat], self._movies[seat], self._minutes[seat] = user, movie, 0
