"""docker/README.md says of every service, port, volume, network and secret what docker-compose.yaml says."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from gate import policy as gate

from pipelines.release.router.docker import SERVICES as SERVICES_OF_NGINX
from pipelines.settings import PROJECT_DIR, Settings

DOCKER = PROJECT_DIR / "docker"
README = (DOCKER / "README.md").read_text()
COMPOSE = yaml.safe_load((PROJECT_DIR / "docker-compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SECRETS = re.findall(r"^(MARQUEE_\w+)=$", (DOCKER / "env.example").read_text(), re.MULTILINE)


def rows(heading: str) -> Iterator[list[str]]:
    """Yield the cells of the rows of tables below a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    for line in re.findall(r"^\| (?:`|MARQ|\d)[^\n]+\|$", section, re.MULTILINE):
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def quoted(cell: str) -> set[str]:
    return set(re.findall("`([^`]+)`", cell))


TOLD = {cells[0].strip("`"): cells for cells in rows("Services")}


def test_every_service_is_told_of_and_no_other():
    assert list(TOLD) == list(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_image_networks_and_volumes_of_a_service_are_told(name):
    service = SERVICES[name]
    _, image, _, networks, volumes, why = TOLD[name]
    assert image.strip("`") == service["image"]
    assert networks == ", ".join(service.get("networks") or [service["network_mode"]])
    assert quoted(volumes) == set(service.get("volumes") or [])
    assert why


@pytest.mark.parametrize("name", SERVICES)
def test_the_user_of_a_service_is_told(name):
    told, service = TOLD[name][2], SERVICES[name]
    assert told == (service.get("user") or user_of_image(service["image"]))


def user_of_image(image: str) -> str:
    """Return the last USER of the stage that an image of ours is built of; root where there is none."""
    (build,) = [each["build"] for each in SERVICES.values() if each["image"] == image and "build" in each]
    build = {"context": build} if isinstance(build, str) else build
    dockerfile = PROJECT_DIR / build["context"] / build.get("dockerfile", "Dockerfile")
    stages = re.split(r"^FROM ", dockerfile.read_text(), flags=re.MULTILINE)[1:]
    wanted = build.get("target")
    (stage,) = [each for each in stages if re.match(rf"\S+ AS {wanted}\n", each)] if wanted else stages[-1:]
    return ([*re.findall(r"^USER (\S+)$", stage, re.MULTILINE)] or ["0:0"])[-1]


def test_root_runs_nothing_that_viewers_reach():
    root = {name for name, cells in TOLD.items() if cells[2].startswith(("0", "root"))}
    assert root == {"gate", "cadvisor"}


def test_every_published_port_is_told_and_bound_to_loopback():
    published = {(name, port) for name, each in SERVICES.items() for port in each.get("ports", [])}
    assert {name for name, _ in published} == {"door", "airflow-apiserver"}
    assert all(port.startswith("${MARQUEE_BIND:-127.0.0.1}:") for _, port in published)
    told = {(quoted(cells[1]).pop(), cells[0]) for cells in rows("Ports") if "MARQUEE_" in cells[0]}
    settings = {(name, re.findall(r"\{(MARQUEE_\w+_PORT):-(\d+)", port)[0]) for name, port in published}
    assert told == {(name, f"`{setting}` ({default})") for name, (setting, default) in settings}


def test_every_port_inside_belongs_to_a_service():
    inside = [quoted(cells[1]) for cells in rows("Ports") if "MARQUEE_" not in cells[0]]
    assert set().union(*inside) <= set(SERVICES)


def test_every_volume_and_network_is_told_of():
    assert {cells[0].strip("`") for cells in rows("Volumes")} == set(COMPOSE["volumes"])
    assert {cells[0].strip("`") for cells in rows("Networks")} == set(COMPOSE["networks"])


def test_who_gets_a_secret_is_told():
    told = {cells[0].strip("`"): quoted(cells[1]) for cells in rows("Secrets") if len(cells) == 3}
    assert list(told) == SECRETS
    for secret, services in told.items():
        given = {
            name
            for name, each in SERVICES.items()
            if any(f"${{{secret}" in str(value) for value in (each.get("environment") or {}).values())
        }
        assert services == given - {"env-check"}, secret


def test_only_the_gate_has_the_socket_and_only_who_deploys_reaches_it():
    with_socket = {name for name, each in SERVICES.items() if "docker.sock" in str(each.get("volumes"))}
    in_network = {name for name, each in SERVICES.items() if "docker" in each.get("networks", [])}
    assert with_socket == {"gate"}
    assert in_network == {"gate", "keeper", "airflow-scheduler", "airflow-worker"}
    assert SERVICES["gate"]["networks"] == ["docker"]
    assert COMPOSE["networks"]["docker"] == {"internal": True}


def test_the_gate_knows_the_stack():
    assert set(gate.REPLICAS) < set(SERVICES)
    assert set(gate.NGINX) < set(SERVICES)
    assert set(gate.VOLUMES) < set(COMPOSE["volumes"])
    assert set(gate.NETWORKS) < set(COMPOSE["networks"])
    placeholder = {SERVICES[replica]["image"] for replica in gate.REPLICAS}
    assert all(gate.Policy("x").knows(image) for image in placeholder)
    assert {v.split(":")[0] for r in gate.REPLICAS for v in SERVICES[r]["volumes"]} <= set(gate.VOLUMES)


def test_no_service_is_privileged_or_shares_what_is_the_hosts():
    for name, each in SERVICES.items():
        shared = {"privileged", "ipc", "cap_add", "devices", "userns_mode", "uts"} & set(each)
        assert not shared, name
        both = {each.get("network_mode", "none"), each.get("pid", "none")}
        assert both == ({"service:door"} if name in SERVICES_OF_NGINX else {"none"}), name


def test_both_nginx_are_found_where_their_deployer_and_their_gate_look():
    assert gate.NGINX == SERVICES_OF_NGINX
    addresses = COMPOSE["x-settings"]["MARQUEE_NGINX_STATUS_AT"].split(",")
    assert [address.partition(":")[0] for address in addresses] == list(SERVICES_OF_NGINX)
    assert SERVICES["door"]["networks"]["marquee"] == {"aliases": list(SERVICES_OF_NGINX)}
    asked = [part.partition("=")[2] for part in SERVICES["nginx-exporter"]["command"]]
    assert asked == [f"http://{address}/stub_status" for address in addresses]
    assert f"http://127.0.0.1:{addresses[1].partition(':')[2]}/healthz" in str(SERVICES["nginx-spare"])


ONE_MACHINE = {
    *("bind", "nginx_port", "stable_1_port", "stable_2_port", "canary_port", "shadow_port", "receipts_port"),
    *("airflow_port", "prometheus_port", "kafka_port", "kafka_controller_port"),
    *("smtp_catcher_port", "slack_catcher_port", "catcher_bind", "event_file", "replica_workers"),
}
"""Settings of the one-machine stack, or of a single service."""
FIXED = {"registry_dir", "serving_repository"}
"""What the volumes and images of docker-compose.yaml take as it is by default."""


def test_every_setting_reaches_the_containers():
    passed = set(COMPOSE["x-settings"])
    settings = {f"MARQUEE_{name.upper()}" for name in set(Settings.model_fields) - ONE_MACHINE - FIXED}
    assert settings - passed == set()
    assert passed - settings == set()
