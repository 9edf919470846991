"""The Airflow connections that the settings describe, for as long as Airflow itself does not know them."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipelines.settings import FleetKind, Settings, settings

if TYPE_CHECKING:
    from airflow.providers.docker.hooks.docker import DockerHook

SLACK = "marquee_slack"
SMTP = "marquee_smtp"
DOCKER = "marquee_docker"
TIMEOUT_S = 10
"""How long Slack and mail server may take."""
_SMTPS_PORT = 465


def connections(config: Settings) -> dict[str, str]:
    """Return the environment variables that define the connections.

    What is not configured has none. The values are connections as JSON, secrets included.
    """
    described = {SLACK: _slack(config), SMTP: _smtp(config), DOCKER: _docker(config)}
    return {variable(name): json.dumps(connection) for name, connection in described.items() if connection}


def variable(connection: str) -> str:
    """Return the name of the environment variable that defines ``connection``."""
    return f"AIRFLOW_CONN_{connection.upper()}"


@contextmanager
def defined(variables: Mapping[str, str]) -> Iterator[None]:
    """Define connections for as long as they are used, unless the environment has them already."""
    missing = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def docker_hook() -> "DockerHook":
    """Return the provider's hook to what the connection ``marquee_docker`` names: Docker, or its gate."""
    from airflow.providers.docker.hooks.docker import DockerHook

    # It stays defined: nothing in it is secret, and watches ask for it from many threads at once.
    name = variable(DOCKER)
    os.environ.setdefault(name, connections(settings())[name])
    # The hook takes a connection of its own for the login at a registry, and nothing is pulled here.
    return DockerHook(docker_conn_id=None, base_url=DockerHook.get_connection(DOCKER).host)


def _slack(config: Settings) -> dict[str, object]:
    url = config.slack_webhook_url.get_secret_value()
    # The whole address is the secret; given as password it is taken as it is, and masked in logs.
    return {"conn_type": "slackwebhook", "password": url} if url else {}


def _smtp(config: Settings) -> dict[str, object]:
    if not config.smtp_host:
        return {}
    encrypted_from_the_start = config.smtp_tls and config.smtp_port == _SMTPS_PORT
    return {
        "conn_type": "smtp",
        "host": config.smtp_host,
        "port": config.smtp_port,
        "login": config.smtp_user,
        "password": config.smtp_password.get_secret_value(),
        "extra": {
            "from_email": config.mail_from,
            "disable_ssl": not encrypted_from_the_start,
            "disable_tls": encrypted_from_the_start or not config.smtp_tls,
            "timeout": TIMEOUT_S,
            "retry_limit": 0,
        },
    }


def _docker(config: Settings) -> dict[str, object]:
    needed = config.fleet is FleetKind.DOCKER or config.train_image
    return {"conn_type": "docker", "host": config.docker_host} if needed else {}
