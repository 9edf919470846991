"""Prometheus of the one-machine stack, which no Python dependency list can name.

Nothing is installed on the system and no root is needed: it is unpacked from its Debian package into the
run-time folder.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from pipelines.errors import StackError

APT_TIMEOUT_S = 300.0

# A normal user's PATH often lacks the folders of servers.
_SYSTEM_FOLDERS = ("/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin")

# Read by apt after the system's own files: lists and cache go to a folder of ours, and hooks
# that would tidy up the system's caches are dropped.
_APT_CONFIGURATION = """\
Dir::State "{folder}/state";
Dir::State::lists "{folder}/lists";
Dir::Cache "{folder}/cache";
APT::Sandbox::User "{user}";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


def prometheus(tools_dir: Path) -> Path:
    """Return a Prometheus program with ``promtool`` beside it: the system's, or one unpacked here.

    Args:
        tools_dir: where an unpacked Prometheus is kept (``tools_dir/prometheus``) and found again.

    Raises:
        StackError: it is not installed, and the Debian package could not be had.
    """
    tools_dir = tools_dir.absolute()
    unpacked = tools_dir / "prometheus" / "usr" / "bin" / "prometheus"
    found = _on_path("prometheus") or (unpacked if unpacked.is_file() else None)
    if found is not None:
        return found
    tools_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".prometheus-", dir=tools_dir) as scratch:
        package = _download("prometheus", Path(scratch))
        root = Path(scratch) / "root"
        _run(["dpkg", "-x", str(package), str(root)], Path(scratch))
        move_into_place(root, tools_dir / "prometheus")
    if not unpacked.is_file():
        raise StackError(_no_prometheus(f"{package.name} holds no usr/bin/prometheus"))
    return unpacked


def move_into_place(folder: Path, target: Path) -> None:
    """Rename a finished ``folder`` to ``target``; one that another process finished first is kept.

    Raises:
        OSError: the rename failed and there is no ``target``.
    """
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def tail(output: str, lines: int = 8) -> str:
    """Return the last ``lines`` of what a program printed, for an error text."""
    return "\n".join(output.strip().splitlines()[-lines:])


def _on_path(name: str) -> Path | None:
    folders = os.pathsep.join([os.environ.get("PATH", ""), *_SYSTEM_FOLDERS])
    found = shutil.which(name, path=folders)
    return Path(found) if found else None


def _download(package: str, scratch: Path) -> Path:
    for tool in ("apt-get", "dpkg"):
        if _on_path(tool) is None:
            raise StackError(_no_prometheus(f"this machine has no {tool} to fetch it with"))
    for folder in ("state", "lists/partial", "cache/archives/partial"):
        (scratch / folder).mkdir(parents=True)
    configuration = scratch / "apt.conf"
    # apt drops root for a user that cannot write here; without root it has nobody to become.
    user = "root" if os.geteuid() == 0 else ""
    configuration.write_text(_APT_CONFIGURATION.format(folder=scratch, user=user))
    # A foreign source that does not answer fails the update, yet the package may be there.
    update = _run(["apt-get", "-c", str(configuration), "-q", "update"], scratch, check=False)
    _run(["apt-get", "-c", str(configuration), "-q", "download", package], scratch, before=update)
    return next(scratch.glob(f"{package}_*.deb"))


def _run(argv: list[str], cwd: Path, *, check: bool = True, before: str = "") -> str:
    """Run one program within ``APT_TIMEOUT_S`` and return what it printed; ``before`` goes into the error."""
    try:
        done = subprocess.run(
            argv, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=APT_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise StackError(_no_prometheus(f"{argv[0]} did not end within {APT_TIMEOUT_S:g} s")) from error
    output = done.stdout + done.stderr
    if check and done.returncode != 0:
        raise StackError(
            _no_prometheus(f"{' '.join(argv)} ended with {done.returncode}:\n{tail(before + output)}")
        )
    return output


def _no_prometheus(reason: str) -> str:
    return f"no Prometheus: {reason}\nInstall it by hand: `apt-get install prometheus`."
