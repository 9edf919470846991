"""Versions: a git repository with DVC inside, where a version is a commit with the tag ``vN``.

    batches.dvc   the batches it was trained on        metrics.json   what it scored
    model.dvc     the artifact                         version.txt    N
    refs/notes    what became of it: promoted, aborted: reason
    release-R-…   a tag for each decision about it: promoted, aborted, reverted

A tag ``vN`` is what makes a version; whatever happens before it can be killed and run again.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from math import nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

from pipelines.errors import ModelError, RegistryError
from pipelines.model import artifact, staging
from pipelines.model.repository import BRANCH, Repository

LOCK_TIMEOUT_S = 600.0
"""How long one run waits for another to leave the registry."""

_TRACKED = (
    *(".gitignore", ".dvcignore", ".dvc/.gitignore", ".dvc/config"),
    *("batches.dvc", "model.dvc", "metrics.json", "version.txt"),
)

_DVC_HASH = re.compile(r"^\s*-?\s*md5: ([0-9a-f]{32}(?:\.dir)?)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Version:
    """A version that has just been made, or made before from the same data and model."""

    number: int
    commit: str
    """40 hex digits."""
    pushed: bool
    """Whether all remotes that are set have everything; False when none is set."""
    push_error: str
    """Why not; empty when pushed or nothing is set. Holds no password."""


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """A version as it stands in the registry."""

    number: int
    commit: str
    created_at: datetime
    rmse: float
    """Hold-out RMSE, rating units; NaN when it was not measured."""
    note: str
    """``promoted``, ``aborted: reason``, or empty when nothing has become of it yet."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields for JSON: the time as ISO text, NaN as None."""
        return {
            "number": self.number,
            "commit": self.commit,
            "created_at": self.created_at.isoformat(),
            "rmse": None if self.rmse != self.rmse else self.rmse,
            "note": self.note,
        }


class Registry:
    """The versions in ``folder``, and on the remotes when any are set."""

    def __init__(self, folder: Path, git_remote: str = "", dvc_remote: str = "") -> None:
        self._repository = Repository(folder, git_remote, dvc_remote)
        self._folder = self._repository.folder

    def init(self) -> None:
        """Set the repository up, or bring its remotes up to date; an empty one takes over its remote's."""
        with self._alone():
            self._set_up()

    def commit(self, model_dir: Path, batches_dir: Path, metrics: dict[str, Any]) -> Version:
        """Make the next version of a model and the batches it was trained on, and push it.

        The same model of the same batches as the newest version is that version again. Killed anywhere, it
        can be run again.

        Args:
            model_dir: artifact; its ``provenance["batches"]`` names the batches, else all of them count.
            batches_dir: folder of batches, or the one ratings file.
            metrics: becomes ``metrics.json``; its ``rmse`` (or ``metrics.rmse``) is listed.

        Raises:
            ModelError: the artifact is damaged.
            RegistryError: git or DVC refused, or a batch is missing. A remote that is away is no error: the
                version stays local and ``push_error`` says why.
        """
        meta = artifact.load(model_dir, verify=True).meta
        with self._alone():
            self._set_up()
            self._finish_interrupted()
            sources = staging.find_batches(meta, batches_dir, self._folder)
            identity = staging.identity(meta, sources)
            numbers = self._numbers()
            if not numbers or self.metrics(numbers[-1]).get("identity") != identity:
                number = numbers[-1] + 1 if numbers else 1
                kept = {**metrics, "version": number, "identity": identity}
                self._record(number, model_dir, meta, sources, kept)
            error = self._push()
            number = self._numbers()[-1]
            pushed = self._repository.has_remote and not error
            return Version(number, self._commit_of(number), pushed=pushed, push_error=error)

    def versions(self) -> list[VersionInfo]:
        """Return all versions, oldest first."""
        numbers = self._numbers()
        if not numbers:
            return []
        tags = [f"v{number}" for number in numbers]
        shown = self._repository.git(
            "log", "--no-walk=unsorted", "--notes", "--format=%H%x1f%cI%x1f%N%x1e", *tags
        )
        rows = [row.strip("\n").split("\x1f") for row in shown.split("\x1e")[:-1]]
        return [
            VersionInfo(number, commit, datetime.fromisoformat(at), _rmse(metrics), note.strip())
            for number, (commit, at, note), metrics in zip(numbers, rows, self._metrics(numbers), strict=True)
        ]

    def metrics(self, version: int) -> dict[str, Any]:
        """Return ``metrics.json`` of a version.

        Raises:
            RegistryError: there is no such version.
        """
        self._require(version)
        return next(self._metrics([version]))

    def meta(self, version: int, models_dir: Path) -> dict[str, Any]:
        """Return ``model.json`` of a version, of whatever format; ``models_dir/vN`` spares asking DVC.

        Raises:
            RegistryError: there is no such version, or neither cache nor remote has its files.
            ModelError: what came out is no model.
        """
        with suppress(ModelError):
            meta = artifact.read_meta(models_dir / f"v{version}")
            if meta["version"] == version:
                return meta
        with self._alone(), TemporaryDirectory() as folder:
            self._require(version)
            out = str(Path(folder) / "model.json")
            self._repository.dvc(
                "get", "--quiet", ".", "model/model.json", "--rev", f"v{version}", "--out", out
            )
            return artifact.read_meta(Path(folder))

    def hashes(self, version: int) -> dict[str, str]:
        """Return the DVC hash of what a version is made of, under ``batches`` and ``model``.

        A hash that ends in ``.dir`` is of a folder: of the list of its files and their hashes.

        Raises:
            RegistryError: there is no such version, or what DVC wrote about it cannot be read.
        """
        self._require(version)
        return {what: self._hash(version, what) for what in ("batches", "model")}

    def export(self, version: int, models_dir: Path) -> Path:
        """Lay the artifact of a version out as ``models_dir/vN``, complete or not at all; return the folder.

        What is there already and opens as this version stays. Needs no remote while the local cache has it.

        Raises:
            RegistryError: there is no such version, or neither cache nor remote has its files.
            ModelError: what came out is not what was put in.
        """
        target = models_dir.absolute() / f"v{version}"
        if _opens_as(target, version):
            return target
        with self._alone():
            return self._get("model", version, target)

    def export_batches(self, version: int, folder: Path) -> Path:
        """Lay the batches a version was trained on out as ``folder``, complete or not at all; return it.

        Raises:
            RegistryError: the folder exists, there is no such version, or its files are nowhere to be had.
        """
        target = folder.absolute()
        if target.exists():
            raise RegistryError(
                f"{target} exists; name a folder that does not, for the batches of v{version}"
            )
        with self._alone():
            return self._get("batches", version, target)

    def annotate(self, version: int, text: str) -> None:
        """Note what became of a version; the last word stands. ``push`` carries it to the remote."""
        with self._alone():
            self._set_up()
            self._require(version)
            self._repository.git("notes", "add", "--force", "-m", text, f"v{version}")

    def tag(self, name: str, version: int, text: str) -> None:
        """Put the tag ``name`` on a version, with ``text``; one that is there stays as it is."""
        with self._alone():
            self._set_up()
            self._require(version)
            if not self._repository.git("tag", "--list", name).strip():
                self._repository.git("tag", "--annotate", "-m", text, name, f"v{version}^{{}}")

    def push(self) -> str:
        """Push everything the remotes lack; return why that failed, empty when it did not."""
        with self._alone():
            self._set_up()
            return self._push()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / ".lock", timeout=LOCK_TIMEOUT_S):
                yield
        except Timeout as error:
            raise RegistryError(
                f"another process has been working in {self._folder} for {LOCK_TIMEOUT_S:g} s; "
                "wait for it, or end it if it hangs, and run this again"
            ) from error
        except OSError as error:
            raise RegistryError(f"the registry in {self._folder} cannot be worked in: {error}") from error

    def _set_up(self) -> None:
        self._repository.set_up()
        if self._repository.has_remote and not self._numbers():
            # A machine that lost its registry goes on counting where the remote stands; else it starts at 1.
            with suppress(RegistryError):
                self._repository.fetch()

    def _finish_interrupted(self) -> None:
        """Give the tag to a version that was committed and then killed."""
        number = (self._numbers() or [0])[-1] + 1
        newest = self._repository.git("for-each-ref", "--format=%(subject)", f"refs/heads/{BRANCH}").strip()
        if newest == _message(number):
            self._repository.git("tag", f"v{number}", "HEAD")

    def _record(
        self,
        number: int,
        model_dir: Path,
        meta: dict[str, Any],
        sources: dict[str, Path],
        metrics: dict[str, Any],
    ) -> None:
        staging.stage_batches(self._folder, meta, sources)
        staging.stage_model(self._folder, number, model_dir)
        (self._folder / "metrics.json").write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")
        (self._folder / "version.txt").write_text(f"{number}\n")
        self._repository.dvc("add", "--quiet", "batches", "model")
        self._repository.git("add", "--force", *_TRACKED)
        self._repository.git("commit", "--quiet", "--no-verify", "-m", _message(number))
        self._repository.git("tag", f"v{number}")

    def _get(self, what: str, version: int, target: Path) -> Path:
        self._require(version)
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            self._repository.dvc("get", "--quiet", ".", what, "--rev", f"v{version}", "--out", str(fresh))
            if what == "model":
                artifact.load(fresh, verify=True)
            artifact.replace_folder(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return target

    def _push(self) -> str:
        try:
            if self._numbers():
                self._repository.push()
        except RegistryError as error:
            return str(error)
        return ""

    def _numbers(self) -> list[int]:
        """Return the numbers of all versions, ascending."""
        if not self._repository.exists:
            return []
        tags = self._repository.git("tag", "--list", "v*").split()
        return sorted(int(tag[1:]) for tag in tags if re.fullmatch("v[1-9][0-9]*", tag))

    def _require(self, version: int) -> None:
        numbers = self._numbers()
        if version not in numbers:
            held = f"it holds v{numbers[0]} to v{numbers[-1]}" if numbers else "it is empty"
            raise RegistryError(f"there is no version {version} in {self._folder}: {held}")

    def _hash(self, version: int, what: str) -> str:
        text = self._repository.git("show", f"v{version}:{what}.dvc")
        if found := _DVC_HASH.search(text):
            return found[1]
        raise RegistryError(
            f"{what}.dvc of v{version} in {self._folder} names no hash; look at it with "
            f"`git -C {self._folder} show v{version}:{what}.dvc`"
        )

    def _commit_of(self, version: int) -> str:
        return self._repository.git("rev-parse", f"v{version}^{{commit}}").strip()

    def _metrics(self, numbers: list[int]) -> Iterator[dict[str, Any]]:
        """Yield ``metrics.json`` of each version; git prints several files one after the other."""
        text = self._repository.git("show", *(f"v{number}:metrics.json" for number in numbers))
        place = 0
        for _ in numbers:
            content, place = json.JSONDecoder().raw_decode(text, place)
            place += 1
            yield content


def _message(number: int) -> str:
    return f"Data and model version update: [{number}]"


def _rmse(metrics: dict[str, Any]) -> float:
    rmse = metrics.get("metrics", metrics).get("rmse")
    return nan if rmse is None else float(rmse)


def _opens_as(folder: Path, version: int) -> bool:
    try:
        return artifact.load(folder).version == version
    except ModelError:
        return False
