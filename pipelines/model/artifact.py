"""A model on disk: a folder of memory-mapped arrays and ``model.json``. Needs numpy, nothing else.

Rows of the arrays are the inner ids. Users who rated come first, so that the factors of the rating
predictor cover rows ``0 .. n_raters - 1`` only. Movies are in order of all-time popularity: a movie's row
*is* its popularity rank, and the lower row wins every tie.

A list is ranked by what the movies that a user rated or watched say about the others: each of them is a row
of the neighbours, counted by the weight of the evidence. One more row, "everybody", stands for what is
popular of late. All these numbers lie on grids so coarse that every sum of them is exact in a double:
however the sum is formed, here for one user or in ``lists`` for a million, on this machine or another, the
list is the same.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.errors import ModelError
from pipelines.model.ids import Bytes, IdTable, Rows

FORMAT = 2
LIST_LENGTH = 20
"""Length of the lists that are laid out for every user."""

EVIDENCE_GRID = 2.0**-5
"""Step of the evidence weights, which lie in (0, 1]."""
NEIGHBOUR_GRID = 2.0**-16
"""Step of what one movie says about another."""
WATCHED_WEIGHT = 1.0
"""Evidence of a movie watched since the training; for how many minutes is not known yet."""
MAX_MOVIES = 2**20
"""Most movies, so that score and row fit into one number."""

PERSONAL, FOLDED_IN, TRENDING, POPULAR = "personal", "folded-in", "trending", "popular"

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Small = npt.NDArray[np.int32]
SomeRows = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Arrays:
    """The numbers of a model; each field is one file ``<field>.npy``."""

    user_ids: Bytes
    """(n_users,) UTF-8, fixed width."""
    user_order: Rows
    """(n_users,) rows that sort ``user_ids``."""
    user_lists: Small
    """(n_users, LIST_LENGTH) movie rows, best first; -1 from where the user has seen all there is. A row
    that begins with -1 holds no personal list: nothing that user has seen says anything."""
    movie_ids: Bytes
    """(n_movies,) UTF-8, fixed width, most popular first."""
    movie_order: Rows
    """(n_movies,) rows that sort ``movie_ids``."""
    trending: Small
    """(at most n_movies,) movie rows, the most popular of late first."""
    seen_indptr: Rows
    """(n_users + 1,) where each user's part of ``seen_indices`` begins."""
    seen_indices: Small
    """Movie rows that the users rated or watched, ascending for each user."""
    seen_weights: Floats
    """How strong the evidence of each is, multiples of EVIDENCE_GRID."""
    neighbour_indptr: Rows
    """(n_movies + 2,) where each movie's part of ``neighbour_indices`` begins; the last is everybody's."""
    neighbour_indices: Small
    """Movie rows that a movie says something about, ascending for each movie, never itself."""
    neighbour_weights: Floats
    """What it says, multiples of NEIGHBOUR_GRID."""
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
    """``personal``, ``folded-in``, ``trending`` or ``popular``."""


class Model:
    """A model that answers; safe to share between threads, since nothing in it changes."""

    def __init__(self, meta: dict[str, Any], arrays: Arrays) -> None:
        self.meta = meta
        self._arrays = arrays
        self._users = IdTable(arrays.user_ids, arrays.user_order)
        self._movies = IdTable(arrays.movie_ids, arrays.movie_order)
        # Every answer names twenty movies, and most are for strangers.
        self._names = self._movies.texts(np.arange(self.n_movies))
        self._named = {name: row for row, name in enumerate(self._names)}
        self._general_source = TRENDING if len(arrays.trending) else POPULAR
        self._for_strangers = self._texts(self._fill(_NONE, _NONE, LIST_LENGTH))

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
        """Return the movies this user rated or watched before the training; none for a stranger."""
        return set(self._texts(self._seen(self._users.row(user_id))[0]))

    def recommend(self, user_id: str, k: int = LIST_LENGTH, watched: Sequence[str] = ()) -> Recommendation:
        """Return the best ``k`` movies this user has not seen, fewer when fewer remain.

        ``watched``: movie ids the user has watched since the training, in any order; those the model does
        not know say nothing. A user of the training with taste gets a ``personal`` list of both, a stranger
        who has watched something a ``folded-in`` one, everybody else what is ``trending``, else ``popular``.
        """
        row = self._users.row(user_id)
        fresh = self._fresh(row, watched) if watched else _NONE
        if len(fresh) == 0 and k <= LIST_LENGTH:
            return self._listed(row, k)
        rows, weights = _fold(*self._seen(row), fresh)
        scores = self._scores(rows, weights)
        best = _NONE if scores is None else best_rows(scores, k)
        if len(best) == 0:
            return self._general(rows, k)
        source = FOLDED_IN if row < 0 else PERSONAL
        return Recommendation(self._texts(self._fill(best, rows, k)), source)

    def trending(self, user_id: str, k: int = LIST_LENGTH) -> Recommendation:
        """Return the ``k`` movies most popular of late that this user has not seen."""
        return self._general(self._seen(self._users.row(user_id))[0], k)

    def popular(self, user_id: str, k: int = LIST_LENGTH) -> Recommendation:
        """Return the ``k`` movies most popular of all time that this user has not seen."""
        seen = self._seen(self._users.row(user_id))[0]
        return Recommendation(self._texts(self._fill(_NONE, seen, k, trending=False)), POPULAR)

    def predict(self, user_id: str, movie_id: str) -> float:
        """Return the rating this user would give, within the scale; see :meth:`predict_many`."""
        return float(self.predict_many([user_id], [movie_id])[0])

    def predict_many(self, user_ids: Sequence[str], movie_ids: Sequence[str]) -> Doubles:
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

    def _texts(self, rows: SomeRows) -> list[str]:
        names = self._names
        return [names[row] for row in rows.tolist()]

    def _fresh(self, row: int, watched: Sequence[str]) -> Small:
        """Return the rows, ascending, of what the user in this row watched and had not seen before."""
        known = {self._named[movie] for movie in watched if movie in self._named}
        known.difference_update(self._seen(row)[0].tolist())
        return np.array(sorted(known), dtype=np.int32)

    def _listed(self, row: int, k: int) -> Recommendation:
        """Return the list that was laid out for the user in this row, else what everybody gets."""
        listed = self._arrays.user_lists[row].tolist() if row >= 0 else [-1]
        if listed[0] < 0:
            return self._general(self._seen(row)[0], k)
        names = self._names
        return Recommendation([names[movie] for movie in listed[: max(0, k)] if movie >= 0], PERSONAL)

    def _seen(self, row: int) -> tuple[Small, Floats]:
        """Return movie rows, ascending, and weights of what the user in this row has seen; none for -1."""
        arrays = self._arrays
        part = slice(arrays.seen_indptr[row], arrays.seen_indptr[row + 1]) if row >= 0 else slice(0)
        return arrays.seen_indices[part], arrays.seen_weights[part]

    def _scores(self, rows: Small, weights: Floats) -> Doubles | None:
        """Return the score of each movie, 0 or less for what was seen; None if that says nothing at all."""
        arrays = self._arrays
        begins, ends = arrays.neighbour_indptr[rows], arrays.neighbour_indptr[rows + 1]
        if not (ends > begins).any():
            return None
        everybody = len(arrays.neighbour_indptr) - 2
        parts = [*zip(begins, ends, weights, strict=True)]
        parts.append((*arrays.neighbour_indptr[everybody : everybody + 2], np.float32(1)))
        indices = np.concatenate([arrays.neighbour_indices[begin:end] for begin, end, _ in parts])
        said = np.concatenate([arrays.neighbour_weights[begin:end] * weight for begin, end, weight in parts])
        scores: Doubles = np.bincount(indices, said, minlength=self.n_movies).astype(np.float64, copy=False)
        scores[rows] = 0.0
        return scores

    def _general(self, seen: Small, k: int) -> Recommendation:
        if len(seen) == 0 and k <= LIST_LENGTH:
            return Recommendation(self._for_strangers[: max(0, k)], self._general_source)
        return Recommendation(self._texts(self._fill(_NONE, seen, k)), self._general_source)

    def _fill(self, best: SomeRows, seen: Small, k: int, *, trending: bool = True) -> SomeRows:
        """Return ``best`` and, after it, what is trending and then popular, up to ``k`` unseen rows."""
        if len(best) >= k:
            return best
        wanted = max(0, k) + len(seen)
        lately = self._arrays.trending[: wanted + len(best)] if trending else _NONE
        ever = np.arange(min(self.n_movies, wanted + len(best) + len(lately)))
        rows = np.concatenate([best, lately, ever])
        _, first = np.unique(rows, return_index=True)
        rows = rows[np.sort(first)]
        return rows[~np.isin(rows, seen)][: max(0, k)]


_NONE = np.empty(0, dtype=np.int32)


def best_rows(scores: Doubles, k: int) -> Rows:
    """Return the rows of the ``k`` highest scores above zero, best first; the lower row wins a tie."""
    rows = np.flatnonzero(scores > 0)
    keys = sort_keys(scores[rows], rows)
    if len(keys) > k:
        keys = np.partition(keys, len(keys) - k)[len(keys) - k :] if k > 0 else keys[:0]
    return rows_of(np.sort(keys)[::-1])


def sort_keys(scores: Doubles, rows: SomeRows) -> Rows:
    """Return one number for each score and row: the higher score is greater, then the lower row."""
    steps = (scores * (1 / (EVIDENCE_GRID * NEIGHBOUR_GRID))).astype(np.int64)
    return steps * MAX_MOVIES + (MAX_MOVIES - 1 - rows)


def rows_of(keys: Rows) -> Rows:
    """Return the rows that went into ``keys``."""
    return MAX_MOVIES - 1 - keys % MAX_MOVIES


def _fold(rows: Small, weights: Floats, fresh: Small) -> tuple[Small, Floats]:
    """Return rows, ascending, and weights of what was seen before and, in ``fresh``, since the training."""
    together = np.concatenate([rows, fresh])
    counted = np.concatenate([weights, np.full(len(fresh), WATCHED_WEIGHT, dtype=np.float32)])
    order = np.argsort(together)
    return together[order], counted[order]


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
    if meta["format"] != FORMAT:
        raise ModelError(
            f"the model in {folder} has format {meta['format']}, this code reads {FORMAT}; "
            "train a version anew, or use the code that wrote it"
        )
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
    """Return ``model.json`` of the model in ``folder``, of whatever format.

    Raises:
        ModelError: there is none, or it is not of a model.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / "model.json").read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"model.json cannot be read ({error})") from error
    wanted = {"format", "version", "scale", "mean", "files"}
    if not isinstance(meta, dict) or not wanted <= meta.keys():
        raise _damaged(folder, f"model.json lacks one of {', '.join(sorted(wanted))}")
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
        "user_lists": n_users,
        "seen_indptr": n_users + 1,
        "seen_weights": len(arrays.seen_indices),
        "movie_order": n_movies,
        "neighbour_indptr": n_movies + 2,
        "neighbour_weights": len(arrays.neighbour_indices),
        "svd_movie_bias": n_movies,
        "svd_movie_factors": n_movies,
        "svd_user_factors": n_raters,
    }
    for name, length in wanted.items():
        if len(getattr(arrays, name)) != length:
            raise _damaged(folder, f"{name} has {len(getattr(arrays, name))} rows, wanted {length}")


def _damaged(folder: Path, what: str) -> ModelError:
    return ModelError(
        f"the model in {folder} cannot be used: {what}; export the version again from the registry"
    )
