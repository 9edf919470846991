"""Docker, where this machine has it: real containers for tests that need some."""

import docker
from docker.errors import DockerException

from pipelines.errors import MarqueeError


class NoEngine(MarqueeError):  # noqa: N818 - a reason to skip
    """This machine has no Docker engine that answers."""


def engine() -> docker.APIClient:
    """Return a client of this machine's engine.

    Raises:
        NoEngine: with the reason, for a skip.
    """
    try:
        client = docker.APIClient(timeout=120, version="auto")
        client.ping()
    except DockerException as error:
        raise NoEngine(f"no Docker engine answers: {error}; start one: .ci/engine") from error
    return client
