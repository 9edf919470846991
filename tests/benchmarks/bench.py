"""Ours beside the alternatives, measured in one run: `make bench`. Ratios hold, absolute figures swing."""

import csv
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from surprise import SVD, Dataset, Reader

from pipelines.data.batches import list_batches, read_ratings, read_viewings
from pipelines.data.collect import collect
from pipelines.events.grammar import parse
from pipelines.events.sources import FileSource
from pipelines.local.audience.history import history
from pipelines.model.artifact import load
from pipelines.model.recipe import TrainConfig
from pipelines.model.train import train

USERS = 20
CONFIG = TrainConfig(seed=20, svd_factors=50, svd_epochs=20, ranker_rank=20)


def main() -> None:
    """Run everything and print one table."""
    table = Table("what", "ours", "rival", "ours / rival", title="Throughput, more is better")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "history.log"
        history(log, seed=1)
        lines = log.read_bytes().splitlines()
        row(
            table,
            "parse, lines/s (rival: split and strptime)",
            len(lines),
            lambda: each(parse, lines),
            lambda: each(naive, lines),
        )
        batches = folder / "batches"
        row(
            table,
            "collect a file to Parquet, lines/s (rival: naive parse to CSV)",
            len(lines),
            lambda: collect(FileSource(log), batches),
            lambda: to_csv(lines, folder / "naive.csv"),
        )
        assert list_batches(batches)
        ratings = read_ratings(batches)
        train(
            ratings,
            read_viewings(batches),
            folder / "model",
            config=CONFIG,
            scale=(1, 5),
            judge=None,
            provenance={},
        )
        model, surprise = load(folder / "model"), fitted(ratings)
        users = ratings["user_id"].unique()[:USERS].tolist()
        row(
            table,
            "recommend 20 of 9,700 movies, lists/s (rival: rank by Surprise's predict)",
            USERS,
            lambda: each(model.recommend, users),
            lambda: [by_predict(surprise, ratings["movie_id"].unique(), user) for user in users],
        )
    Console().print(table)


def row(table: Table, what: str, count: int, ours: Callable[[], object], rival: Callable[[], object]) -> None:
    """Time both, one after the other, and add a line."""
    mine, theirs = count / seconds(ours), count / seconds(rival)
    table.add_row(what, f"{mine:,.0f}", f"{theirs:,.0f}", f"{mine / theirs:.2f}")


def seconds(work: Callable[[], object]) -> float:
    """Return how long ``work`` took, wall time."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def each(function: Callable, items: list) -> None:
    for item in items:
        function(item)


def naive(line: bytes) -> tuple | None:
    """Parse as a first attempt would: split at commas, one strict time format."""
    try:
        at, user, action, *_ = line.decode().split(",")
        return datetime.strptime(at, "%Y-%m-%dT%H:%M:%S"), int(user), action.split("/")
    except ValueError:
        return None


def to_csv(lines: list[bytes], path: Path) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(row for line in lines if (row := naive(line)))


def fitted(ratings: pd.DataFrame) -> SVD:
    data = Dataset.load_from_df(ratings[["user_id", "movie_id", "rating"]], Reader(rating_scale=(1, 5)))
    return SVD(n_factors=50, n_epochs=20, random_state=20).fit(data.build_full_trainset())


def by_predict(surprise: SVD, movies: list[str], user: str) -> list[str]:
    scores = [(surprise.predict(user, movie).est, movie) for movie in movies]
    return [movie for _, movie in sorted(scores, reverse=True)[:20]]


if __name__ == "__main__":
    main()
