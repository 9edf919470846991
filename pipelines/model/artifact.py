"""A model on disk: a folder of memory-mapped arrays and ``model.json``. Needs numpy, nothing else.

Rows of the arrays are the inner ids. Users who rated come first, so that the factors of the rating
predictor cover rows ``0 .. n_raters - 1`` only. Movies are in order of popularity: a movie's row *is* its
popularity rank, and the lower row wins every tie.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.errors import ModelError

FORMAT = 1
MAX_ID_BYTES = 1_020
"""Longest id as UTF-8: 255 characters of four bytes. Tables are as wide as their longest id."""

Rows = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.bytes_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Arrays:
    """The numbers of a model; each field is one file ``<field>.npy``."""

    user_ids: Bytes
    """(n_users,) UTF-8, fixed width."""
    user_order: Rows
    """(n_users,) rows that sort ``user_ids``."""
    movie_ids: Bytes
    """(n_movies,) UTF-8, fixed width, most popular first."""
    movie_order: Rows
    """(n_movies,) rows that sort ``movie_ids``."""
    seen_indptr: Rows
    """(n_users + 1,) where each user's part of ``seen_indices`` begins."""
    seen_indices: npt.NDArray[np.int32]
    """Movie rows that the users rated or watched, ascending for each user."""
    ranker_movies: Floats
    """(rank, n_movies) directions of taste; a movie's score is (sum of the columns seen) @ its column."""
    svd_user_bias: Floats
    """(n_raters,) rating units."""
    svd_user_factors: Floats
    """(n_raters, svd_factors)."""
    svd_movie_bias: Floats
    """(n_movies,) rating units; 0 for a movie nobody rated."""
    svd_movie_factors: Floats
    """(n_movies, svd_factors); 0 for a movie nobody rated."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An answer: distinct movie ids, best first, and which rung of the ladder gave them."""

    movie_ids: list[str]
    source: str
    """``personal`` or ``popular``."""


class IdTable:
    """Raw ids (text) to rows and back, without an object per id."""

    def __init__(self, ids: Bytes, order: Rows) -> None:
        self._ids = ids
        self._order = order

    def __len__(self) -> int:
        return len(self._ids)

    def rows(self, texts: Sequence[str]) -> Rows:
        """Return the row of each id, -1 for an id that is not here."""
        # A key of the table's own width: numpy would copy the whole table to compare with a wider one.
        keys = np.array([self._key(text) for text in texts], dtype=self._ids.dtype)
        places = np.searchsorted(self._ids, keys, sorter=self._order)
        rows = self._order[np.minimum(places, len(self) - 1)]
        return np.where(self._ids[rows] == keys, rows, -1)

    def texts(self, rows: npt.NDArray[np.integer[Any]]) -> list[str]:
        """Return the id at each row."""
        return [raw.decode() for raw in self._ids[rows].tolist()]

    def _key(self, text: str) -> bytes:
        raw = text.encode("utf-8", "surrogatepass")
        # NUL pads the table, so "a\0" would be found as "a"; no stored id holds one, and none is empty.
        return b"" if len(raw) > self._ids.dtype.itemsize or b"\0" in raw else raw


class Model:
    """A model that answers; safe to share between threads, since nothing in it changes."""

    def __init__(self, meta: dict[str, Any], arrays: Arrays) -> None:
        self.meta = meta
        self._arrays = arrays
        self._users = IdTable(arrays.user_ids, arrays.user_order)
        self._movies = IdTable(arrays.movie_ids, arrays.movie_order)

    @property
    def version(self) -> int | None:
        """Number given by the registry; None before."""
        number: int | None = self.meta["version"]
        return number

    @property
    def n_users(self) -> int:
        """Users that rated or watched something."""
        return len(self._users)

    @property
    def n_movies(self) -> int:
        """Movies that were rated or watched."""
        return len(self._movies)

    def knows(self, user_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Tell for each user whether the model was trained on anything that user rated or watched."""
        return self._users.rows(user_ids) >= 0

    def user_id(self, row: int) -> str:
        """Return the id of the user in this row, ``0 .. n_users - 1``."""
        return self._users.texts(np.array([row]))[0]

    def seen(self, user_id: str) -> set[str]:
        """Return the movies this user rated or watched; none for a stranger."""
        return set(self._movies.texts(self._seen(user_id)))

    def recommend(self, user_id: str, k: int = 20) -> Recommendation:
        """Return the best ``k`` movies this user has not seen, fewer when fewer remain.

        Strangers, and users the ranker can say nothing about, get the popular movies.
        """
        seen = self._seen(user_id)
        taste = self._arrays.ranker_movies[:, seen].sum(axis=1)
        if not taste.any():
            return self._popular(seen, k)
        # Not ``@``: BLAS starts threads in every worker, and its last bits differ from machine to machine.
        scores = np.einsum("fm,f->m", self._arrays.ranker_movies, taste)
        scores[seen] = -np.inf
        best = _best(scores, max(0, min(k, self.n_movies - len(seen))))
        return Recommendation(self._movies.texts(best), "personal")

    def popular(self, user_id: str, k: int = 20) -> Recommendation:
        """Return the ``k`` most popular movies this user has not seen, fewer when fewer remain."""
        return self._popular(self._seen(user_id), k)

    def predict(self, user_id: str, movie_id: str) -> float:
        """Return the rating this user would give, within the scale; see :meth:`predict_many`."""
        return float(self.predict_many([user_id], [movie_id])[0])

    def predict_many(self, user_ids: Sequence[str], movie_ids: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return a rating for each pair: mean + user bias + movie bias + factors, clipped to the scale.

        What is unknown counts as zero: an unknown user gets the movie's mean, an unknown pair the mean.
        """
        arrays = self._arrays
        users, movies = self._users.rows(user_ids), self._movies.rows(movie_ids)
        users[users >= len(arrays.svd_user_bias)] = -1
        rated, known = users >= 0, movies >= 0
        ratings = np.full(len(users), self.meta["mean"], dtype=np.float64)
        ratings[rated] += arrays.svd_user_bias[users[rated]]
        ratings[known] += arrays.svd_movie_bias[movies[known]]
        both = rated & known
        ratings[both] += np.einsum(
            "nf,nf->n", arrays.svd_user_factors[users[both]], arrays.svd_movie_factors[movies[both]]
        )
        low, high = self.meta["scale"]
        return np.clip(ratings, low, high)

    def _seen(self, user_id: str) -> npt.NDArray[np.int32]:
        row = self._users.rows([user_id])[0]
        if row < 0:
            return self._arrays.seen_indices[:0]
        return self._arrays.seen_indices[self._arrays.seen_indptr[row] : self._arrays.seen_indptr[row + 1]]

    def _popular(self, seen: npt.NDArray[np.int32], k: int) -> Recommendation:
        candidates = np.arange(min(self.n_movies, max(0, k) + len(seen)))
        unseen = np.setdiff1d(candidates, seen, assume_unique=True)[: max(0, k)]
        return Recommendation(self._movies.texts(unseen), "popular")


def _best(scores: Floats, k: int) -> Rows:
    """Return the rows of the ``k`` highest scores, highest first; the lower row wins a tie."""
    if k == 0:
        return np.empty(0, dtype=np.int64)
    limit = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > limit)
    ties = np.flatnonzero(scores == limit)[: k - len(above)]
    rows = np.concatenate([above, ties])
    return rows[np.argsort(-scores[rows], kind="stable")]


def id_table(ids: Iterable[str]) -> tuple[Bytes, Rows]:
    """Lay out ``ids`` (distinct, in row order) as the arrays ``*_ids`` and ``*_order``.

    Raises:
        ModelError: an id is empty, too long or holds a NUL, which pads the table.
    """
    raw = [text.encode() for text in ids]
    for one in raw:
        if not one or b"\0" in one or len(one) > MAX_ID_BYTES:
            raise ModelError(
                f"the id {one[:40]!r} ({len(one)} bytes) cannot be stored: wanted 1 to {MAX_ID_BYTES} bytes "
                "of UTF-8 without NUL; correct the ratings it comes from"
            )
    table: Bytes = np.array(raw, dtype=np.bytes_)
    return table, np.argsort(table, kind="stable").astype(np.int64)


def save(folder: Path, arrays: Arrays, about: dict[str, Any]) -> dict[str, Any]:
    """Write a model into ``folder`` in one step, replacing what is there; return ``model.json``.

    ``about`` must hold ``scale`` (lowest, highest rating) and ``mean``; it becomes ``model.json``, together
    with the size and SHA-256 of every array.
    """
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for field in fields(Arrays):
        with (fresh / f"{field.name}.npy").open("wb") as file:
            np.save(file, getattr(arrays, field.name), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    meta = {"format": FORMAT, "version": None, **about}
    meta["files"] = {path.name: _file_facts(path) for path in sorted(fresh.iterdir())}
    write_meta(fresh, meta)
    replace_folder(fresh, folder)
    return meta


def load(folder: Path, *, verify: bool = False) -> Model:
    """Open the model in ``folder``; arrays stay on disk and are mapped. ``verify`` reads and hashes them all.

    Raises:
        ModelError: a file is missing, damaged or of another size than ``model.json`` says.
    """
    meta = read_meta(folder)
    for name, facts in meta["files"].items():
        _check_file(folder / name, facts, verify=verify)
    try:
        mapped = {
            field.name: np.asarray(np.load(folder / f"{field.name}.npy", mmap_mode="r", allow_pickle=False))
            for field in fields(Arrays)
        }
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, str(error)) from error
    arrays = Arrays(**mapped)
    _check_shapes(folder, arrays)
    return Model(meta, arrays)


def read_meta(folder: Path) -> dict[str, Any]:
    """Return ``model.json`` of the model in ``folder``.

    Raises:
        ModelError: there is none, or it is not of a model this code reads.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / "model.json").read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"model.json cannot be read ({error})") from error
    wanted = {"format", "version", "scale", "mean", "files"}
    if not isinstance(meta, dict) or not wanted <= meta.keys():
        raise _damaged(folder, f"model.json lacks one of {', '.join(sorted(wanted))}")
    if meta["format"] != FORMAT:
        raise _damaged(folder, f"model.json has format {meta['format']}, this code reads {FORMAT}")
    return meta


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write ``model.json``; the same content always gives the same bytes."""
    text = json.dumps(meta, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    (folder / "model.json").write_text(text + "\n", encoding="utf-8")


def fingerprint(meta: dict[str, Any]) -> str:
    """Return one hash of all that decides a model's answers, and of nothing else (no time, no number)."""
    deciding = {key: meta[key] for key in ("format", "files", "scale", "mean")}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def replace_folder(fresh: Path, folder: Path) -> None:
    """Put the complete folder ``fresh`` in the place of ``folder``, which may exist."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
    fresh.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def _file_facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _check_file(path: Path, facts: dict[str, Any], *, verify: bool) -> None:
    if not path.is_file():
        raise _damaged(path.parent, f"{path.name} is missing")
    if path.stat().st_size != facts["bytes"]:
        raise _damaged(path.parent, f"{path.name} has {path.stat().st_size} bytes, wanted {facts['bytes']}")
    if verify and _file_facts(path) != facts:
        raise _damaged(path.parent, f"{path.name} is not the file that was trained (its SHA-256 differs)")


def _check_shapes(folder: Path, arrays: Arrays) -> None:
    n_users, n_movies, n_raters = len(arrays.user_ids), len(arrays.movie_ids), len(arrays.svd_user_bias)
    wanted = {
        "user_order": n_users,
        "seen_indptr": n_users + 1,
        "movie_order": n_movies,
        "svd_movie_bias": n_movies,
        "svd_movie_factors": n_movies,
        "svd_user_factors": n_raters,
    }
    for name, length in wanted.items():
        if len(getattr(arrays, name)) != length:
            raise _damaged(folder, f"{name} has {len(getattr(arrays, name))} rows, wanted {length}")
    if arrays.ranker_movies.shape[1] != n_movies:
        raise _damaged(
            folder, f"ranker_movies has {arrays.ranker_movies.shape[1]} columns, wanted {n_movies}"
        )


def _damaged(folder: Path, what: str) -> ModelError:
    return ModelError(
        f"the model in {folder} cannot be used: {what}; export the version again from the registry"
    )
