"""The keeper: what was killed is started again, and what does not match the ledger is mended.

Docker starts again what ends by itself; after `docker kill` it does not, whatever the restart policy says.
And containers that compose makes anew (`down`, then `up -d`) keep the places of replicas without being any.

Keeps nothing: killed at any moment and started again, it looks at the world and goes on. Its two duties run
in threads of their own, so that one that is in trouble does not keep the other from its work.

What a person stopped stays stopped. `docker compose stop` of what does not end in time looks in a container's
state like a kill (exit code 137 both); Docker's events tell them apart, for the 256 latest that it remembers.
What died before that stays as it is, and the log says so. Replicas are the exception: they belong to the
ledger, and one that it wants is started whoever stopped it. So is what shares another container's network and
could not start because that one did not run yet: after a reboot Docker starts both at once, and tries once.

Nobody keeps the keeper, nor the gate through which it reaches Docker, after a `docker kill` of just these:
alerts tell of it, and `docker compose up -d` starts both.
"""

import logging
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from docker import APIClient
from docker.errors import APIError, DockerException
from filelock import Timeout
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from sqlalchemy.exc import SQLAlchemyError

from pipelines.containers.gauges import Gauges
from pipelines.errors import MarqueeError
from pipelines.records.database import brief
from pipelines.release import keep
from pipelines.release.fleet import CANARY_REPLICA, SHADOW_REPLICA, STABLE_REPLICAS
from pipelines.release.world import World, converging, world
from pipelines.settings import Settings

METRICS_PORT = 9102
KILLED = 137
"""128 + SIGKILL: what Docker calls the exit code of a process that was killed."""
SETTLED_S = 1.0
"""Age of a death at which Docker has told why; younger, and it may be a replacement under way, too."""
LONG_ENOUGH_S = 60.0
"""Who lived this long before it was killed is started at once the next time, too."""
LONGEST_PAUSE_S = 60.0

FIRST_MENDING_S = 3.0
"""After the keeper's own start: `docker compose up --wait` first looks at all containers that it has made."""

_START_EVERY_S = 2.0
_MEND_EVERY_S = 5.0
_END_WITHIN_S = 1.0
_REPLICAS = {*STABLE_REPLICAS, CANARY_REPLICA, SHADOW_REPLICA}
_PROJECT = "com.docker.compose.project"
_SERVICE = "com.docker.compose.service"

Told = Mapping[str, Any]
"""JSON as Docker answers it."""

log = logging.getLogger(__name__)

REGISTRY = CollectorRegistry()
STARTED = Counter(
    "marquee_keeper_started", "Containers that were killed and started again.", ["service"], registry=REGISTRY
)
RESTORED = Counter(
    "marquee_keeper_restored",
    "Times that replicas or split were made to match the ledger.",
    registry=REGISTRY,
)
WELL = Gauge("marquee_keeper_well", "1: this duty went well of late.", ["duty"], registry=REGISTRY)


@dataclass(frozen=True, slots=True)
class Killed:
    """A container that signal 9 ended, and that Docker does not start again."""

    container_id: str
    name: str
    service: str
    died_s: float
    """Unix time."""
    lived_s: float
    why_not: str
    """Why it stays as it is; empty: it is to be started."""
    lives_in: str = ""
    """Id of the container whose network it shares, and which has to run first; empty: it has its own."""

    @property
    def is_replica(self) -> bool:
        """Whether releases move it."""
        return self.service in _REPLICAS


def killed(inspected: Sequence[Told], events: Sequence[Told], *, now_s: float) -> list[Killed]:
    """Return who was killed, oldest death first, and who lives in another's network last; touches nothing.

    Left out are one-shots, whose restart policy is "no", containers with which a release is about to replace
    others, and deaths younger than `SETTLED_S`.

    Args:
        inspected: containers as `docker inspect` describes them.
        events: what Docker remembers of these, oldest first.
        now_s: Unix time.
    """
    found = [_killed(each, events) for each in inspected if _may_be_started(each)]
    settled = [one for one in found if now_s - one.died_s >= SETTLED_S]
    return sorted(settled, key=lambda one: (bool(one.lives_in), one.died_s))


def _may_be_started(container: Told) -> bool:
    state = container["State"]
    policy = container["HostConfig"]["RestartPolicy"]["Name"]
    is_dead = state["Status"] == "exited" and (state["ExitCode"] == KILLED or _came_too_early(container))
    return is_dead and policy not in ("", "no") and not container["Name"].endswith("-next")


def _killed(container: Told, events: Sequence[Told]) -> Killed:
    state = container["State"]
    started_s, died_s = (_unix_s(state[at]) for at in ("StartedAt", "FinishedAt"))
    own = [each["Action"] for each in events if each["Actor"]["ID"] == container["Id"]]
    since_death = own[len(own) - own[::-1].index("die") :] if "die" in own else None
    why_not = ""
    if _came_too_early(container):
        # Who stopped it before does not matter: it was to start since.
        pass
    elif since_death is None:
        why_not = "it died before what Docker remembers; `docker compose up -d` starts it"
    elif "stop" in since_death:
        why_not = "it was stopped, and did not end in time; `docker compose start` starts it"
    return Killed(
        container_id=container["Id"],
        name=container["Name"].removeprefix("/"),
        service=container["Config"]["Labels"].get(_SERVICE, ""),
        died_s=died_s,
        lived_s=died_s - started_s,
        why_not=why_not,
        lives_in=_lives_in(container),
    )


def _lives_in(container: Told) -> str:
    kind, _, owner = container["HostConfig"]["NetworkMode"].partition(":")
    return owner if kind == "container" else ""


def _came_too_early(container: Told) -> bool:
    return bool(_lives_in(container) and container["State"]["Error"])


def _unix_s(text: str) -> float:
    # Docker writes nanoseconds.
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


class Starter:
    """Starts again what was killed; one that is killed again and again has to wait longer and longer."""

    def __init__(self, config: Settings, docker: Callable[[], APIClient]) -> None:
        """Look after the containers of ``config.compose_project``."""
        self._config = config
        self._docker = docker
        self._client: APIClient | None = None
        self._in_a_row: Tally[str] = Tally()
        self._told: set[tuple[str, float]] = set()

    def look(self) -> None:
        """Look once, and start whose time has come.

        Raises:
            DockerException, RequestException: Docker does not answer.
        """
        client = self._client = self._client or self._docker()
        dead = killed(*self._asked(client), now_s=time.time())
        for one in dead:
            if one.why_not:
                self._tell_once(one)
            elif time.time() >= one.died_s + self._pause_s(one):
                self._start(client, one)

    def _asked(self, client: APIClient) -> tuple[list[Told], list[Told]]:
        filters = {"label": [f"{_PROJECT}={self._config.compose_project}"]}
        inspected: list[Told] = []
        for each in client.containers(all=True, filters=filters | {"status": ["exited"]}):
            # It may have been removed since it was listed.
            with suppress(APIError):
                if f"({KILLED})" in each["Status"] or _lives_in(each):
                    inspected.append(client.inspect_container(each["Id"]))
        if not inspected:
            return [], []
        wanted = filters | {"type": ["container"], "event": ["die", "stop"]}
        # Up to this moment: for a later one Docker would wait.
        remembered = client.events(since="0", until=f"{time.time():.9f}", filters=wanted, decode=True)
        return inspected, list(remembered)

    def _pause_s(self, one: Killed) -> float:
        if one.lived_s >= LONG_ENOUGH_S:
            del self._in_a_row[one.name]
        times = self._in_a_row[one.name]
        return min(_START_EVERY_S * 2 ** min(times, 10), LONGEST_PAUSE_S) if times else 0.0

    def _start(self, client: APIClient, one: Killed) -> None:
        try:
            if one.lives_in and not client.inspect_container(one.lives_in)["State"]["Running"]:
                return
            if one.is_replica:
                # While a release moves replicas none of them is touched.
                with converging(self._config.models_dir, patience_s=0):
                    client.start(one.container_id)
            else:
                client.start(one.container_id)
        except Timeout:
            return
        except APIError as error:
            log.error("%s was killed and cannot be started again: %s", one.name, error)
        else:
            STARTED.labels(one.service).inc()
            log.warning("%s was killed after %.0f s and is started again", one.name, one.lived_s)
        self._in_a_row[one.name] += 1

    def _tell_once(self, one: Killed) -> None:
        if (key := (one.container_id, one.died_s)) not in self._told:
            self._told.add(key)
            log.warning("%s ended with exit code %d and stays so: %s", one.name, KILLED, one.why_not)


class Mender:
    """Makes replicas and split match the ledger, unless a step of a release is at work."""

    def __init__(self, make_world: Callable[[], World]) -> None:
        """Keep what makes the world: it needs the database, which may be away."""
        self._make_world = make_world
        self._world: World | None = None

    def look(self) -> None:
        """Look once, and mend what is to be mended.

        Raises:
            MarqueeError, SQLAlchemyError: database, Docker or NGINX are away, or a replica does not start.
        """
        self._world = self._world or self._make_world()
        with suppress(Timeout):
            if keep.keep(self._world):
                RESTORED.inc()


class Duty:
    """Does one thing again and again; trouble is told when it begins and when it ends."""

    def __init__(
        self, what: str, look: Callable[[], None], *, every_s: float, patience_s: float, first_s: float = 0.0
    ) -> None:
        """Call ``look`` every ``every_s``, for the first time after ``first_s``.

        The duty is well if that went well ``patience_s`` ago or less.
        """
        self._first_s = first_s
        self._what = what
        self._look = look
        self._every_s = every_s
        self._patience_s = patience_s
        self._well_s = float("-inf")
        self._trouble = ""
        WELL.labels(what).set_function(self.is_well)

    def is_well(self) -> bool:
        """Return whether it went well of late."""
        return time.monotonic() - self._well_s <= self._patience_s

    def run(self, stop: threading.Event) -> None:
        """Go on until ``stop`` is set, whatever happens."""
        stop.wait(self._first_s)
        while not stop.is_set():
            began_s = time.monotonic()
            try:
                self._look()
            except Exception as error:  # whatever a client library raises must not end the duty
                self._tell(error)
            else:
                self._well_s = time.monotonic()
                if self._trouble:
                    log.warning("%s: goes on", self._what)
                self._trouble = ""
            # A try that takes long holds the lock that a rollback waits for: half of the time is enough.
            stop.wait(max(self._every_s, time.monotonic() - began_s))

    def _tell(self, error: Exception) -> None:
        trouble = f"{type(error).__name__}: {brief(error)}"
        if trouble != self._trouble:
            known = isinstance(error, (MarqueeError, OSError, SQLAlchemyError, DockerException))
            log.error("%s: %s; it is tried again and again", self._what, trouble, exc_info=not known)
        self._trouble = trouble


def run(config: Settings, stop: threading.Event, beat: Callable[[], None]) -> None:
    """Keep the containers until ``stop`` is set; ``beat`` is called each second that both duties are well."""
    starter = Starter(config, lambda: APIClient(config.docker_host, version="auto", timeout=30))
    mender = Mender(lambda: world(config))
    duties = [
        Duty("starting what was killed", starter.look, every_s=_START_EVERY_S, patience_s=30.0),
        # A replica may take its time to become ready, and two come one after the other.
        Duty(
            "matching the ledger",
            mender.look,
            every_s=_MEND_EVERY_S,
            patience_s=60.0 + 2 * config.ready_timeout_s,
            first_s=FIRST_MENDING_S,
        ),
    ]
    REGISTRY.register(Gauges(config))
    server, _ = start_http_server(METRICS_PORT, addr="0.0.0.0", registry=REGISTRY)
    # Daemons: what waits for a replica may be left off at any point, and must not hold up the end.
    threads = [threading.Thread(target=duty.run, args=(stop,), daemon=True) for duty in duties]
    for thread in threads:
        thread.start()
    while not stop.wait(1.0):
        if all(duty.is_well() for duty in duties):
            beat()
    server.shutdown()
    deadline = time.monotonic() + _END_WITHIN_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
