"""A model on disk: a folder of memory-mapped arrays and ``model.json``. No pickle."""

import hashlib
import json
import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import ModelError
from pipelines.model.arrays import Arrays
from pipelines.model.recommender import Model

FORMAT = 2


def save(folder: Path, arrays: Arrays, about: dict[str, Any]) -> dict[str, Any]:
    """Write a model into ``folder`` in one step, replacing the model that is there; return ``model.json``.

    ``about`` must hold ``scale`` (lowest, highest rating) and ``mean``; it becomes ``model.json``, together
    with the size and SHA-256 of every array.

    Raises:
        ModelError: something else than a model is there, or the disk takes none.
    """
    check_replaceable(folder)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        meta = _write(fresh, arrays, about)
        replace_folder(fresh, folder)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise ModelError(
            f"the model {folder} cannot be written ({error}); make room, mend the permissions, or name "
            "another folder"
        ) from error
    return meta


def check_replaceable(folder: Path) -> None:
    """See that nobody loses anything but a model when ``folder`` is replaced.

    Raises:
        ModelError: something else is there.
    """
    if not folder.exists() or (folder / "model.json").exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise ModelError(f"{folder} holds no model, and would be replaced: name another folder, or empty it")


def _write(folder: Path, arrays: Arrays, about: dict[str, Any]) -> dict[str, Any]:
    for field in fields(Arrays):
        with (folder / f"{field.name}.npy").open("wb") as file:
            np.save(file, getattr(arrays, field.name), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    meta = {"format": FORMAT, "version": None, **about}
    meta["files"] = {path.name: _file_facts(path) for path in sorted(folder.iterdir())}
    write_meta(folder, meta)
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
        f"the model in {folder} cannot be used: {what}; name another folder, or move this one away: that of "
        "a version is then laid out anew from the registry"
    )
