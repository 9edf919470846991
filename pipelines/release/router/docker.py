"""Both NGINX of the compose stack: told through Docker to read a file in a volume that they share with us."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import httpx
from docker import APIClient
from docker.errors import APIError, DockerException
from requests import RequestException

from pipelines.errors import RouterError
from pipelines.release.router import Split
from pipelines.release.router.configuration import Configuration, Place, render
from pipelines.release.router.nginx import Nginx

SERVICES = ("nginx", "nginx-spare")
"""Two that answer on one port, so that viewers meet the other when one is killed."""
_PLACE = Place(
    listens=("8082", "unix:/tmp/itself.sock"),
    # At the port either of them would answer.
    itself="unix:/tmp/itself.sock:",
    failures="/dev/stdout",
    # Docker's own, in every network of a compose project.
    resolver="127.0.0.11",
)
_NOT_RUNNING = (404, 409)


class DockerNginx(Nginx):
    """The containers of the compose services `SERVICES`, which include ``split.conf`` from a volume."""

    def __init__(
        self,
        docker: Callable[[], APIClient],
        nginx_dir: Path,
        *,
        status_at: Sequence[str],
        project: str,
        max_requests_per_s: int = 0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Steer both NGINX of ``project``, whose volume is our ``nginx_dir``; ``docker`` makes the client."""
        log = f"`docker compose logs {' '.join(SERVICES)}`"
        super().__init__(nginx_dir / "split.conf", status_at=status_at, log=log, transport=transport)
        self._connect = docker
        self._labels = [f"com.docker.compose.project={project}"]
        self._place = replace(_PLACE, max_requests_per_s=max_requests_per_s)
        self._told_at_s = 0.0

    @cached_property
    def _docker(self) -> APIClient:
        return self._connect()

    def _render(self, split: Split) -> Configuration:
        return render(split, self._place)

    def _reload(self) -> bool:
        # What it has said of earlier ones is older.
        self._told_at_s = time.time()
        told = [self._told(container) for container in self._running()]
        return any(told)

    def _check(self, candidate: Path) -> None:
        # Nothing may be run in its container; NGINX tests what it is to read by itself.
        pass

    def _refusal(self) -> str:
        said = "\n".join(self._said(container) for container in self._running())
        return "; ".join(line for line in said.splitlines() if "[emerg]" in line)

    def _running(self) -> list[str]:
        with self._translated("find"):
            found = self._docker.containers(filters={"label": self._labels})
        return [each["Id"] for each in found if each["Labels"].get("com.docker.compose.service") in SERVICES]

    def _told(self, container: str) -> bool:
        with self._translated("reload"):
            try:
                # Only where the image names another signal to stop and restarts `always`: for Docker, whoever
                # gets a signal has been stopped by hand, and `unless-stopped` would leave it dead.
                self._docker.kill(container, "HUP")
            except APIError as error:
                # It has died meanwhile, and reads the file when it starts.
                if error.status_code not in _NOT_RUNNING:
                    raise
                return False
        return True

    def _said(self, container: str) -> str:
        with self._translated("read the log of"):
            said: bytes = self._docker.logs(container, stdout=False, since=self._told_at_s)
        return said.decode(errors="replace")

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (DockerException, RequestException) as error:
            raise RouterError(
                f"could not {what} NGINX: Docker at {self._docker.base_url} says: {error}; "
                "see `docker compose ps` and `docker compose logs gate`"
            ) from error
