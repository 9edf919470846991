"""Ten million ratings become a model: time, memory and RMSE beside plain scikit-surprise.

Each run is a process of its own, so that its memory is its own; it reads the ratings as a frame first.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv
from surprise import SVD, Dataset, Reader

from pipelines.model import artifact, predictor
from pipelines.model.evaluate import rmse
from pipelines.model.rows import number
from pipelines.model.train import TrainConfig, load_ratings, train
from pipelines.settings import PROJECT_DIR
from tests.benchmarks.report import Report

SECTION = "Training"
RATINGS = 10_000_000
USERS = 1_000_000
MOVIES = 27_000
HELD_OUT = 0.05
TASTES = 8
FACTORS, EPOCHS, SEED = 50, 20, 20
SCALE = (1.0, 5.0)
RIVAL = "scikit-surprise: load_from_df, build_full_trainset, SVD.fit"
MIB = 2**20


def run(report: Report) -> None:
    """Make the ratings, train on them in every way, and report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(synthetic(RATINGS, USERS, MOVIES, seed=1), folder)
        rival = measure("surprise", folder)
        predicting = measure("predictor", folder)
        whole = measure("whole", folder)
        plain, reading = measure("pandas", folder), measure("csv", folder)
    report_predictor(report, predicting, rival)
    report_whole(report, whole, rival)
    report.add(
        SECTION,
        "ratings of a CSV into a frame, sorted",
        reading["seconds"],
        plain["seconds"],
        unit="s",
        better="less",
        rival_name="pandas.read_csv and sort_values, which check nothing",
        wanted="as fast, and bad lines are named",
    )


def report_predictor(report: Report, ours: dict[str, float], rival: dict[str, float]) -> None:
    """Add the rating predictor: from the frame of ratings to the fitted factors."""
    figures = (
        ("seconds", "s", "the rating predictor, from the frame on", "at most 0.4 of it"),
        ("peak", "MiB", "its peak memory, the frame included", "at most 0.5 of it"),
        ("rmse", "stars", "RMSE on the ratings held out", "not more than 0.001 worse"),
    )
    for name, unit, what, wanted in figures:
        report.add(
            SECTION,
            what,
            ours[name],
            rival[name],
            unit=unit,
            better="less",
            rival_name=RIVAL,
            wanted=wanted,
        )


def report_whole(report: Report, whole: dict[str, float], rival: dict[str, float]) -> None:
    """Add all of ``train``: rating predictor, ranker, a list for every user, the files."""
    report.add(
        SECTION,
        "all of a training, with the ranker, every user's list and the files",
        whole["seconds"],
        rival["seconds"],
        unit="s",
        better="less",
        rival_name=f"{RIVAL}; no ranking, no files",
    )
    report.add(
        SECTION, "its peak memory", whole["peak"], rival["peak"], unit="MiB", better="less", rival_name=RIVAL
    )
    report.add(
        SECTION, "of it ranker, lists and files", whole["ranking"], unit="s", better="less", wanted="< 60"
    )
    report.add(SECTION, "its folder", whole["size"], unit="MiB", better="less", wanted="< 600")


def measure(way: str, folder: Path) -> dict[str, float]:
    """Run one way in a process of its own and return its figures."""
    command = [sys.executable, "-m", "tests.benchmarks.training", way, str(folder)]
    done = subprocess.run(command, cwd=PROJECT_DIR, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def synthetic(ratings: int, users: int, movies: int, seed: int) -> pd.DataFrame:
    """Return at most so many ratings in order of time: skewed activity and popularity, hidden tastes."""
    draw = np.random.default_rng(seed)
    activity, popularity = draw.lognormal(0, 1, users), (np.arange(movies) + 20.0) ** -0.9
    user = draw.choice(users, int(ratings * 1.15), p=activity / activity.sum())
    movie = draw.choice(movies, len(user), p=popularity / popularity.sum())
    keys = np.sort(user * movies + movie)
    keys = draw.permutation(keys[np.diff(keys, prepend=-1) != 0])[:ratings]
    user, movie = np.divmod(keys, movies)
    liking = 3.5 + draw.normal(0, 0.4, users)[user] + draw.normal(0, 0.4, movies)[movie]
    for _ in range(TASTES):
        liking += draw.normal(0, 0.35, users)[user] * draw.normal(0, 0.6, movies)[movie]
    stars = np.clip(np.rint(liking + draw.normal(0, 0.7, len(user))), *SCALE)
    return pd.DataFrame(
        {
            "user_id": draw.permutation(users)[user].astype(str),
            "movie_id": draw.permutation(movies)[movie].astype(str),
            "rating": stars.astype(np.float32),
            "timestamp": 1_700_000_000 + np.sort(draw.integers(0, 86_400 * 365, len(user))),
        }
    )


def write(ratings: pd.DataFrame, folder: Path) -> None:
    """Write what is trained on, and what is held out."""
    held = np.random.default_rng(SEED).random(len(ratings)) < HELD_OUT
    ratings[held].to_parquet(folder / "held.parquet", index=False)
    ratings[~held].to_parquet(folder / "known.parquet", index=False)
    plain = csv.WriteOptions(quoting_style="none")
    csv.write_csv(pa.Table.from_pandas(ratings[~held], preserve_index=False), folder / "known.csv", plain)


def of_surprise(folder: Path) -> dict[str, float]:
    """Fit plain scikit-surprise."""
    known = pd.read_parquet(folder / "known.parquet")
    work = Work()
    data = Dataset.load_from_df(known[["user_id", "movie_id", "rating"]], Reader(rating_scale=SCALE))
    trainset = data.build_full_trainset()
    svd = SVD(n_factors=FACTORS, n_epochs=EPOCHS, random_state=SEED).fit(trainset)
    figures = work.figures()
    held = pd.read_parquet(folder / "held.parquet")
    errors = [
        svd.predict(user, movie).est - rating
        for user, movie, rating in zip(held["user_id"], held["movie_id"], held["rating"], strict=True)
    ]
    return figures | {"rmse": float(np.sqrt(np.mean(np.square(errors))))}


def of_predictor(folder: Path) -> dict[str, float]:
    """Fit the half of the recipe that scikit-surprise's SVD is."""
    known = pd.read_parquet(folder / "known.parquet")
    work = Work()
    numbered = number(known, None)
    values = known["rating"].to_numpy()[numbered.last]
    fitted = predictor.fit(
        predictor.Ratings(numbered.rated.users, numbered.rated.movies, values),
        len(numbered.movie_ids),
        factors=FACTORS,
        epochs=EPOCHS,
        seed=SEED,
        scale=SCALE,
    )
    figures = work.figures()
    held = pd.read_parquet(folder / "held.parquet")
    users = numbered.user_ids.get_indexer(held["user_id"])
    movies = numbered.movie_ids.get_indexer(held["movie_id"])
    guesses = np.full(len(held), values.mean(dtype=np.float64))
    known_user, known_movie = users >= 0, movies >= 0
    both = known_user & known_movie
    guesses[known_user] += fitted["svd_user_bias"][users[known_user]]
    guesses[known_movie] += fitted["svd_movie_bias"][movies[known_movie]]
    factors = fitted["svd_user_factors"][users[both]], fitted["svd_movie_factors"][movies[both]]
    guesses[both] += np.einsum("nf,nf->n", *factors)
    errors = np.clip(guesses, *SCALE) - held["rating"].to_numpy()
    return figures | {"rmse": float(np.sqrt(np.mean(np.square(errors))))}


def of_whole(folder: Path) -> dict[str, float]:
    """Run ``train`` from the frame to the folder."""
    known = pd.read_parquet(folder / "known.parquet")
    config = TrainConfig(seed=SEED, svd_factors=FACTORS, svd_epochs=EPOCHS, trending_half_life_days=2.0)
    descended: list[float] = []
    work = Work()
    train(
        known,
        None,
        folder / "model",
        config=config,
        scale=SCALE,
        judge=None,
        provenance={},
        progress=lambda done, total: descended.append(time.perf_counter()),
    )
    figures = work.figures() | {"ranking": time.perf_counter() - descended[-1]}
    figures["size"] = sum(path.stat().st_size for path in (folder / "model").iterdir()) / MIB
    model = artifact.load(folder / "model")
    return figures | {"rmse": rmse(model, pd.read_parquet(folder / "held.parquet"))}


def of_pandas(folder: Path) -> dict[str, float]:
    """Read the CSV as pandas does."""
    work = Work()
    types = {"user_id": "str", "movie_id": "str", "rating": "float32", "timestamp": "int64"}
    rows = pd.read_csv(folder / "known.csv", dtype=types, keep_default_na=False)
    rows.sort_values(["timestamp", "user_id", "movie_id"], ignore_index=True)
    return work.figures()


def of_csv(folder: Path) -> dict[str, float]:
    """Read the CSV as we do."""
    work = Work()
    load_ratings(folder / "known.csv")
    return work.figures()


class Work:
    """Time since it was made, and the most memory that the process has had since."""

    def __init__(self) -> None:
        # Forgets the peak that the process has had before.
        Path("/proc/self/clear_refs").write_text("5")
        self._start = time.perf_counter()

    def figures(self) -> dict[str, float]:
        """Return ``seconds`` and ``peak`` (MiB)."""
        status = Path("/proc/self/status").read_text().splitlines()
        (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM:"))
        return {"seconds": time.perf_counter() - self._start, "peak": int(peak) / 1024}


WAYS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "surprise": of_surprise,
    "predictor": of_predictor,
    "whole": of_whole,
    "pandas": of_pandas,
    "csv": of_csv,
}

if __name__ == "__main__":
    print(json.dumps(WAYS[sys.argv[1]](Path(sys.argv[2]))))
