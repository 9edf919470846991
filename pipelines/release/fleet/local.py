"""The fleet on one machine: gunicorn replicas as programs of a running supervisord.

What should run is what stands in ``programs/``: one file a replica, written by rename. A supervisord that
is started anew finds the same replicas there.
"""

import sys
import time
from pathlib import Path

from pipelines.errors import FleetError
from pipelines.fault import Fault
from pipelines.release.fleet import CANARY_REPLICA, SHADOW_REPLICA, Running
from pipelines.release.fleet.asking import ask, fault_of
from pipelines.release.fleet.supervisor import Supervisor
from pipelines.settings import PROJECT_DIR, Settings


class LocalFleet:
    """Replicas under supervisord; see :class:`pipelines.release.fleet.Fleet`."""

    def __init__(self, config: Settings, supervisor: Supervisor) -> None:
        """Use the ports, folders and worker counts of ``config``."""
        self._config = config
        self._supervisor = supervisor
        self._ports = {
            "stable-1": config.stable_1_port,
            "stable-2": config.stable_2_port,
            CANARY_REPLICA: config.canary_port,
            SHADOW_REPLICA: config.shadow_port,
        }

    def pack(self, version: int) -> str:
        """Do nothing: replicas read the artifact where it was exported to."""
        return ""

    def deploy(
        self, replica: str, version: int, *, arm: str, release: int | None = None, fault: Fault = Fault.NONE
    ) -> None:
        """Write the replica's program, have supervisord take it, wait for ``/readyz``."""
        model_dir = self._config.models_dir / f"v{version}"
        if not (model_dir / "model.json").exists():
            raise FleetError(
                f"there is no model in {model_dir}; fetch it with `python -m pipelines fetch {version}`"
            )
        self._supervisor.write_program(
            self._name(replica), self._program(replica, model_dir, arm, fault_of(self._config, arm, fault))
        )
        self._supervisor.update(self._name(replica))
        self._wait_ready(replica, version)

    def remove(self, replica: str) -> None:
        """Delete the replica's program and have supervisord stop it."""
        self._supervisor.remove_program(self._name(replica))
        self._supervisor.update()

    def running(self) -> dict[str, Running]:
        """Ask every replica that has a program."""
        names = [
            path.stem.removeprefix("replica-") for path in self._supervisor.programs_dir.glob("replica-*.ini")
        ]
        if names:
            # Who answers now may be the next to stop, by what a killed step has left under way.
            self._supervisor.finish_update()
        return {name: ask(name, self.address(name)) for name in sorted(names)}

    def address(self, replica: str) -> str:
        """Return the loopback address of ``replica``."""
        try:
            return f"127.0.0.1:{self._ports[replica]}"
        except KeyError:
            raise FleetError(f"no replica is named {replica!r}; there are {', '.join(self._ports)}") from None

    @staticmethod
    def _name(replica: str) -> str:
        # Not among those that viewers meet, nor among those that a stack which comes up again finds there.
        return replica if replica == SHADOW_REPLICA else f"replica-{replica}"

    def _program(self, replica: str, model_dir: Path, arm: str, fault: Fault) -> dict[str, str]:
        config = self._config
        spool_dir = config.shadow_spool_dir if replica == SHADOW_REPLICA else config.spool_dir
        environment = {
            "MARQUEE_MODEL_DIR": model_dir,
            "MARQUEE_ARM": arm,
            "MARQUEE_REPLICA": replica,
            "MARQUEE_SPOOL_DIR": spool_dir,
            "MARQUEE_RECENTS_DIR": config.recents_dir,
            "MARQUEE_BIND_ADDRESS": self.address(replica),
            "MARQUEE_FAULT": fault,
            "MARQUEE_REPLICA_WORKERS": config.replica_workers,
            "PROMETHEUS_MULTIPROC_DIR": self.counters_dir / replica,
            "PYTHONPATH": PROJECT_DIR,
            # One BLAS thread a worker: two cores are shared by everything.
            "OPENBLAS_NUM_THREADS": 1,
        }
        gunicorn = Path(sys.executable).with_name("gunicorn")
        return {
            "command": f"{gunicorn} -c {PROJECT_DIR / 'serving' / 'gunicorn.conf.py'}",
            "environment": ",".join(f'{key}="{value}"' for key, value in environment.items()),
            "directory": str(PROJECT_DIR),
            # The master first closes its socket, then lets its workers finish what they have begun.
            "stopasgroup": "false",
        }

    @property
    def counters_dir(self) -> Path:
        """Where workers keep their counters: in memory, for a full disk would kill them."""
        memory = Path("/dev/shm")  # noqa: S108 - the name is this stack's own
        name = self._supervisor.socket_path.stem
        return memory / name if memory.is_dir() else self._config.var_dir / "counters"

    def _wait_ready(self, replica: str, version: int) -> None:
        deadline = time.monotonic() + self._config.ready_timeout_s
        while (running := ask(replica, self.address(replica))).version != version:
            if time.monotonic() > deadline:
                observed = f"version {running.version}" if running.version else "nothing"
                raise FleetError(
                    f"replica {replica} at {running.address} answers {observed}, "
                    f"version {version} was wanted within {self._config.ready_timeout_s:g} s; "
                    f"see {self._supervisor.logs_dir}/{self._name(replica)}.log"
                )
            time.sleep(0.1)
