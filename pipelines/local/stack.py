"""The one-machine stack: which programs it has, on which ports, and how it starts and stops.

supervisord runs everything; its configuration is the only list of what belongs to the stack.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from string import Template

import httpx
import psutil

from pipelines.errors import FleetError, StackError
from pipelines.local import airflow, broker, parts, programs
from pipelines.release import keep, world
from pipelines.release.fleet import STABLE_REPLICAS
from pipelines.release.fleet.local import LocalFleet
from pipelines.release.router import Split
from pipelines.settings import PROJECT_DIR, Settings, environment

TOOLS_DIR = PROJECT_DIR / "var" / "tools"
_START_S = 180.0
_STOP_S = 60.0
_ORPHAN_S = 10.0
_MARK = "MARQUEE_STACK"
"""Variable that marks every process of a stack with the configuration it belongs to."""
_PROMETHEUS_TEMPLATE = PROJECT_DIR / "docker" / "prometheus" / "prometheus.local.yml.template"
_PROMETHEUS_RULES = PROJECT_DIR / "docker" / "prometheus" / "rules.yml"


class Stack:
    """Starts and stops the stack of one ``config``; its run-time folder is the stack's identity."""

    def __init__(self, config: Settings, *, kafka_home: Path | None) -> None:
        """Use a Kafka in ``kafka_home``; None: there is none, events come from a file."""
        self.config = config
        self.supervisor = world.supervisor(config)
        self.kafka_home = kafka_home
        self._supervisord: subprocess.Popen[bytes] | None = None

    def check_ports(self) -> None:
        """Make sure that every port of the stack is free.

        Raises:
            StackError: naming every taken port with its setting.
        """
        taken = [
            f"  {port} (MARQUEE_{name.upper()})"
            for name, port in self._ports().items()
            if not _is_free(self.config.bind if name in _PUBLIC else "127.0.0.1", port)
        ]
        if taken:
            raise StackError(
                "these ports are taken by another program:\n" + "\n".join(taken) + "\n"
                "stop it (an older stack: `make local-down`) or set another port, for example "
                f"{taken[0].strip().split('(')[1].rstrip(')')}={self._ports_end()}"
            )

    def start(self, *, with_airflow: bool = True) -> None:
        """Write every program and start it; returns when supervisord answers and Airflow has a database."""
        self.supervisor.write_config()
        for path in self.supervisor.programs_dir.glob("*.ini"):
            if not path.stem.startswith("replica-"):
                path.unlink()
        self._write_programs()
        with (self.supervisor.logs_dir / "supervisord.out").open("ab") as out:
            # A session of its own: Ctrl-C in the terminal is for us, who then stop it in order.
            self._supervisord = subprocess.Popen(
                self.supervisor.command(),
                # Programs that write their own title must not write it over the mark.
                env={
                    **os.environ,
                    **environment(self.config),
                    _MARK: str(self.supervisor.config_path),
                    "SPT_NOENV": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd=PROJECT_DIR,
            )
        wait_for("supervisord", self._supervisord_answers)
        if with_airflow:
            self._start_airflow()

    def add(self, name: str, arguments: list[str]) -> None:
        """Add a Python program of ours (``python -m pipelines …``) to the running stack."""
        self.supervisor.write_program(name, programs.ours(*arguments))
        self.supervisor.update()

    def remove(self, name: str) -> None:
        """Take a program out of the running stack."""
        self.supervisor.remove_program(name)
        self.supervisor.update()

    def stop(self) -> None:
        """Stop every program, orphans of a killed supervisord included; returns when all have gone."""
        for supervisord in (process for process in self._processes() if _is_supervisord(process)):
            supervisord.terminate()
            psutil.wait_procs([supervisord], timeout=_STOP_S)
        if self._supervisord:
            self._supervisord.wait()
        # Whoever is left has lost its supervisord.
        orphans = self._processes()
        for ask_them in (psutil.Process.terminate, psutil.Process.kill):
            for process in orphans:
                with suppress(psutil.NoSuchProcess):
                    ask_them(process)
            _, orphans = psutil.wait_procs(orphans, timeout=_ORPHAN_S)
        # They lie in memory, which nothing else gives back.
        shutil.rmtree(LocalFleet(self.config, self.supervisor).counters_dir, ignore_errors=True)

    def is_up(self) -> bool:
        """Whether a supervisord of this run-time folder lives."""
        return any(_is_supervisord(process) for process in self._processes())

    def _processes(self) -> list[psutil.Process]:
        """Return the processes of this stack, by the mark that each inherits from its supervisord."""
        return [process for process in psutil.process_iter() if self._owns(process)]

    def _owns(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error, OSError):
            if process.name() == "nginx":
                # NGINX writes its title over its environment; its folder stands in the title.
                return str(self.config.var_dir / "nginx") in " ".join(process.cmdline())
            return process.environ().get(_MARK) == str(self.supervisor.config_path)
        return False

    def _ports(self) -> dict[str, int]:
        names = [
            "nginx_port",
            "stable_1_port",
            "stable_2_port",
            "canary_port",
            "shadow_port",
            "airflow_port",
            "prometheus_port",
            "receipts_port",
        ]
        if self.kafka_home:
            names += ["kafka_port", "kafka_controller_port"]
        return {
            name: getattr(self.config, name) for name in [*names, "smtp_catcher_port", "slack_catcher_port"]
        }

    def _ports_end(self) -> int:
        return max(self._ports().values()) + 1

    def _write_programs(self) -> None:
        config = self.config
        if self.kafka_home:
            data_dir = config.var_dir / "kafka"
            broker.prepare(self.kafka_home, data_dir, config.kafka_port, config.kafka_controller_port)
            command = broker.command(self.kafka_home, data_dir)
            self.supervisor.write_program("kafka", programs.program(list(command.argv), command.env))
        self._write_nginx()
        self._write_prometheus()
        self.supervisor.write_program("recorder", programs.ours("recorder"))
        # A broker that went first would hold it up; what it keeps survives being killed.
        self.supervisor.write_program("follow", programs.ours("follow", stopwaitsecs="3"))
        self.supervisor.write_program("receipts", programs.receipts(config.receipts_port))

    def _start_airflow(self) -> None:
        """Bring Airflow's database up to date, then have supervisord run its components."""
        home = self.config.var_dir / "airflow"
        variables = airflow.airflow_environment(self.config, home)
        migration = subprocess.run(
            [str(programs.beside_python("airflow")), "db", "migrate"],
            env={**os.environ, **environment(self.config), **variables},
            capture_output=True,
            text=True,
            timeout=_START_S,
            check=False,
        )
        if migration.returncode:
            raise StackError(
                f"`airflow db migrate` failed:\n{(migration.stdout + migration.stderr)[-2_000:]}"
            )
        for name, (program, *arguments) in airflow.PROGRAMS.items():
            self.supervisor.write_program(
                name, programs.program([str(programs.beside_python(program)), *arguments], variables)
            )
        self.supervisor.update()

    def _supervisord_answers(self) -> bool:
        try:
            return bool(self.supervisor.status())
        except FleetError:
            return False

    def _write_nginx(self) -> None:
        nginx = world.local_nginx(self.config)
        fleet = LocalFleet(self.config, self.supervisor)
        if not nginx.config_path.exists():
            nginx.write(Split(tuple(fleet.address(replica) for replica in STABLE_REPLICAS)))
        self.supervisor.write_program("nginx", programs.program(nginx.command(), stopsignal="QUIT"))

    def _write_prometheus(self) -> None:
        config = self.config
        folder = config.var_dir / "prometheus"
        folder.mkdir(parents=True, exist_ok=True)
        text = Template(_PROMETHEUS_TEMPLATE.read_text()).substitute(
            stable_1=f"127.0.0.1:{config.stable_1_port}",
            stable_2=f"127.0.0.1:{config.stable_2_port}",
            canary=f"127.0.0.1:{config.canary_port}",
            prometheus=f"127.0.0.1:{config.prometheus_port}",
            rules=_PROMETHEUS_RULES,
        )
        (folder / "prometheus.yml").write_text(text)
        arguments = [
            str(parts.prometheus(TOOLS_DIR)),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{config.prometheus_port}",
        ]
        self.supervisor.write_program("prometheus", programs.program(arguments))


def bring_up(config: Settings) -> None:
    """Start the stack for work, not for show, and let the world match the ledger again.

    Raises:
        StackError: it is up already, a port is taken, or a part is missing.
    """
    home = None if config.kafka_servers else broker.find_home(TOOLS_DIR)
    if isinstance(home, broker.Unavailable):
        raise StackError(f"{home.reason}; or name a broker with MARQUEE_KAFKA_SERVERS")
    stack = Stack(config, kafka_home=home)
    if stack.is_up():
        raise StackError(f"the stack of {config.var_dir} is up already; `make local-down` stops it")
    stack.check_ports()
    stack.start()
    broker.create_topic(config.kafka, config.kafka_topic, 1, timeout_s=_START_S)
    keep.restore(world.world(config))


def _is_supervisord(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "supervisor.supervisord" in process.cmdline()
    return False


_PUBLIC = ("nginx_port", "airflow_port")


def wait_for(what: str, is_there: Callable[[], bool], *, within_s: float = _START_S) -> None:
    """Wait until ``is_there`` says so.

    Raises:
        StackError: naming ``what`` did not come within ``within_s``.
    """
    deadline = time.monotonic() + within_s
    while not is_there():
        if time.monotonic() > deadline:
            raise StackError(
                f"waited {within_s:.0f} s for {what} in vain; see the logs in the run-time folder"
            )
        time.sleep(0.2)


def answers(url: str) -> bool:
    """Whether ``url`` answers with a success."""
    try:
        return httpx.get(url, timeout=2.0).is_success
    except httpx.HTTPError:
        return False


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        # A port in TIME_WAIT may be taken at once, as the servers do themselves.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
