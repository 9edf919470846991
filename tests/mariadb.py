"""A MariaDB of the tests' own, which may be killed and started again on the same data."""

import getpass
import os
import shutil
import subprocess
import time
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from tests.ports import free_ports

READY_TIMEOUT_S = 60.0


class NoMariaDB(Exception):  # noqa: N818 - reads as what it is
    """This machine has none; the text says what to do."""


class MariaDB:
    """One server on a port of its own."""

    def __init__(self, data_dir: Path) -> None:
        """Make an empty server in ``data_dir``; nothing runs yet."""
        folders = f"{os.environ['PATH']}:/usr/sbin"
        install, server = (shutil.which(name, path=folders) for name in ("mariadb-install-db", "mariadbd"))
        if install is None or server is None:
            raise NoMariaDB("no MariaDB on this machine: apt-get install mariadb-server")
        data_dir.mkdir(parents=True, exist_ok=True)
        (port,) = free_ports(1)
        common = ["--no-defaults", f"--datadir={data_dir}", f"--user={getpass.getuser()}"]
        own = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={data_dir}/socket"]
        self._command = [server, *common, *own, f"--pid-file={data_dir}/pid"]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"mysql+pymysql://root@127.0.0.1:{port}"
        """SQLAlchemy address without a database name."""
        subprocess.run(
            [install, *common, "--auth-root-authentication-method=normal"], check=True, capture_output=True
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        engine = create_engine(self.url)
        deadline = time.monotonic() + READY_TIMEOUT_S
        try:
            while not _answers(engine):
                assert time.monotonic() < deadline, "MariaDB did not come up"
                time.sleep(0.1)
        finally:
            engine.dispose()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end("kill")

    def stop(self) -> None:
        """End it; does nothing when it is not running."""
        self._end("terminate")

    def _end(self, how: str) -> None:
        process, self._process = self._process, None
        if process is not None:
            getattr(process, how)()
            process.wait(timeout=30)


def _answers(engine) -> bool:
    try:
        engine.connect().close()
    except OperationalError:
        return False
    return True
