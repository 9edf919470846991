"""Whose gate this is, and the names of all that it may touch.

The environment says whose: MARQUEE_COMPOSE_PROJECT (required), MARQUEE_SERVING_REPOSITORY, and
MARQUEE_GATE_IMAGES (comma-separated: what may be run beside the images built here).
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
TASK = "marquee.task"
"""Labels of containers: whose it is, what it is for, and that it is a training."""

REPLICAS = ("stable-1", "stable-2", "canary", "shadow")
NGINX = ("nginx", "nginx-spare")
"""Services that may be sent HUP and heard: one more NGINX is one more name here."""
VOLUMES = ("state", "spool", "recents", "shadow")
"""Named volumes of the project that may be mounted: not the databases', not Airflow's."""
NETWORKS = ("marquee",)
"""Networks of the project that may be joined: not the way out, not the way to this gate."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Whose gate this is."""

    project: str
    repository: str = "marquee-serving"
    images: tuple[str, ...] = ("python:3.13-slim-trixie", "marquee-airflow")

    @property
    def dockerfile(self) -> bytes:
        """All that a Dockerfile may say: the runtime's image puts the model in by itself."""
        return f"FROM {self.repository}:runtime\n".encode()

    @property
    def version_image(self) -> re.Pattern[str]:
        """Names of the images of versions."""
        return re.compile(rf"{re.escape(self.repository)}:v[0-9]{{1,9}}")

    def knows(self, image: str) -> bool:
        """Say whether containers may be made from the image of this name."""
        plain = (*self.images, *(f"{name}:latest" for name in self.images if ":" not in name))
        return image in plain or self.version_image.fullmatch(image) is not None


def policy_of(environment: Mapping[str, str]) -> Policy:
    """Return whose gate the environment says this is; the process ends when it does not say."""
    project = environment.get("MARQUEE_COMPOSE_PROJECT", "")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", project):
        sys.exit(f"gate: MARQUEE_COMPOSE_PROJECT={project!r}; wanted is the name of a compose project")
    given = {
        "repository": environment.get("MARQUEE_SERVING_REPOSITORY"),
        "images": tuple(filter(None, environment.get("MARQUEE_GATE_IMAGES", "").split(","))),
    }
    return Policy(project, **{name: value for name, value in given.items() if value})  # type: ignore[arg-type]
