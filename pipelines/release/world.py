"""What a release touches, and how it is made from the settings: the one place that says which parts this
machine has."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock
from sqlalchemy import Engine

from pipelines.model.registry import Registry
from pipelines.records.database import connect, migrate
from pipelines.release.fleet import Fleet
from pipelines.release.fleet.local import LocalFleet
from pipelines.release.fleet.supervisor import Supervisor
from pipelines.release.ledger import Ledger
from pipelines.release.measure import Prometheus
from pipelines.release.router import LocalNginx, Router, find_nginx
from pipelines.settings import Settings

_LOCK_TIMEOUT_S = 600


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

    def converging(self) -> FileLock:
        """Return the lock that keeps two steps from moving the same replicas at once."""
        self.models_dir.mkdir(parents=True, exist_ok=True)
        return FileLock(self.models_dir / ".release.lock", timeout=_LOCK_TIMEOUT_S)


def supervisor(config: Settings) -> Supervisor:
    """Return the supervisord of the one-machine stack."""
    return Supervisor(config.var_dir / "supervisor", config.var_dir / "logs")


def local_nginx(config: Settings) -> LocalNginx:
    """Return the NGINX of the one-machine stack."""
    return LocalNginx(find_nginx(), config.var_dir / "nginx", listen=f"{config.bind}:{config.nginx_port}")


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


def world(config: Settings) -> World:
    """Return what releases touch on this machine."""
    return World(
        ledger=ledger(config),
        fleet=LocalFleet(config, supervisor(config)),
        router=local_nginx(config),
        registry=registry(config),
        prometheus=Prometheus(config.prometheus),
        records=records(config),
        models_dir=config.models_dir,
        shadow_spool_dir=config.shadow_spool_dir,
        look_here=f"{config.airflow_url}/dags/release, or `python -m pipelines status`",
    )


# A watch asks for its world thousands of times.
@cache
def _records(url: str) -> Engine:
    migrate(url)
    return connect(url)
