"""Ratings in a CSV: read at once where all lines are plain and good, else one by one, to name the bad one."""

import csv
import gzip
import io
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from pipelines.errors import DataError
from pipelines.model.ids import MAX_ID_BYTES

_COLUMNS = ("user_id", "movie_id", "rating", "timestamp")
_TYPES = {"user_id": "str", "movie_id": "str", "rating": "float32", "timestamp": "int64"}
_BAD_IN_ID = re.compile("[,\r\n\0\ud800-\udfff]")
_GREATEST = float(np.finfo(np.float32).max)
_NEWEST_TIME = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_CONVERSION = arrow_csv.ConvertOptions(
    include_columns=list(_COLUMNS),
    column_types={
        "user_id": pa.large_string(),
        "movie_id": pa.large_string(),
        "rating": pa.float64(),
        "timestamp": pa.float64(),
    },
    null_values=[],
)
_LINES_AT_ONCE = 500_000


def read(path: Path) -> pd.DataFrame:
    """Return user_id (str), movie_id (str), rating (float32), timestamp (int64), in the order of the lines.

    Raises:
        DataError: naming file and line of the first row that is not a rating.
    """
    rows = _read_plain(path)
    return _read_lines(path) if rows is None else rows


class _PlainBytes(io.RawIOBase):
    """The rest of a file, as long as it holds no quote and no NUL: both readers agree on everything else."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        part = self._file.read(size)
        if b'"' in part or b"\0" in part:
            raise ValueError("not plain")
        return part


def _read_plain(path: Path) -> pd.DataFrame | None:
    """Return the rows of a file without quotes and faults, None for any other."""
    try:
        with _opened(path) as file:
            header = _names(next(csv.reader([file.readline().decode("utf-8-sig")], strict=True)))
            if _missing(header):
                return None
            table = arrow_csv.read_csv(
                _PlainBytes(file),
                arrow_csv.ReadOptions(column_names=header),
                arrow_csv.ParseOptions(quote_char=False),
                _CONVERSION,
            )
    except (ValueError, csv.Error, StopIteration, OSError, EOFError, pa.ArrowException):
        return None
    return _typed(table)


def _typed(table: pa.Table) -> pd.DataFrame | None:
    """Return the rows as their types, None when one of them is not a rating."""
    for name in ("user_id", "movie_id"):
        lengths = pc.binary_length(table[name]).to_numpy()
        if not ((lengths > 0) & (lengths <= MAX_ID_BYTES)).all():
            return None
    times = np.floor(table["timestamp"].to_numpy())
    ratings = table["rating"].to_numpy()
    # Comparisons with NaN are false.
    if not ((np.abs(ratings) <= _GREATEST).all() and (times >= 0).all() and (times < _NEWEST_TIME).all()):
        return None
    ids: pd.DataFrame = table.select(["user_id", "movie_id"]).to_pandas()
    return ids.assign(rating=ratings.astype(np.float32), timestamp=times.astype(np.int64))


def _read_lines(path: Path) -> pd.DataFrame:
    rows = _rows(path)
    parts = [pd.DataFrame(columns=list(_COLUMNS)).astype(_TYPES)]
    while part := list(islice(rows, _LINES_AT_ONCE)):
        parts.append(pd.DataFrame(part, columns=list(_COLUMNS)).astype(_TYPES))
    return pd.concat(parts, ignore_index=True)


def _opened(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


class _Row(NamedTuple):
    user_id: str
    movie_id: str
    rating: float
    timestamp: int


def _rows(path: Path) -> Iterator[_Row]:
    ids: dict[str, str] = {}
    try:
        # Bytes that are not UTF-8 come through as surrogates, and are refused with their line.
        with io.TextIOWrapper(_opened(path), "utf-8-sig", errors="surrogateescape", newline="") as file:
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


def _header(path: Path, fields: list[str]) -> list[str]:
    names = _names(fields)
    if missing := _missing(names):
        found = ", ".join(names) or "nothing"
        raise DataError(
            f"{path}, line 1: wanted exactly one column each of {', '.join(_COLUMNS)}, found "
            f"{found if found.isprintable() else ascii(found[:80])}; correct: {', '.join(missing)}"
        )
    return names


def _names(fields: list[str]) -> list[str]:
    return [field.strip() for field in fields]


def _missing(names: list[str]) -> list[str]:
    return [name for name in _COLUMNS if names.count(name) != 1]


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
        if not text or _BAD_IN_ID.search(text) or len(text.encode()) > MAX_ID_BYTES:
            raise ValueError(
                f"{name} is {text[:40]!a}, wanted 1 to {MAX_ID_BYTES} bytes of UTF-8 "
                "without comma, line break or NUL"
            )
        ids[text] = text
    return ids[text]


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= _GREATEST:
        raise ValueError(f"{name} is {text!r}, wanted a number")
    return number
