"""Which code this is, so that a version can name what trained it."""

import subprocess
from pathlib import Path
from typing import TypedDict

from pipelines.settings import PROJECT_DIR

COMMIT_FILE = "COMMIT"
"""Names the commit where there is no git, as in an image; whoever builds that writes it."""
UNKNOWN = "unknown"
_DIRTY = "-dirty"
_TIMEOUT_S = 30


class CodeVersion(TypedDict):
    """What a model's provenance says about the code."""

    commit: str
    """40 hex digits, or ``unknown``."""
    dirty: bool
    """Whether files differed from that commit; False where that cannot be seen."""


def code_version(folder: Path = PROJECT_DIR) -> CodeVersion:
    """Return the commit of the code in ``folder``; not knowing it stops no training."""
    if named := _written(folder / COMMIT_FILE):
        return {"commit": named.removesuffix(_DIRTY), "dirty": named.endswith(_DIRTY)}
    commit = _git(folder, "rev-parse", "HEAD")
    # A checkout further up is not ours.
    if not commit or not (folder / ".git").exists():
        return {"commit": UNKNOWN, "dirty": False}
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}


def label(code: CodeVersion) -> str:
    """Return one word for it, as ``git describe`` does: the commit, and ``-dirty`` when files differed."""
    return code["commit"] + (_DIRTY if code["dirty"] else "")


def _written(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _git(folder: Path, *arguments: str) -> str:
    """Return what git says; empty when it refuses or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
