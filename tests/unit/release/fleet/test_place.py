import json

import pytest

from pipelines.release.fleet import place

ID = "6a3e34be392b" + "0" * 52
IMAGE = {"Config": {"Env": ["PATH=/bin"], "Labels": {"maker": "somebody"}, "Cmd": ["python3"], "User": ""}}
NETWORKS = {"p_marquee": {"Aliases": ["p-canary-1", "canary", ID[:12]], "IPAddress": "172.28.0.5"}}
COMPOSE = {"com.docker.compose.service": "canary", "com.docker.compose.config-hash": "abc"}


@pytest.fixture
def keeper():
    """A container that compose has made to keep a place."""
    config = {
        "Hostname": ID[:12],
        "Image": "python:3.13-slim-trixie",
        "Cmd": ["sleep", "infinity"],
        "Entrypoint": None,
        "Env": ["MARQUEE_REPLICA_WORKERS=2", "PATH=/bin"],
        "Labels": COMPOSE | {"maker": "somebody"},
        "User": "10001:10001",
        "StopTimeout": 15,
    }
    host = {"Memory": 2**29, "NetworkMode": "p_marquee", "ReadonlyRootfs": True}
    return {"Id": ID, "Config": config, "HostConfig": host, "NetworkSettings": {"Networks": NETWORKS}}


def made(keeper):
    kept = place.place_of(keeper, IMAGE)
    env, labels = {"MARQUEE_ARM": "canary"}, {"marquee.version": "2"}
    return place.body_of_replica(kept, keeper, image="marquee-serving:v2", env=env, labels=labels)


def test_a_place_is_what_compose_gave_and_nothing_of_the_image_or_of_docker(keeper):
    assert place.place_of(keeper, IMAGE) == {
        "Image": "python:3.13-slim-trixie",
        "Cmd": ["sleep", "infinity"],
        "Env": ["MARQUEE_REPLICA_WORKERS=2"],
        "Labels": COMPOSE,
        "User": "10001:10001",
        "StopTimeout": 15,
    }


def test_a_replica_has_its_own_program_and_everything_else_of_its_place(keeper):
    body = made(keeper)
    assert body["Image"] == "marquee-serving:v2"
    assert not {"Cmd", "Entrypoint", "Hostname", "Healthcheck"} & body.keys()
    assert body["Env"] == ["MARQUEE_REPLICA_WORKERS=2", "MARQUEE_ARM=canary"]
    assert body["HostConfig"] == keeper["HostConfig"]
    assert body["NetworkingConfig"] == {
        "EndpointsConfig": {"p_marquee": {"Aliases": ["p-canary-1", "canary"]}}
    }
    assert body["Labels"].items() >= (COMPOSE | {"marquee.version": "2"}).items()


def test_a_replica_remembers_its_place_for_the_next_and_for_the_end(keeper):
    kept = place.place_of(keeper, IMAGE)
    replica = keeper | {"Config": made(keeper)}
    assert place.kept_place(keeper) is None
    assert place.kept_place(replica) == kept
    restored = place.body_of_placeholder(kept, replica)
    assert restored.items() >= kept.items()
    assert place.LABEL not in json.dumps(restored)
