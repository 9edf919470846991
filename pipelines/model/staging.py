"""What goes into a version: data and model are laid out in the registry's folder, ready for DVC and git."""

import hashlib
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.data import quarantine
from pipelines.data.quarantine import Quarantined
from pipelines.errors import RegistryError
from pipelines.model import artifact


def find_batches(meta: dict[str, Any], batches_dir: Path, registry: Path) -> dict[str, Path]:
    """Return the files a model was trained on, by the names they get in the registry.

    ``batches_dir``: folder of batches, or the one ratings file. Of a folder, those count that ``model.json``
    names in ``provenance["batches"]``: others may have come in since. One that the folder no longer has may
    still be in the registry from the version before.

    Raises:
        RegistryError: a batch is missing, or there is none at all.
    """
    if batches_dir.is_file():
        return {batches_dir.name: batches_dir}
    named = meta.get("provenance", {}).get("batches")
    found = named or [path.name for path in batches_dir.glob("[!.]*.parquet")]
    sources = {name: batches_dir / name for name in sorted(found)}
    kept = registry / "batches"
    missing = [name for name, path in sources.items() if not path.exists() and not (kept / name).exists()]
    if missing or not sources:
        raise RegistryError(
            f"{len(missing)} of the {len(sources)} batches of this model are neither in {batches_dir} nor in "
            f"{kept} ({', '.join(missing[:3]) or 'none are named'}); a version needs its data: restore it "
            "and run again"
        )
    return sources


def identity(meta: dict[str, Any], names: Iterable[str]) -> str:
    """Return one hash of a model and of the batches it comes from, with what was left out of them."""
    left_out = [
        f"without {entry.topic}~{entry.generation}-{entry.partition}-{entry.first}-{entry.last}"
        for entry in _quarantined(meta)
    ]
    return hashlib.sha256("\n".join([artifact.fingerprint(meta), *names, *left_out]).encode()).hexdigest()


def stage_batches(registry: Path, meta: dict[str, Any], sources: dict[str, Path]) -> None:
    """Make the folder ``batches`` of the registry hold exactly ``sources``, and what was left out of them."""
    staged = registry / "batches"
    staged.mkdir(exist_ok=True)
    for path in staged.iterdir():
        # A batch never changes; a ratings file may have been edited since.
        if path.name not in sources or path.suffix != ".parquet":
            path.unlink()
    for name, source in sources.items():
        if not (staged / name).exists():
            _link_or_copy(source, staged / name)
    # Without it, who fits the version again would fit it on more than it was made of.
    if entries := _quarantined(meta):
        quarantine.write(staged, entries)


def _quarantined(meta: dict[str, Any]) -> list[Quarantined]:
    return [Quarantined.of_json(each) for each in meta.get("provenance", {}).get("quarantined", [])]


def stage_model(registry: Path, number: int, model_dir: Path) -> None:
    """Make the folder ``model`` of the registry hold this artifact under its version number."""
    staged = registry / "model"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    meta = artifact.read_meta(model_dir)
    for name in meta["files"]:
        _link_or_copy(model_dir / name, staged / name)
    artifact.write_meta(staged, {**meta, "version": number})


def _link_or_copy(source: Path, target: Path) -> None:
    # A link lives until DVC has taken the file over into its cache. There is none across file systems, nor to
    # files of another user where the kernel protects them.
    with suppress(OSError):
        target.hardlink_to(source)
        return
    part = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(source, part)
    part.replace(target)
