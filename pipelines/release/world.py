"""From settings to the world a release touches: the one place that says which parts this machine has."""

from functools import cache

from sqlalchemy import Engine

from pipelines.model.registry import Registry
from pipelines.records.database import connect, migrate
from pipelines.release.fleet.local import LocalFleet
from pipelines.release.fleet.supervisor import Supervisor
from pipelines.release.ledger import Ledger
from pipelines.release.measure import Prometheus
from pipelines.release.router import LocalNginx, find_nginx
from pipelines.release.steps import World
from pipelines.settings import Settings


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
        models_dir=config.models_dir,
        look_here=f"{config.airflow_url}/dags/release, or `python -m pipelines status`",
    )


# A watch asks for its world thousands of times.
@cache
def _records(url: str) -> Engine:
    migrate(url)
    return connect(url)
