"""docker-compose.yaml is taken without a word by the oldest and the newest Compose that people have."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from pipelines.settings import PROJECT_DIR

DEBIANS_COMPOSE = b"""
FROM debian:trixie-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends docker-compose >/dev/null
ENTRYPOINT ["/usr/libexec/docker/cli-plugins/docker-compose"]
"""
PROFILES = ("--profile", "*")


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("compose") / ".env"
    subprocess.run(
        [PROJECT_DIR / "docker" / "make-env", file], check=True, cwd=PROJECT_DIR, capture_output=True
    )
    return file


@pytest.fixture(scope="module")
def compose_2_26(docker_engine: docker.APIClient) -> Iterator[str]:
    """Image with the Compose of Debian 13."""
    tag = "marquee-test-compose:2.26"
    build = ["docker", "build", "--quiet", "--tag", tag, "-"]
    subprocess.run(build, input=DEBIANS_COMPOSE, check=True, capture_output=True, timeout=280)
    yield tag
    docker_engine.remove_image(tag, force=True)


def assert_clean(command: list[str], **options: object) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_this_machines_compose_takes_it(docker_engine: docker.APIClient, env_file: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MARQUEE_")}
    compose = ["docker", "compose", "--env-file", str(env_file), *PROFILES]
    assert_clean([*compose, "config", "--quiet"], cwd=PROJECT_DIR, env=env)


def test_compose_2_26_takes_it(compose_2_26: str, env_file: Path) -> None:
    mounts = [
        "-v",
        f"{PROJECT_DIR / 'docker-compose.yaml'}:/w/docker-compose.yaml:ro",
        "-v",
        f"{env_file}:/w/.env:ro",
    ]
    run = ["docker", "run", "--rm", "--network", "none", *mounts, "-w", "/w", compose_2_26]
    version = subprocess.run([*run, "version", "--short"], capture_output=True, text=True, check=True).stdout
    assert version.startswith("2.26")
    assert_clean([*run, *PROFILES, "config", "--quiet"])
