"""Drift: how far new data have moved from those that the serving model was trained on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd

from pipelines.checks import chance
from pipelines.checks.census import Census, Flags
from pipelines.checks.figures import Figures
from pipelines.checks.profile import Profile, Reference

LEAST_SAMPLE: Final = 100
"""Independent observations, on either side, below which shares are not compared."""

COLUMNS: Final = (
    *("rating_shift", "popularity_shift"),
    *("new_user_share", "new_user_excess", "new_movie_share", "new_movie_excess"),
)


def compare(census: Census, reference: Reference | str) -> Figures:
    """Return one row with ``COLUMNS``.

    ``rating_shift``: how far the share of that star has moved which moved most, see ``chance.largest_move``.
    ``popularity_shift``: bits, of the shares of watched minutes, see ``chance.divergence``; the movies most
    watched before one by one, all others together. ``new_user_share``, ``new_movie_share``: of the days on
    which users were there, and of the viewers of movies, those of users and movies that the model does not
    know; ``…_excess``: how much more than was to be expected, see :func:`expected_new`.

    Args:
        census: of the new data.
        reference: what they are compared with, or why there is nothing.
    """
    if isinstance(reference, str):
        return _row(dict.fromkeys(COLUMNS, reference))
    then = reference.profile
    days, viewers = census.users["days"], census.movies["viewers"]
    return _row(
        {
            "rating_shift": _rating_shift(then, census),
            "popularity_shift": _popularity_shift(then, census),
            **_new("user", "visits of users", days, reference.knows_users, then.visits_once, then.visits),
            **_new(
                "movie", "viewers of movies", viewers, reference.knows_movies, then.viewers_once, then.viewers
            ),
        }
    )


def expected_new(once: int, total: int) -> float:
    """Return the share of what comes next that will be of users (or movies) not seen before.

    Those that were seen just once stand for those that were not seen at all: of ``total`` observations, the
    ``once`` that were the only one of their user are the share of what is still to be discovered (I. J. Good,
    The population frequencies of species, Biometrika 40, 1953). A user's observations within a day hang
    together, so users are observed by the day; data of one day expect everybody to be new.
    """
    return once / total


def _rating_shift(then: Profile, census: Census) -> float | str:
    before = np.array(then.stars)
    few = _too_few("ratings", before.sum(), census.stars.sum())
    return few or chance.largest_move(before, census.stars)


def _popularity_shift(then: Profile, census: Census) -> float | str:
    n, m = then.effective_viewings, census.effective_viewings
    if few := _too_few("independent viewings", n, m):
        return few
    minutes = census.movies["minutes"]
    top = minutes.reindex(list(then.minutes), fill_value=0).to_numpy()
    before = np.array([*then.minutes.values(), then.other_minutes])
    after = np.append(top, minutes.sum() - top.sum())
    return chance.divergence(before / before.sum(), after / after.sum(), n, m)


def _new(
    what: str, counted: str, seen: pd.Series, knows: Callable[[Sequence[str]], Flags], once: int, total: int
) -> dict[str, float | str]:
    """Return share and excess of what the model does not know; ``seen``: observations by id."""
    columns = (f"new_{what}_share", f"new_{what}_excess")
    if few := _too_few(counted, total, seen.sum()):
        return dict.fromkeys(columns, few)
    share = float(seen[~knows(seen.index.astype("str").tolist())].sum() / seen.sum())
    excess = chance.excess(share, expected_new(once, total), float(seen.sum()), float(total))
    return dict(zip(columns, (share, excess), strict=True))


def _too_few(what: str, before: float, now: float) -> str:
    """Return why two samples are too small to be compared; empty when they are not."""
    if min(before, now) >= LEAST_SAMPLE:
        return ""
    sizes = f"{now:.0f} {what}, {before:.0f} in the serving model's data"
    return f"too few to compare: {sizes}; wanted are {LEAST_SAMPLE} each"


def _row(values: Mapping[str, float | str]) -> Figures:
    """Return the figures that are known, and why the others are not."""
    known = {name: np.nan if isinstance(value, str) else value for name, value in values.items()}
    unknown = {name: value for name, value in values.items() if isinstance(value, str)}
    return Figures(pd.DataFrame([known]), unknown=unknown)
