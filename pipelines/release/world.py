"""What a release touches, and how it is made from the settings: the one place that says which parts this
machine has."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from sqlalchemy import Engine

from pipelines.errors import FleetError
from pipelines.model.registry import Registry
from pipelines.records.database import connect, migrate
from pipelines.release.fleet import Fleet
from pipelines.release.fleet.local import LocalFleet
from pipelines.release.fleet.supervisor import Supervisor
from pipelines.release.ledger import Ledger
from pipelines.release.prometheus import Prometheus
from pipelines.release.router import Router
from pipelines.release.router.local import LocalNginx, find_nginx
from pipelines.settings import FleetKind, Settings

if TYPE_CHECKING:
    from docker import APIClient

_LOCK_TIMEOUT_S = 600
# Longer than a container may take to stop.
_DOCKER_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class World:
    """Everything a release touches."""

    ledger: Ledger
    fleet: Fleet
    router: Router
    registry: Registry
    prometheus: Prometheus
    records: Engine
    """The records database: receipts beside the ledger."""
    models_dir: Path
    shadow_spool_dir: Path
    """Where a shadow leaves its receipts: they are not answers that anybody got."""
    look_here: str
    """Where a person finds releases, for alerts; a release that a run carries out has a page of its own."""

    def converging(self, patience_s: float = _LOCK_TIMEOUT_S) -> FileLock:
        """Return the lock that keeps two steps from moving the same replicas at once."""
        return converging(self.models_dir, patience_s)


def converging(models_dir: Path, patience_s: float = _LOCK_TIMEOUT_S) -> FileLock:
    """Return the lock of `World.converging` for who cannot have the rest, as while the database is away."""
    models_dir.mkdir(parents=True, exist_ok=True)
    return FileLock(models_dir / ".release.lock", timeout=patience_s)


def supervisor(config: Settings) -> Supervisor:
    """Return the supervisord of the one-machine stack."""
    return Supervisor(config.var_dir / "supervisor", config.var_dir / "logs")


def local_nginx(config: Settings) -> LocalNginx:
    """Return the NGINX of the one-machine stack."""
    return LocalNginx(
        find_nginx(),
        config.var_dir / "nginx",
        listen=f"{config.bind}:{config.nginx_port}",
        max_requests_per_s=config.max_requests_per_s,
    )


def registry(config: Settings) -> Registry:
    """Return the registry of versions."""
    return Registry(
        config.registry, git_remote=config.registry_git_remote, dvc_remote=config.registry_dvc_remote
    )


def records(config: Settings) -> Engine:
    """Return the records database with its tables up to date; one engine for a process."""
    return _records(config.records)


def ledger(config: Settings) -> Ledger:
    """Return the ledger."""
    return Ledger(records(config))


def world(config: Settings, docker: "Callable[[], APIClient] | None" = None) -> World:
    """Return what releases touch: programs of this machine, or containers behind ``docker``.

    ``docker``: makes the client, when somebody else knows how; by default that of ``config.docker_host``. It
    is called when something is to be deployed: a watch only measures, and runs where there is no Docker.
    """
    fleet, router = _local(config) if config.fleet is FleetKind.LOCAL else _containers(config, docker)
    return World(
        ledger=ledger(config),
        fleet=fleet,
        router=router,
        registry=registry(config),
        prometheus=Prometheus(config.prometheus),
        records=records(config),
        models_dir=config.models_dir,
        shadow_spool_dir=config.shadow_spool_dir,
        look_here=f"{config.airflow_url}/dags/release, or `python -m pipelines status`",
    )


def _local(config: Settings) -> tuple[Fleet, Router]:
    return LocalFleet(config, supervisor(config)), local_nginx(config)


def _containers(config: Settings, docker: "Callable[[], APIClient] | None") -> tuple[Fleet, Router]:
    # Only who has containers needs what these need.
    from pipelines.release.fleet.docker import DockerFleet
    from pipelines.release.router.docker import DockerNginx

    client = cache(docker or partial(_docker, config.docker_host))
    nginx = DockerNginx(
        client,
        config.nginx_dir or config.var_dir / "nginx",
        status_at=config.nginx_status_at.split(","),
        project=config.compose_project,
        max_requests_per_s=config.max_requests_per_s,
    )
    return DockerFleet(config, client), nginx


@cache
def _docker(host: str) -> "APIClient":
    from docker import APIClient
    from docker.errors import DockerException

    try:
        return APIClient(host, timeout=_DOCKER_TIMEOUT_S)
    except DockerException as error:
        raise FleetError(
            f"Docker at {host} does not answer: {error}; see `docker compose ps` and "
            "`docker compose logs gate`, or set MARQUEE_DOCKER_HOST"
        ) from error


# A watch asks for its world thousands of times.
@cache
def _records(url: str) -> Engine:
    migrate(url)
    return connect(url)
