"""What viewers like: the ratings of MovieLens (ml-latest-small) in the words and numbers of the stream.

Movie titles become the stream's ids, half stars become the stream's five, and a viewer's
choice of what to watch is as skewed as in the real captures.
"""

import csv
import gzip
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import StackError
from pipelines.settings import PROJECT_DIR

DATA_DIR = PROJECT_DIR / "tests" / "data" / "ml-latest-small"

STAR_SHARES = (0.008, 0.032, 0.30, 0.48, 0.18)
"""Shares of the ratings 1 to 5 in the stream."""

_WATCH_SKEW = 2.0
"""A rating is watched with weight (ratings of its movie) ** skew: the top 20 then get 39 % of all minutes."""

_TITLE = re.compile(r"^(?P<name>.*?)(?:\s*\([^)]*\))*?\s*(?:\((?P<year>\d{4})[^)]*\))?\s*$")
_ARTICLE = re.compile(r"^(?P<name>.*), (?P<article>The|A|An|La|Le|Les|El|Los|Las|Il|Der|Die|Das)$")


@dataclass(frozen=True, slots=True, eq=False)
class Tastes:
    """All MovieLens ratings as parallel arrays, one row per (person, movie)."""

    movie_ids: list[str]
    """Ids of the stream; their index is the movie index below."""
    lengths_min: NDArray[np.int64]
    """Running time of each movie, in minutes."""
    persons: NDArray[np.int64]
    """Row → MovieLens user, 1-based."""
    movies: NDArray[np.int64]
    """Row → movie index."""
    stars: NDArray[np.int64]
    """Row → rating of 1 to 5 stars."""
    rated_at: NDArray[np.int64]
    """Row → when MovieLens saw the rating, Unix seconds."""
    watch_shares: NDArray[np.float64]
    """Row → cumulative probability of being watched."""

    @property
    def n_persons(self) -> int:
        """How many MovieLens users there are; their ids are 1 to this."""
        return int(self.persons.max())

    def watched_rows(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """Draw ``n`` rows as viewers choose what to watch: popular movies dominate."""
        return np.searchsorted(self.watch_shares, rng.random(n), side="right")

    def rated_rows(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """Draw ``n`` rows, each rating of MovieLens with the same chance."""
        return rng.integers(len(self.persons), size=n)


def load(data_dir: Path = DATA_DIR) -> Tastes:
    """Read ``movies.csv.gz`` and ``ratings.csv.gz``.

    Raises:
        StackError: a file is missing or not what MovieLens publishes.
    """
    try:
        ids = {row["movieId"]: movie_id(row["title"]) for row in _rows(data_dir / "movies.csv.gz")}
        rated = [
            (int(row["userId"]), ids[row["movieId"]], float(row["rating"]), int(row["timestamp"]))
            for row in _rows(data_dir / "ratings.csv.gz")
        ]
    except (OSError, EOFError, KeyError, ValueError) as error:
        raise StackError(
            f"the MovieLens files in {data_dir} cannot be read: {error!r}; "
            "they belong to the project: `git checkout tests/data`"
        ) from error
    return _tastes(rated)


def movie_id(title: str) -> str:
    """Write a MovieLens title as the stream does: ``Matrix, The (1999)`` is ``the+matrix+1999``."""
    parts = _TITLE.match(title)
    name, year = (parts["name"], parts["year"] or "") if parts else (title, "")
    article = _ARTICLE.match(name)
    if article:
        name = f"{article['article']} {article['name']}"
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9+._*-]", "", plain.replace(",", "_").replace(" ", "+"))
    return f"{slug or 'untitled'}+{year}"


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _tastes(rated: list[tuple[int, str, float, int]]) -> Tastes:
    # Two movies of one title are one id in the stream; the newer rating of a person holds.
    latest = {
        (person, movie): (rating, at) for person, movie, rating, at in sorted(rated, key=lambda row: row[3])
    }
    movie_ids = sorted({movie for _, movie in latest})
    index = {movie: i for i, movie in enumerate(movie_ids)}
    keys = sorted(latest)
    persons = np.array([person for person, _ in keys], dtype=np.int64)
    movies = np.array([index[movie] for _, movie in keys], dtype=np.int64)
    half_stars = np.array([latest[key][0] for key in keys])
    weights = np.bincount(movies)[movies] ** _WATCH_SKEW
    return Tastes(
        movie_ids=movie_ids,
        lengths_min=_lengths_min(movie_ids),
        persons=persons,
        movies=movies,
        stars=five_stars(half_stars, movies),
        rated_at=np.array([latest[key][1] for key in keys], dtype=np.int64),
        watch_shares=np.cumsum(weights) / weights.sum(),
    )


def five_stars(half_stars: NDArray[np.float64], movies: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the ratings the distribution of the stream; who liked something better still does.

    Equal ratings are told apart by how well everybody likes the movie (its mean rating).
    """
    means = np.bincount(movies, weights=half_stars) / np.maximum(np.bincount(movies), 1)
    order = np.lexsort((means[movies], half_stars))
    last = np.round(np.cumsum(STAR_SHARES) * len(order)).astype(np.int64)
    stars = np.empty(len(order), dtype=np.int64)
    stars[order] = 1 + np.searchsorted(last[:-1], np.arange(len(order)), side="right")
    return stars


def _lengths_min(movie_ids: list[str]) -> NDArray[np.int64]:
    rng = np.random.default_rng(len(movie_ids))
    films = rng.normal(105, 18, len(movie_ids)).clip(60, 220)
    # What has no year is a series: the stream holds minutes up to 1063.
    series = rng.uniform(300, 1064, len(movie_ids))
    has_year = np.array([not movie.endswith("+") for movie in movie_ids])
    lengths: NDArray[Any] = np.where(has_year, films, series)
    return lengths.astype(np.int64)
