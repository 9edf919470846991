"""Ratings become a model in a folder. Judging the recipe is ``evaluate``'s, admitting it is ``gate``'s."""

import csv
import gzip
import math
import platform
import re
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipelines.data.batches import read_ratings, read_viewings
from pipelines.errors import DataError
from pipelines.model import artifact
from pipelines.model.evaluate import Evaluation, evaluate
from pipelines.model.recipe import Fitted, Progress, TrainConfig, find_scale, fit

__all__ = ["TrainConfig", "evaluate_and_train", "load_ratings", "load_viewings", "train"]

_COLUMNS = ("user_id", "movie_id", "rating", "timestamp")
_BAD_IN_ID = re.compile("[,\r\n\0\ud800-\udfff]")
_NEWEST_TIME = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


def load_ratings(path: Path) -> pd.DataFrame:
    """Read ratings from a folder of batches, or a CSV with columns user_id, movie_id, rating, timestamp.

    Ids are any text without a comma; ``007`` stays ``007``. A user may have rated a movie several times.

    Returns:
        user_id (str), movie_id (str), rating (float32), timestamp (int64, unix seconds), in order of
        timestamp, user and movie.

    Raises:
        DataError: naming file and line of the first row that is not a rating.
    """
    if path.is_dir():
        return read_ratings(path)
    rows = pd.DataFrame(_csv_rows(path), columns=list(_COLUMNS))
    typed = rows.astype({"user_id": "str", "movie_id": "str", "rating": "float32", "timestamp": "int64"})
    return typed.sort_values(["timestamp", "user_id", "movie_id"], ignore_index=True)


def load_viewings(path: Path) -> pd.DataFrame | None:
    """Read the viewings that belong to the ratings at ``path``; a CSV has none."""
    return read_viewings(path) if path.is_dir() else None


def train(
    ratings: pd.DataFrame,
    viewings: pd.DataFrame | None,
    out: Path,
    *,
    config: TrainConfig,
    scale: tuple[float, float] | None,
    judge: Evaluation | None,
    provenance: dict[str, Any],
    trained_on: datetime | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit on everything, write the model into ``out`` (replaced in one step), return its ``model.json``.

    Args:
        ratings: as from ``load_ratings``.
        viewings: rows of (user_id, movie_id) that were watched; None: there are none.
        out: folder of the model.
        config: seed and sizes.
        scale: lowest and highest rating there can be; None: those in the data.
        judge: what the recipe scored on the hold-out; becomes ``metrics``.
        provenance: where the data comes from, kept as it is.
        trained_on: time to note down; None: now. The only thing that differs between two equal trainings.
        progress: called with (epochs done, epochs in all).

    Raises:
        DataError: there are no ratings, or they leave the declared scale.
        ModelError: the fit ran away, or an id cannot be stored.
    """
    fitted = fit(ratings, viewings, config, find_scale(ratings, scale), progress)
    about = {
        "trained_on": (trained_on or datetime.now(UTC)).astimezone(UTC).isoformat(),
        "data_creation": datetime.fromtimestamp(int(ratings["timestamp"].max()), UTC).isoformat(),
        "metrics": judge.as_metrics() if judge else {},
        "seed": config.seed,
        "config": asdict(config),
        "scale": list(fitted.scale),
        "mean": fitted.mean,
        "counts": _counts(fitted, ratings, viewings),
        "provenance": provenance,
        "libraries": _libraries(),
    }
    return artifact.save(out, fitted.arrays, about)


def evaluate_and_train(
    ratings: pd.DataFrame,
    viewings: pd.DataFrame | None,
    out: Path,
    *,
    config: TrainConfig,
    holdout_share: float,
    scale: tuple[float, float] | None,
    serving: artifact.Model | None,
    provenance: dict[str, Any],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score the recipe on a time-ordered hold-out, then fit it on everything into ``out``.

    The hold-out judges the recipe; what ships is the same recipe fitted on all ratings, the newest included.
    Arguments, result and errors are those of ``evaluate`` and ``train``.
    """
    evaluation = evaluate(
        ratings,
        viewings,
        config=config,
        holdout_share=holdout_share,
        serving=serving,
        scale=scale,
        progress=progress,
    )
    return train(
        ratings,
        viewings,
        out,
        config=config,
        scale=scale,
        judge=evaluation,
        provenance=provenance,
        progress=progress,
    )


def _counts(fitted: Fitted, ratings: pd.DataFrame, viewings: pd.DataFrame | None) -> dict[str, int]:
    arrays = fitted.arrays
    return {
        "users": len(arrays.user_ids),
        "raters": len(arrays.svd_user_bias),
        "movies": len(arrays.movie_ids),
        "ratings": len(ratings),
        "viewings": 0 if viewings is None else len(viewings),
        "interactions": len(arrays.seen_indices),
        "ranker_rank": len(arrays.ranker_movies),
    }


def _libraries() -> dict[str, str]:
    names = ("numpy", "pandas", "scikit-surprise", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


class _Row(NamedTuple):
    user_id: str
    movie_id: str
    rating: float
    timestamp: int


def _csv_rows(path: Path) -> Iterator[_Row]:
    ids: dict[str, str] = {}
    try:
        # Bytes that are not UTF-8 come through as surrogates, and are refused with their line.
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = _header(path, next(lines, []))
            for fields in lines:
                if fields:
                    yield _row(fields, header, ids)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}, line {lines.line_num}: {error}; correct or remove the line") from error
    except (OSError, EOFError) as error:
        raise DataError(
            f"the ratings {path} cannot be read ({error}); name a CSV file or a folder of batches"
        ) from error


def _header(path: Path, names: list[str]) -> list[str]:
    header = [name.strip() for name in names]
    missing = [name for name in _COLUMNS if header.count(name) != 1]
    if missing:
        raise DataError(
            f"{path}, line 1: wanted exactly one column each of {', '.join(_COLUMNS)}, found "
            f"{', '.join(header) or 'nothing'}; correct: {', '.join(missing)}"
        )
    return header


def _row(fields: list[str], header: list[str], ids: dict[str, str]) -> _Row:
    """Turn the fields of one line into a row; ``ids`` keeps one object for each distinct id.

    Raises:
        ValueError: saying what is wrong.
    """
    if len(fields) != len(header):
        raise ValueError(f"{len(fields)} fields, the header has {len(header)}")
    texts = dict(zip(header, fields, strict=True))
    user_id, movie_id = (_id(name, texts[name], ids) for name in ("user_id", "movie_id"))
    timestamp = math.floor(_number("timestamp", texts["timestamp"]))
    if not 0 <= timestamp < _NEWEST_TIME:
        raise ValueError(f"timestamp is {texts['timestamp']!r}, wanted seconds since 1970")
    return _Row(user_id, movie_id, _number("rating", texts["rating"]), timestamp)


def _id(name: str, text: str, ids: dict[str, str]) -> str:
    if text not in ids:
        if not text or _BAD_IN_ID.search(text) or len(text.encode()) > artifact.MAX_ID_BYTES:
            raise ValueError(
                f"{name} is {text[:40]!a}, wanted 1 to {artifact.MAX_ID_BYTES} bytes of UTF-8 "
                "without comma, line break or NUL"
            )
        ids[text] = text
    return ids[text]


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is {text!r}, wanted a number")
    return number
