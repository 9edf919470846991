import pytest

from pipelines.errors import FleetError
from pipelines.release import world as parts
from pipelines.release.fleet.docker import DockerFleet
from pipelines.release.fleet.local import LocalFleet
from pipelines.release.router.docker import DockerNginx
from pipelines.release.router.local import LocalNginx
from pipelines.settings import read
from tests.ports import free_ports


def unreachable():
    raise AssertionError("a watch runs where Docker cannot be reached")


@pytest.mark.parametrize(
    ("kind", "fleet", "router"),
    [("local", LocalFleet, LocalNginx), ("docker", DockerFleet, DockerNginx)],
)
def test_the_settings_say_what_the_replicas_are(monkeypatch, records, tmp_path, kind, fleet, router):
    monkeypatch.setattr(parts, "records", lambda config: records)
    made = parts.world(read(var_dir=tmp_path, fleet=kind), docker=unreachable)
    assert (type(made.fleet), type(made.router)) == (fleet, router)


def test_a_docker_that_does_not_answer_is_told_with_where_to_look(monkeypatch, records, tmp_path):
    monkeypatch.setattr(parts, "records", lambda config: records)
    (port,) = free_ports(1)
    made = parts.world(read(var_dir=tmp_path, fleet="docker", docker_host=f"tcp://127.0.0.1:{port}"))
    with pytest.raises(FleetError, match=r"does not answer: .*`docker compose logs gate`"):
        made.fleet.remove("canary")
