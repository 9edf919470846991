"""What the keeper shows Prometheus of records, spool, stream and disks; the alert rules rest on it.

Each is asked on its own, in a thread: one that is away costs its own gauges only, and holds no scrape up.
"""

import logging
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from datetime import UTC, datetime
from os import statvfs

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipelines.audit.upkeep import first_waiting
from pipelines.errors import MarqueeError
from pipelines.events.sources import Source
from pipelines.records.database import brief
from pipelines.records.recorder import shipped_bytes
from pipelines.records.spool import SpoolFile, spool_files
from pipelines.release import world
from pipelines.release.entries import State
from pipelines.release.fleet import CANARY_REPLICA, STABLE_REPLICAS
from pipelines.release.ledger import Ledger
from pipelines.retrain import source_of
from pipelines.settings import Settings

EVERY_S = 10.0
"""A source is asked at most so often, however many scrape."""
PATIENCE_S = 3.0
"""So long a scrape waits for sources; Prometheus gives up after 4 s."""

_STREAM_TIMEOUT_S = 2.0

log = logging.getLogger(__name__)

Ask = Callable[[], Iterable[Metric]]


class Gauges(Collector):
    """What records, spool, stream and disks are like; they are asked when somebody scrapes."""

    def __init__(self, config: Settings) -> None:
        """Ask the sources that ``config`` names; nothing is opened before the first scrape."""
        self._config = config
        self._stream: Source | None = None
        self._shipped: Mapping[str, int] | None = None
        self._errors: Tally[str] = Tally()
        self._lock = threading.Lock()
        asks = {"records": self._records, "spool": self._spool, "stream": self._offsets, "disks": self._disks}
        self._sources = [_Source(name, ask) for name, ask in asks.items()]

    def describe(self) -> Iterable[Metric]:
        """Say nothing, so that registering asks no source."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield what every source said that answered within `PATIENCE_S`, and how often each did not."""
        with self._lock:
            answers = {source.name: source.asked() for source in self._sources}
        wait(answers.values(), timeout=PATIENCE_S)
        for name, answer in answers.items():
            metrics = answer.result() if answer.done() else None
            self._errors[name] += metrics is None
            yield from metrics or []
        failures = CounterMetricFamily(
            "marquee_gauge_errors", "Scrapes at which a source of gauges gave no answer", labels=["source"]
        )
        for name in answers:
            failures.add_metric([name], self._errors[name])
        yield failures

    def _records(self) -> Iterator[Metric]:
        # While the database is away nothing is shipped, and what it said last stays true.
        self._shipped = shipped_bytes(world.records(self._config))
        ledger = world.ledger(self._config)
        replicas = _gauge("marquee_replica_wanted", "1: it is to run", "replica", "arm", "version")
        for labels in wanted(ledger):
            replicas.add_metric(labels, 1)
        yield replicas
        serving = _gauge("marquee_version_serving", "Version that all viewers get")
        if version := ledger.stable():
            serving.add_metric([], version)
        yield serving
        state = _gauge("marquee_release_state", "1: the state of the newest release", "state")
        for release in ledger.latest(1):
            state.add_metric([release.state], 1)
        yield state

    def _spool(self) -> Iterator[Metric]:
        files = spool_files(self._config.spool_dir)
        sizes = {file.key: _size(file) for file in files}
        yield _gauge("marquee_spool_bytes", "Bytes of all spool files", value=sum(sizes.values()))
        yield _gauge("marquee_spool_files", "Spool files", value=len(files))
        shipped = self._shipped
        if shipped is None:
            return
        waiting = sum(max(0, size - shipped.get(key, 0)) for key, size in sizes.items())
        yield _gauge("marquee_spool_waiting_bytes", "Bytes that are not in the database yet", value=waiting)
        oldest = first_waiting(files, shipped)
        age_s = (datetime.now(UTC) - oldest).total_seconds() if oldest else 0.0
        yield _gauge("marquee_spool_oldest_seconds", "Age of the oldest receipt of these", value=age_s)

    def _offsets(self) -> Iterator[Metric]:
        ends = _gauge("marquee_stream_end_offset", "One past the last event", "partition")
        try:
            if self._stream is None:
                brisk = self._config.model_copy(update={"kafka_timeout_s": _STREAM_TIMEOUT_S})
                self._stream = source_of(brisk)
            for partition in self._stream.partitions():
                _, end = self._stream.bounds(partition)
                ends.add_metric([str(partition)], end)
        except MarqueeError:
            stream, self._stream = self._stream, None
            if stream:
                stream.close()
            raise
        yield ends

    def _disks(self) -> Iterator[Metric]:
        free = _gauge("marquee_disk_free_ratio", "Share of the disk that is free", "volume")
        for volume, folder in {"state": self._config.var_dir, "spool": self._config.spool_dir}.items():
            disk = statvfs(folder)
            free.add_metric([volume], disk.f_bavail / disk.f_blocks)
        yield free


def wanted(ledger: Ledger) -> list[tuple[str, str, str]]:
    """Return replica, arm and version of each replica that is to run."""
    replicas = []
    if stable := ledger.stable():
        replicas += [(replica, "stable", str(stable)) for replica in STABLE_REPLICAS]
    release = ledger.under_way()
    if release and release.state in (State.WATCHING, State.ASKING):
        replicas.append((CANARY_REPLICA, "canary", str(release.version)))
    return replicas


class _Source:
    """Asks one source again when its latest answer is old enough, never twice at a time."""

    def __init__(self, name: str, ask: Ask) -> None:
        self.name = name
        self._ask = ask
        self._answer: Future[list[Metric] | None] | None = None
        self._asked_s = 0.0
        self._trouble = ""

    def asked(self) -> Future[list[Metric] | None]:
        """Return the answer of late, or the one that is awaited."""
        now_s = time.monotonic()
        if self._answer is None or (self._answer.done() and now_s - self._asked_s >= EVERY_S):
            answer: Future[list[Metric] | None] = Future()
            self._answer, self._asked_s = answer, now_s
            # A daemon: a database that does not answer must not hold up the end.
            threading.Thread(target=lambda: answer.set_result(self._try()), daemon=True).start()
        return self._answer

    def _try(self) -> list[Metric] | None:
        try:
            answer = list(self._ask())
        except Exception as error:  # whatever it is, the other sources' gauges are shown
            trouble = brief(error)
            if trouble != self._trouble:
                log.warning("no gauges of %s: %s; it is asked again and again", self.name, trouble)
            self._trouble = trouble
            return None
        self._trouble = ""
        return answer


def _gauge(name: str, meaning: str, *labels: str, value: float | None = None) -> GaugeMetricFamily:
    # A gauge has either a value or labels.
    return (
        GaugeMetricFamily(name, meaning, value)
        if value is not None
        else GaugeMetricFamily(name, meaning, labels=labels)
    )


def _size(file: SpoolFile) -> int:
    try:
        return file.path.stat().st_size
    except FileNotFoundError:
        return 0  # shipped and deleted since the folder was listed
