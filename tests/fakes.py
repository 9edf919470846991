"""Small stand-ins that share the real interfaces; nothing outside tests imports them."""

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
from docker.errors import APIError
from sqlalchemy import Engine, select

from pipelines.errors import FleetError
from pipelines.fault import Fault
from pipelines.model.arrays import Arrays
from pipelines.model.artifact import save
from pipelines.model.ids import id_table
from pipelines.model.recommender import Recommendation
from pipelines.records.tables import reccom
from pipelines.release.fleet import SHADOW_REPLICA, Running
from pipelines.release.router import Split, fingerprint


class Killed(BaseException):
    """Stands for kill -9: no handler for errors may catch it."""


@dataclass
class FakeFleet:
    """Replicas that are ready at once; ``broken`` versions never are."""

    replicas: dict[str, Running] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)
    deployed: list[tuple[str, int]] = field(default_factory=list)
    """Every real change, in order."""
    faults: list[Fault] = field(default_factory=list)
    """What the shadows had wrong, in order."""
    releases: dict[str, int | None] = field(default_factory=dict)
    """What each replica was deployed for, at last."""
    kill_after: int | None = None
    """Number of changes after which the process dies."""

    def pack(self, version: int) -> str:
        return f"sha256:{version:064}"

    def deploy(
        self, replica: str, version: int, *, arm: str, release: int | None = None, fault: Fault = Fault.NONE
    ) -> None:
        self.releases[replica] = release
        if replica == SHADOW_REPLICA:
            self.faults.append(fault)
        if version in self.broken:
            raise FleetError(f"replica {replica} never became ready with version {version}")
        wanted = Running(replica, self.address(replica), version, arm)
        if self.replicas.get(replica) != wanted:
            if self.kill_after is not None and len(self.deployed) >= self.kill_after:
                raise Killed
            self.replicas[replica] = wanted
            self.deployed.append((replica, version))

    def remove(self, replica: str) -> None:
        self.replicas.pop(replica, None)

    def running(self) -> dict[str, Running]:
        return {name: running for name, running in self.replicas.items() if name != SHADOW_REPLICA}

    def address(self, replica: str) -> str:
        return f"{replica}:80"

    def versions(self) -> dict[str, int | None]:
        return {name: running.version for name, running in self.replicas.items()}


@dataclass
class FakeRouter:
    """Remembers every split it was given."""

    splits: list[Split] = field(default_factory=list)

    def apply(self, split: Split) -> None:
        self.splits.append(split)

    def current(self) -> str:
        return fingerprint(self.splits[-1]) if self.splits else ""


@dataclass
class FakeNginx:
    """Both NGINX, as Docker and their status pages show them; they read ``file`` when they get a HUP."""

    file: Path
    running: set[str] = field(default_factory=lambda: {"nginx", "nginx-spare"})
    """Who runs, by service."""
    deaf: str = ""
    """Who runs and takes no signal."""
    rejected: int = 0
    """HTTP status with which Docker answers who sends the signal; 0: it arrives."""
    refuses: str = ""
    """What they say of configurations with this in them, instead of following them."""
    signals: list[str] = field(default_factory=list)
    """As ``HUP to nginx``."""
    old_workers_answer: int = 0
    """How many of the next questions old workers answer, after a first one by the new."""
    base_url: str = "http://docker.test"
    _follows: dict[str, str] = field(default_factory=dict)
    _before: dict[str, str] = field(default_factory=dict)
    _asked: Counter[str] = field(default_factory=Counter)
    _log: list[tuple[float, str]] = field(default_factory=list)

    def containers(self, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
        assert filters["label"] == ["com.docker.compose.project=test"]
        services = {service: {"com.docker.compose.service": service} for service in ("mysql", *self.running)}
        return [{"Id": service, "Labels": labels} for service, labels in services.items()]

    def start(self, service: str) -> None:
        self.running.add(service)
        self._follows[service] = self.file.read_text()

    def kill(self, service: str, signal: str) -> None:
        if self.rejected:
            answer = SimpleNamespace(status_code=self.rejected, url=self.base_url, reason="no")
            raise APIError("not running", response=answer)
        self.signals.append(f"{signal} to {service}")
        text = self.file.read_text()
        if self.refuses and self.refuses in text:
            self._log.append((time.time(), f"[emerg] 1#1: invalid {self.refuses}"))
        elif service != self.deaf:
            self._before[service], self._follows[service] = self._follows.get(service, ""), text
            self._asked[service] = 0

    def logs(self, container: str, *, stdout: bool, since: float) -> bytes:
        return "\n".join(line for at_s, line in self._log if at_s >= since).encode()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer as the status page of the one that is asked."""
        service = request.url.host
        if service not in self.running:
            raise httpx.ConnectError("refused", request=request)
        self._asked[service] += 1
        is_old = 1 < self._asked[service] <= 1 + self.old_workers_answer
        text = (self._before if is_old else self._follows).get(service, "")
        digest = re.search(r'Configuration "(\w+)"', text)
        if not digest:
            return httpx.Response(502)
        said = re.search(r'return 200 "(canary=.*)\\n"', text)
        return httpx.Response(200, text=said[1], headers={"X-Marquee-Configuration": digest[1]})


@dataclass
class FakeRegistry:
    """Versions without git: ``known`` exist, ``notes`` are what became of them, ``tags`` say which had it."""

    known: list[int] = field(default_factory=lambda: [1, 2, 3])
    notes: dict[int, str] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)

    def versions(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(number=number) for number in self.known]

    def export(self, version: int, models_dir: Path) -> Path:
        folder = models_dir / f"v{version}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def annotate(self, version: int, text: str) -> None:
        self.notes[version] = text

    def tag(self, name: str, version: int, text: str) -> None:
        self.tags.setdefault(name, version)

    def push(self) -> str:
        return ""


@dataclass
class FakePrometheus:
    """Has counted every answer that left a receipt in ``engine``, scraped every 5 s."""

    engine: Engine
    missed: float = 0.0
    """Share of the answers that it has not counted."""
    up: float | None = 1.0
    """None: it has not tried to scrape the replicas."""
    up_for_s: float = 25.0
    """So long it has had to say ``up``."""
    stable_up: float = 1.0
    """The same of the stable replicas, where `up` is the candidate's."""
    stable_up_for_s: float = 25.0
    """So long ago stable began to be so; before, it was down."""
    dead: bool = False
    """It refuses connections."""
    queries: list[str] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.dead:
            raise httpx.ConnectError("refused")
        query, at_s = request.url.params["query"], float(request.url.params["time"])
        self.queries.append(query)
        result = self._ups(at_s) if "up{" in query else self._counters(query, at_s)
        return httpx.Response(200, json={"status": "success", "data": {"result": result}})

    def _ups(self, at_s: float) -> list[dict]:
        if self.up is None:
            return []
        times_s = [at_s - self.up_for_s + step * self.up_for_s / 5 for step in range(6)]
        stable = [self.stable_up if at_s - each_s <= self.stable_up_for_s else 0.0 for each_s in times_s]
        values = {"canary": [self.up] * 6, "stable": stable}
        return [
            {
                "metric": {"arm": arm},
                "values": [[at, str(value)] for at, value in zip(times_s, of, strict=True)],
            }
            for arm, of in values.items()
        ]

    def _counters(self, query: str, at_s: float) -> list[dict]:
        wanted = dict(re.findall(r'(arm|version)="(\w+)"', query))
        (range_s,) = re.findall(r"\[(\d+)s\]", query)
        columns = {"version": reccom.c.version_number, "arm": reccom.c.arm}
        rows = (
            select(reccom.c.served_at, reccom.c.status, reccom.c.latency_ms)
            .where(*(columns[label] == value for label, value in wanted.items()))
            .order_by(reccom.c.served_at)
        )
        with self.engine.connect() as connection:
            found = connection.execute(rows).all()
        times_s = np.array([row.served_at.replace(tzinfo=UTC).timestamp() for row in found])
        scrapes_s = np.arange(at_s - at_s % 5, at_s - int(range_s), -5)[::-1]
        series = []
        for status in {row.status for row in found}:
            own = np.array([row.status == status for row in found])
            seconds = np.array([row.latency_ms / 1_000 for row in found])[own]
            seen = np.searchsorted(times_s[own], scrapes_s, side="right")
            scraped = seen > 0
            for what, totals in (("count", np.arange(len(seconds) + 1)), ("sum", np.cumsum([0, *seconds]))):
                values = totals[seen[scraped]] * (1 - self.missed)
                name = {"__name__": f"flask_http_request_duration_seconds_{what}", "status": str(status)}
                samples = zip(scrapes_s[scraped].tolist(), map(str, values.tolist()), strict=True)
                series.append({"metric": name, "values": list(samples)})
        return [one for one in series if one["values"]]


class ToyModel:
    """A model for serving: user "1" has a taste, "666" breaks it, "full" has seen everything."""

    version = 7
    n_users = 3
    n_movies = 30

    def __init__(self) -> None:
        self.meta = {"version": self.version, "rmse": 0.875}
        self.personal = [f"personal+{rank:02}+2001" for rank in range(self.n_movies)]
        self.lately = [f"lately+{rank:02}+2024" for rank in range(self.n_movies)]
        self.ever = [f"ever+{rank:02}+1999" for rank in range(self.n_movies)]
        self.healthy = True

    def recommend(self, user_id: str, k: int = 20, watched: Sequence[str] = ()) -> Recommendation:
        if user_id == "666" or not self.healthy:
            raise FloatingPointError("no taste at all")
        if user_id == "full":
            return Recommendation([], "personal")
        if user_id == "1" or watched:
            unseen = [movie for movie in self.personal if movie not in watched]
            return Recommendation(unseen[:k], "personal" if user_id == "1" else "folded-in")
        return Recommendation(self.lately[:k], "trending")

    def popular(self, user_id: str, k: int = 20) -> Recommendation:
        return Recommendation(self.ever[:k], "popular")


def tiny_artifact(folder: Path, *, version: int | None = 7) -> Path:
    """Write a real artifact of 2 users and 40 movies into ``folder`` and return it.

    Movies are named ``m00`` to ``m39``, most popular first. User "1" has seen ``m00`` and likes even
    numbers, user "2" has seen ``m01`` and likes odd ones.
    """
    user_ids, user_order = id_table(["1", "2"])
    movie_ids, movie_order = id_table(f"m{row:02}" for row in range(40))
    arrays = Arrays(
        user_ids=user_ids,
        user_order=user_order,
        user_lists=np.array([[*range(2, 40, 2), 1], [*range(3, 40, 2), 0]], dtype=np.int32),
        movie_ids=movie_ids,
        movie_order=movie_order,
        trending=np.arange(40, dtype=np.int32),
        seen_indptr=np.array([0, 1, 2], dtype=np.int64),
        seen_indices=np.array([0, 1], dtype=np.int32),
        seen_weights=np.ones(2, dtype=np.float32),
        neighbour_indptr=np.array([0, 19, *[38] * 40], dtype=np.int64),
        neighbour_indices=np.array([*range(2, 40, 2), *range(3, 40, 2)], dtype=np.int32),
        neighbour_weights=np.full(38, 0.5, dtype=np.float32),
        svd_user_bias=np.zeros(2, dtype=np.float32),
        svd_user_factors=np.zeros((2, 2), dtype=np.float32),
        svd_movie_bias=np.zeros(40, dtype=np.float32),
        svd_movie_factors=np.zeros((40, 2), dtype=np.float32),
    )
    save(folder, arrays, {"version": version, "scale": [1.0, 5.0], "mean": 3.0, "rmse": 0.875})
    return folder
