"""The fleet of the compose stack: a release makes the containers of its replicas anew, as Watchtower does.

Start first, then stop: a new container starts beside the old one under the same network alias, is waited for,
then the old one is stopped and removed and the new one takes its name. Killed anywhere in between, the next
call finds both by their labels. When the new one is ready, the old one may have been told to stop already, so
what was begun is finished; otherwise the new one is an orphan and is removed.

A replica goes on with the code that its image was made with: new code reaches viewers as a new model does,
with the next version, and a rollback brings back the code that the old version had.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from docker import APIClient
from docker.errors import APIError, DockerException
from requests import RequestException

from pipelines.errors import FleetError
from pipelines.fault import Fault
from pipelines.release.fleet import CANARY_REPLICA, SHADOW_REPLICA, STABLE_REPLICAS, Running
from pipelines.release.fleet.asking import ask, fault_of
from pipelines.release.fleet.images import Images
from pipelines.release.fleet.place import (
    Body,
    Inspected,
    body_of_placeholder,
    body_of_replica,
    kept_place,
    place_of,
)
from pipelines.settings import Settings

PORT = 8000
"""Where replicas listen, as docker/serving/Dockerfile says."""
_SHADOW_SPOOL = "/var/lib/marquee/shadow/spool"
"""Where the shadow leaves its receipts, in its container and in ours."""

_VIEWED = (CANARY_REPLICA, *STABLE_REPLICAS)
_NEXT = "-next"
_LOG_LINES = 20
_LOOK_EVERY_S = 0.1
# What a killed step had Docker do is still being done when the next one looks.
_TRIES = 5
_TRY_AGAIN_S = 1.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Container:
    """One container of a replica, or one that keeps its place."""

    about: Inspected

    @property
    def id(self) -> str:
        return str(self.about["Id"])

    @property
    def is_next(self) -> bool:
        return str(self.about["Name"]).endswith(_NEXT)

    @property
    def runs(self) -> bool:
        return bool(self.about["State"]["Running"])

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.about["Config"]["Labels"]
        return labels

    @property
    def version(self) -> int | None:
        """Version it was made for; None: it keeps a place."""
        label = self.labels.get("marquee.version") if kept_place(self.about) else None
        return int(label) if label else None

    @property
    def at(self) -> str:
        """host:port in its network; empty while it is in none, because it does not run."""
        networks = self.about["NetworkSettings"]["Networks"].values()
        return next((f"{network['IPAddress']}:{PORT}" for network in networks if network["IPAddress"]), "")

    def ask(self, name: str, address: str) -> Running:
        """Ask the replica ``name``, known as ``address``, in this container."""
        if not self.at:
            return Running(name, address, None, self.labels["marquee.arm"])
        return ask(name, address, at=self.at)


class DockerFleet:
    """Replicas in the places that compose keeps for them; see :class:`pipelines.release.fleet.Fleet`."""

    def __init__(self, config: Settings, docker: Callable[[], APIClient]) -> None:
        """Deploy into ``config.compose_project`` through ``docker``, which is called when first needed."""
        self._config = config
        self._connect = docker

    @cached_property
    def _docker(self) -> APIClient:
        return self._connect()

    @cached_property
    def _images(self) -> Images:
        return Images(self._docker, self._config.serving_repository, self._config.models_dir)

    def pack(self, version: int) -> str:
        """Build the image of ``version`` when there is none of its model; return the image's id."""
        return self._carried_out(f"pack version {version}", lambda: self._images.pack(version))

    def deploy(
        self,
        replica: str,
        version: int,
        *,
        arm: str,
        release: int | None = None,
        fault: Fault = Fault.NONE,
    ) -> None:
        """Make the replica's container anew, unless it is what is wanted; start it when it is stopped."""
        labels = {
            "marquee.replica": replica,
            "marquee.version": str(version),
            "marquee.arm": arm,
            "marquee.fault": fault_of(self._config, arm, fault),
        }
        self._carried_out(
            f"deploy version {version} as {replica}", lambda: self._deploy(replica, version, labels, release)
        )

    def remove(self, replica: str) -> None:
        """Put back the container that keeps the replica's place."""
        self._carried_out(f"remove {replica}", lambda: self._remove(replica))

    def running(self) -> dict[str, Running]:
        """Ask every replica that has been deployed."""
        asked = self._carried_out("ask the replicas", lambda: {name: self._ask(name) for name in _VIEWED})
        return {name: running for name, running in sorted(asked.items()) if running}

    def address(self, replica: str) -> str:
        """Return the replica's name in the stack's network: whichever container has it."""
        places = (*STABLE_REPLICAS, CANARY_REPLICA, SHADOW_REPLICA)
        if replica not in places:
            raise FleetError(f"no replica is named {replica!r}; there are {', '.join(places)}")
        return f"{replica}:{PORT}"

    def _deploy(self, name: str, version: int, labels: dict[str, str], release: int | None) -> None:
        image_id = self._images.pack(version)
        old = self._settled(name)
        if old is None:
            raise FleetError(
                f"no container of the project {self._config.compose_project} keeps the place of {name}; "
                "make it with `docker compose up -d`"
            )
        if old.about["Image"] == image_id and labels.items() <= old.labels.items():
            if not old.runs:
                self._docker.start(old.id)
            self._wait_ready(name, version, old.id, restarts=old.about["RestartCount"])
            return
        place = kept_place(old.about) or place_of(old.about, self._docker.inspect_image(old.about["Image"]))
        env = {key.upper().replace(".", "_"): labels[key] for key in _TOLD}
        if name == SHADOW_REPLICA:
            env["MARQUEE_SPOOL_DIR"] = _SHADOW_SPOOL
        labels = labels | ({"marquee.release": str(release)} if release else {})
        body = body_of_replica(place, old.about, image=self._images.tag(version), env=env, labels=labels)
        self._replace(name, old, body, lambda new_id: self._wait_ready(name, version, new_id))

    def _remove(self, name: str) -> None:
        old = self._settled(name)
        if old and (place := kept_place(old.about)):
            self._replace(name, old, body_of_placeholder(place, old.about))

    def _replace(
        self, name: str, old: _Container, body: Body, wait: Callable[[str], None] = lambda new_id: None
    ) -> None:
        new_id = self._docker.create_container_from_config(body, self._name(name) + _NEXT)["Id"]
        try:
            self._docker.start(new_id)
            wait(new_id)
        except Exception:
            # Whatever was wrong with it: the old one goes on.
            self._docker.remove_container(new_id, force=True)
            raise
        self._take_over(name, old, new_id)

    def _take_over(self, name: str, old: _Container, new_id: str) -> None:
        self._docker.stop(old.id)
        self._docker.remove_container(old.id)
        self._docker.rename(new_id, self._name(name))

    def _settled(self, name: str) -> _Container | None:
        """Return the one container of a replica, after finishing or undoing what a killed step had begun."""
        containers = self._containers(name)
        old = next((each for each in containers if not each.is_next), None)
        for new in [each for each in containers if each.is_next]:
            if old is None:
                self._docker.rename(new.id, self._name(name))
                return new
            if self._is_ready(new):
                self._take_over(name, old, new.id)
                return new
            self._docker.remove_container(new.id, force=True)
        return old

    def _containers(self, name: str) -> list[_Container]:
        labels = {
            "com.docker.compose.project": self._config.compose_project,
            "com.docker.compose.service": name,
        }
        filters = {"label": [f"{key}={value}" for key, value in labels.items()]}
        listed = self._docker.containers(all=True, filters=filters)
        return [_Container(self._docker.inspect_container(each["Id"])) for each in listed]

    def _ask(self, name: str) -> Running | None:
        deployed = [each for each in self._containers(name) if each.version]
        # Who is next and ready comes first: the other one may have been told to stop.
        deployed.sort(key=lambda each: not each.is_next)
        answers = [each.ask(name, self.address(name)) for each in deployed]
        return next((answer for answer in answers if answer.version), answers[-1] if answers else None)

    def _is_ready(self, container: _Container) -> bool:
        if not container.runs or container.version is None:
            return container.runs
        return container.ask(container.labels["marquee.replica"], container.at).version == container.version

    def _wait_ready(self, name: str, version: int, container_id: str, *, restarts: int = 0) -> None:
        deadline = time.monotonic() + self._config.ready_timeout_s
        while True:
            container = _Container(self._docker.inspect_container(container_id))
            running = container.ask(name, self.address(name))
            if running.version == version:
                return
            if not container.runs or container.about["RestartCount"] > restarts:
                state = container.about["State"]
                observed = "was killed for want of memory" if state["OOMKilled"] else "ended"
                observed = f"{observed} (exit code {state['ExitCode']})"
            elif time.monotonic() > deadline:
                observed = f"answers {f'version {running.version}' if running.version else 'nothing'}"
            else:
                time.sleep(_LOOK_EVERY_S)
                continue
            raise FleetError(
                f"replica {name} {observed}, version {version} was wanted within "
                f"{self._config.ready_timeout_s:g} s; its last lines:\n{self._last_lines(container_id)}"
            )

    def _last_lines(self, container_id: str) -> str:
        said: bytes = self._docker.logs(container_id, tail=_LOG_LINES)
        return said.decode(errors="replace").strip() or "(it said nothing)"

    def _name(self, name: str) -> str:
        return f"{self._config.compose_project}-{name}-1"

    def _carried_out(self, what: str, step: Callable[[], _T]) -> _T:
        """Run ``step``, again when Docker was still at something that a killed step had it do.

        Raises:
            FleetError: Docker does not answer, or refuses.
        """
        with self._translated(what):
            for _ in range(_TRIES - 1):
                try:
                    return step()
                except APIError as error:
                    if error.status_code not in (404, 409):
                        raise
                    time.sleep(_TRY_AGAIN_S)
            return step()

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (DockerException, RequestException) as error:
            raise FleetError(
                f"could not {what}: Docker at {self._docker.base_url} says: {error}; "
                "see `docker compose ps` and `docker compose logs gate`"
            ) from error


_TOLD = ("marquee.replica", "marquee.arm", "marquee.fault")
"""Labels that the replica reads, too, as MARQUEE_REPLICA and so on."""
