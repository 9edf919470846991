"""The training in a container of its own: one that runs away takes neither scheduler nor replicas with it."""

from functools import cached_property
from typing import Any

from airflow.providers.docker.hooks.docker import DockerHook
from airflow.providers.docker.operators.docker import DockerOperator, fetch_logs
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException
from docker.errors import NotFound
from docker.types import LogConfig, Mount

from marquee_airflow.connections import DOCKER, docker_hook
from marquee_airflow.defaults import outcomes
from pipelines.errors import ModelError, NothingNew, Refused
from pipelines.settings import Settings, environment, settings

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
TASK = "marquee.task"
RUN = "marquee.run"
"""Labels of a training: how what a killed task has left behind is found, and what the gate looks at.

The service is empty, for otherwise it is the one for which compose has built the image.
"""
USER = "10001:10001"
_CPU_PERIOD_US = 100_000
_LAST_LINES = 3


class TrainOperator(DockerOperator):
    """Run ``python -m pipelines train --run`` of this run in a container; returns the metrics.

    There is one training at a time. What an attempt that was killed has left behind is removed first; the
    step itself may be run again. The end of the container means what the end of the task would: data that
    are refused fail it without a retry, nothing new skips it. A training that the kernel has killed for its
    memory fails without a retry, too: with the same data it would only be killed again.
    """

    def __init__(self, **kwargs: Any) -> None:
        config = settings()
        super().__init__(
            image=config.train_image,
            command=["python", "-m", "pipelines", "train", "--run", "{{ run_id }}"],
            container_name=f"{config.compose_project}-train",
            docker_conn_id=DOCKER,
            mount_tmp_dir=False,
            **kwargs,
        )

    @cached_property
    def hook(self) -> DockerHook:
        """Return the hook to the Docker of the connection; the provider's takes it for a registry."""
        return docker_hook()

    def execute(self, context: Context) -> Any:
        """Train, with the container's output in the log of the task."""
        from pipelines import retrain

        config, run_id = settings(), context["run_id"]
        self._clear(config)
        # The provider's own way of making a container knows no read-only root and no limit of processors.
        self.container = self.cli.create_container(
            self.image,
            self.command,
            name=self.container_name,
            user=USER,
            # Not an argument of the operator: it holds passwords, and nobody needs them in the UI.
            environment=environment(config),
            labels={PROJECT: config.compose_project, SERVICE: "", TASK: "train", RUN: run_id},
            host_config=self._confined(config),
        )
        try:
            lines, state = self._follow(self.container["Id"])
        finally:
            self._remove(self.container["Id"])
            self.cli.close()
        with outcomes():
            _judge(state, lines, config)
        return retrain.trained(config, run_id=run_id)

    def _follow(self, container: str) -> tuple[list[str], dict[str, Any]]:
        """Start it and log what it says; returns that, and the state it ended in."""
        self.cli.start(container)
        lines = fetch_logs(self.cli.logs(container, stream=True, follow=True), self.log)
        self.cli.wait(container)
        return lines, self.cli.inspect_container(container)["State"]

    def _clear(self, config: Settings) -> None:
        labels = [f"{PROJECT}={config.compose_project}", f"{TASK}=train"]
        for left in self.cli.containers(all=True, filters={"label": labels}):
            self.log.warning(
                "removing container %s: an attempt that was killed has left it behind (%s, of run %s)",
                *(left["Id"][:12], left["Status"], left["Labels"].get(RUN)),
            )
            self._remove(left["Id"])

    def _remove(self, container: str) -> None:
        try:
            self.cli.remove_container(container, force=True, v=True)
        except NotFound:
            self.log.info("container %s is gone already", container[:12])

    def _confined(self, config: Settings) -> Any:
        """Return the limits: nothing to write to but state and /tmp, no rights, no swap, viewers first."""
        memory = f"{config.train_memory_mb}m"
        return self.cli.create_host_config(
            mounts=[Mount(str(config.var_dir), f"{config.compose_project}_state", type="volume")],
            network_mode=f"{config.compose_project}_marquee",
            mem_limit=memory,
            memswap_limit=memory,
            oom_score_adj=500,
            # Not as a number of processors, which Docker refuses when the machine has fewer.
            cpu_period=_CPU_PERIOD_US,
            cpu_quota=round(config.train_cpus * _CPU_PERIOD_US),
            cpu_shares=256,
            pids_limit=512,
            read_only=True,
            tmpfs={"/tmp": "mode=1777,size=1g"},  # noqa: S108 - its own
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            init=True,
            log_config=LogConfig(config={"max-size": "10m", "max-file": "3"}),
        )


def _judge(state: dict[str, Any], lines: list[str], config: Settings) -> None:
    """Raise what the end of a training means, unless it is done."""
    from pipelines.commands.shell import Exit

    code, said = state["ExitCode"], " | ".join(lines[-_LAST_LINES:]) or "it said nothing"
    if state["OOMKilled"]:
        raise AirflowFailException(
            f"the training took more than MARQUEE_TRAIN_MEMORY_MB={config.train_memory_mb} allows and was "
            "killed for it; raise the setting if the machine has more memory, then clear this task"
        )
    match code:
        case Exit.OK:
            return
        case Exit.REFUSED:
            raise Refused(said)
        case Exit.NOTHING_NEW:
            raise NothingNew(said)
    raise ModelError(f"the container of the training ended with exit status {code}: {said}")
