import pytest
from airflow.sdk import Connection

from marquee_airflow import connections as module
from marquee_airflow.connections import DOCKER, connections, docker_hook
from pipelines.settings import FleetKind, read

NAME = "AIRFLOW_CONN_MARQUEE_DOCKER"


@pytest.mark.parametrize(
    ("settings", "known"),
    [({}, False), ({"fleet": FleetKind.DOCKER}, True), ({"train_image": "marquee-airflow"}, True)],
)
def test_docker_is_known_to_who_deploys_or_trains_in_containers(settings, known):
    assert (NAME in connections(read(_env_file=None, **settings))) == known


def test_the_docker_connection_names_the_gate():
    described = connections(read(_env_file=None, fleet=FleetKind.DOCKER))[NAME]
    connection = Connection.from_json(described, conn_id=DOCKER)
    assert (connection.conn_type, connection.host) == ("docker", "tcp://gate:2375")


def test_a_connection_of_airflows_own_wins_over_the_settings(monkeypatch):
    config = read(_env_file=None, fleet=FleetKind.DOCKER)
    monkeypatch.setattr(module, "settings", lambda: config)
    monkeypatch.setenv(NAME, '{"conn_type": "docker", "host": "tcp://elsewhere:2375"}')
    assert docker_hook()._DockerHook__base_url == ["tcp://elsewhere:2375"]
