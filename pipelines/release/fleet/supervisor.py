"""supervisord, the process control of the one-machine stack: its files and its control command.

Programs are single files in ``programs/`` that appear by rename, so that a supervisord that is asked to
``update`` at any moment, or is started anew, never reads half a program.
"""

import fcntl
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from configparser import RawConfigParser
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pipelines.errors import FleetError

_TIMEOUT_S = 120
# Restarted for ever, with a pause that grows; stopped as a whole group, so that nothing is left behind.
_PROGRAM_DEFAULTS = {
    "autostart": "true",
    "autorestart": "true",
    "startsecs": "1",
    "startretries": "1000000",
    "stopasgroup": "true",
    "killasgroup": "true",
    "stopwaitsecs": "20",
    "redirect_stderr": "true",
    "stdout_logfile_maxbytes": "20MB",
    "stdout_logfile_backups": "1",
}


class State(NamedTuple):
    """One line of ``supervisorctl status``."""

    name: str
    state: str
    """RUNNING, STARTING, BACKOFF, STOPPED, EXITED, FATAL …"""
    detail: str


class Supervisor:
    """One supervisord, addressed by the folder it lives in."""

    def __init__(self, folder: Path, logs_dir: Path) -> None:
        """Keep the configuration in ``folder`` and the programs' logs in ``logs_dir``."""
        self.folder = folder
        self.logs_dir = logs_dir
        self.programs_dir = folder / "programs"
        self.config_path = folder / "supervisord.conf"
        self.pid_path = folder / "supervisord.pid"
        self._update_lock = folder / "update.lock"

    @property
    def socket_path(self) -> Path:
        """The control socket; outside the folder, because a socket's path may have 107 characters only."""
        name = hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"marquee-{name}.sock"

    def write_config(self) -> None:
        """Write the main configuration and make the folders it names."""
        self.programs_dir.mkdir(parents=True, exist_ok=True)
        self.logs_dir.mkdir(parents=True, exist_ok=True)
        config = RawConfigParser()
        config["supervisord"] = {
            "nodaemon": "true",
            "silent": "true",
            "logfile": str(self.logs_dir / "supervisord.log"),
            "pidfile": str(self.pid_path),
            "childlogdir": str(self.logs_dir),
            "minfds": "1024",
        }
        config["unix_http_server"] = {"file": str(self.socket_path), "chmod": "0700"}
        config["rpcinterface:supervisor"] = {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        }
        config["supervisorctl"] = {"serverurl": f"unix://{self.socket_path}"}
        config["include"] = {"files": f"{self.programs_dir}/*.ini"}
        _write(config, self.config_path)

    def write_program(self, name: str, options: Mapping[str, str]) -> None:
        """Put program ``name`` into place; :meth:`update` makes it run."""
        config = RawConfigParser()
        log = {"stdout_logfile": str(self.logs_dir / f"{name}.log")}
        section = {**_PROGRAM_DEFAULTS, **log, **options}
        config[f"program:{name}"] = {key: value.replace("%", "%%") for key, value in section.items()}
        _write(config, self.programs_dir / f"{name}.ini")

    def remove_program(self, name: str) -> None:
        """Take program ``name`` out of place; :meth:`update` stops it."""
        (self.programs_dir / f"{name}.ini").unlink(missing_ok=True)

    def command(self) -> list[str]:
        """Return the command line of supervisord in the foreground."""
        return [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.config_path)]

    def update(self, *names: str) -> None:
        """Start what is new, restart what changed, stop what is gone; everything else goes on.

        ``names``: programs that alone are looked at, and that run afterwards; a killed step may have left
        others half changed.
        """
        with _locked(self._update_lock) as lock:
            # Who kills us does not kill the command: it holds the lock to its end, because a second one
            # beside it would lose a program that the first has taken out to put it in anew.
            self.control("update", *names, holding=(lock,))
            if names:
                # It may have died, too, after it had stopped the program: unchanged, that would stay so.
                self.control("start", *names, holding=(lock,))

    def finish_update(self) -> None:
        """Wait for an update that is under way, also for one whose caller was killed."""
        with _locked(self._update_lock):
            pass

    def status(self) -> dict[str, State]:
        """Return what supervisord says of every program."""
        lines = self.control("status", accepted=(0, 3)).splitlines()
        states = [State(*[*line.split(maxsplit=2), ""][:3]) for line in lines if line.strip()]
        return {state.name: state for state in states}

    def control(
        self, *arguments: str, accepted: tuple[int, ...] = (0,), holding: tuple[int, ...] = ()
    ) -> str:
        """Run supervisorctl; ``holding`` are open files that it keeps open as long as it runs.

        Raises:
            FleetError: supervisord does not answer or refuses.
        """
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.config_path), *arguments],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            pass_fds=holding,
        )
        if done.returncode not in accepted:
            raise FleetError(
                f"supervisorctl {' '.join(arguments)} failed: {(done.stdout + done.stderr).strip()}; "
                f"is the stack up? see {self.logs_dir / 'supervisord.log'}"
            )
        return done.stdout


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold the lock ``path`` alone; yields its open file, with which a child holds it, too.

    Raises:
        FleetError: somebody else does not let go of it.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise FleetError(
                        f"another update of the programs has been holding {path} for {_TIMEOUT_S} s; "
                        "see which supervisorctl hangs"
                    ) from None
                time.sleep(0.05)
        yield file.fileno()


def _write(config: RawConfigParser, path: Path) -> None:
    new = path.with_suffix(".new")
    # Environments of programs hold secrets: nobody else may read them.
    new.touch(mode=0o600)
    with new.open("w") as file:
        config.write(file)
    new.replace(path)
