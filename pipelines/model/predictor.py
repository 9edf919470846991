"""The half of the recipe that predicts ratings: scikit-surprise's SVD, fed from arrays.

Its RMSE is what the gate judges; the list is the ranker's, since a rating predictor ranks worse than plain
popularity. The descent is scikit-surprise's own; what it is fed is not: its trainset keeps a tuple for each
rating in lists of lists, and takes longer to walk through them than to descend.

The order of the descent decides how well and how fast it ends. User by user, a user's factors stay in the
processor's cache; within a user, at random:

==============================  ==============  ===========================
order                           RMSE MovieLens  seconds for 60 million steps
==============================  ==============  ===========================
users, each by movie            0.870           7
users, each at random (this)    0.865           8
all at random                   0.865           20
==============================  ==============  ===========================
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
import numpy.typing as npt
from surprise import SVD

from pipelines.errors import ModelError
from pipelines.model.arrays import Doubles, Floats
from pipelines.model.ids import Rows

Progress = Callable[[int, int], None]

_AT_ONCE = 8_192
"""Ratings that are Python objects at a time: enough to be quick, few enough to stay in the cache."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings as columns, each pair of user and movie once, in any order."""

    users: Rows
    """Row of the user; every row up to the greatest has a rating."""
    movies: Rows
    """Row of the movie."""
    values: npt.NDArray[np.floating]
    """Rating units."""


def fit(
    ratings: Ratings,
    n_movies: int,
    *,
    factors: int,
    epochs: int,
    seed: int,
    scale: tuple[float, float],
    progress: Progress | None = None,
) -> dict[str, Floats]:
    """Return the ``svd_*`` arrays: rating = mean + user bias + movie bias + user factors @ movie factors.

    Args:
        ratings: to learn from, at least one.
        n_movies: movies in all, rated or not.
        factors: latent factors of a user and a movie.
        epochs: passes over the ratings.
        seed: of the random start and of the order of the descent.
        scale: lowest and highest rating there can be.
        progress: called with (epochs done, epochs in all).

    Raises:
        ModelError: the descent ran away.
    """
    low, high = scale
    # The step size of the descent suits a scale of four, as 1 to 5; on 0 to 100 it runs away.
    unit = (high - low) / 4 or 1.0
    trainset = _Trainset(ratings, n_movies, unit, seed, _counting(epochs, progress))
    svd = SVD(n_factors=factors, n_epochs=epochs, random_state=seed).fit(trainset)
    trainset.on_epoch()
    # SVD leaves its random start where there was nothing to learn from.
    svd.qi[np.bincount(ratings.movies, minlength=n_movies) == 0] = 0.0
    fitted = {
        "svd_user_bias": _settle(svd.bu, unit),
        "svd_user_factors": _settle(svd.pu, unit),
        "svd_movie_bias": _settle(svd.bi, unit),
        "svd_movie_factors": _settle(svd.qi, 1.0),
    }
    if not all(np.isfinite(array).all() for array in fitted.values()):
        raise ModelError(
            f"the rating predictor ran away on ratings from {low:g} to {high:g}; look for outliers among them"
        )
    return fitted


class _Trainset:
    """As much of a trainset as scikit-surprise's SVD asks for, without a Python object for each rating."""

    def __init__(
        self, ratings: Ratings, n_movies: int, unit: float, seed: int, on_epoch: Callable[[], None]
    ) -> None:
        order = _order(ratings.users, seed)
        self._users = ratings.users[order].astype(np.int32)
        self._movies = ratings.movies[order].astype(np.int32)
        self._values = ratings.values[order].astype(np.float64) / unit
        self.n_users, self.n_items = int(ratings.users.max()) + 1, n_movies
        self.global_mean = float(self._values.mean())
        self.on_epoch = on_epoch

    def all_ratings(self) -> Iterator[tuple[int, int, float]]:
        """Return (user row, movie row, rating) of every rating; SVD asks once an epoch."""
        self.on_epoch()
        return chain.from_iterable(map(self._part, range(0, len(self._values), _AT_ONCE)))

    def _part(self, begin: int) -> Iterator[tuple[int, int, float]]:
        part = slice(begin, begin + _AT_ONCE)
        columns = (self._users[part].tolist(), self._movies[part].tolist(), self._values[part].tolist())
        return zip(*columns, strict=True)


def _order(users: Rows, seed: int) -> Rows:
    """Return the order of the descent: user by user, the ratings of each at random."""
    # No two keys are equal, so that it does not matter how a machine sorts.
    keys = np.random.default_rng(seed).permutation(len(users))
    keys += users << 32
    return np.argsort(keys)


def _counting(epochs: int, progress: Progress | None) -> Callable[[], None]:
    done = count()

    def on_epoch() -> None:
        if progress is not None:
            progress(next(done), epochs)

    return on_epoch


def _settle(array: Doubles, unit: float) -> Floats:
    """Return ``array * unit`` as floats, without a second array of doubles."""
    settled = np.empty(array.shape, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.multiply(array, unit, out=settled, casting="same_kind")
