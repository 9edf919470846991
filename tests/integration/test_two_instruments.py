"""Receipts and Prometheus beside each other: real NGINX, replicas, recorder, Prometheus and database."""

import resource
import time
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from pipelines.local.stack import Stack, answers, wait_for
from pipelines.records.database import connect, migrate
from pipelines.release.fleet import CANARY_REPLICA, STABLE_REPLICAS
from pipelines.release.fleet.local import LocalFleet
from pipelines.release.judge import Verdict, judge
from pipelines.release.measure import SETTLED_S, Watched, measure, read_answers
from pipelines.release.plan import Plan
from pipelines.release.prometheus import Prometheus
from pipelines.release.router import Split
from pipelines.release.world import local_nginx
from pipelines.settings import read
from tests.arms import Arm, serve
from tests.fakes import tiny_artifact
from tests.ports import free_ports
from tests.viewers import viewers

PORTS = (
    *("nginx_port", "stable_1_port", "stable_2_port", "canary_port", "shadow_port"),
    *("prometheus_port", "airflow_port", "receipts_port"),
)
PER_S = 100
SCRAPE_S = 5
BLIND_S = 22
"""So long an instrument misses everything: more than what is under way would explain."""


class Site:
    """A stack with a candidate in front of viewers, and what two instruments say of it."""

    def __init__(self, config):
        self.config = config
        self.stack = Stack(config, kafka_home=None)
        self.records = connect(config.records)
        self.prometheus = Prometheus(config.prometheus)
        self.plan = Plan.of(config)

    def start(self):
        migrate(self.config.records)
        self.stack.start(with_airflow=False)
        wait_for("Prometheus", lambda: answers(f"{self.config.prometheus}/-/ready"))
        fleet = LocalFleet(self.config, self.stack.supervisor)
        for version, arm, replicas in ((1, "stable", STABLE_REPLICAS), (2, "canary", (CANARY_REPLICA,))):
            tiny_artifact(self.config.models_dir / f"v{version}", version=version)
            for replica in replicas:
                fleet.deploy(replica, version, arm=arm)
        stable = tuple(fleet.address(replica) for replica in STABLE_REPLICAS)
        split = Split(stable, fleet.address(CANARY_REPLICA), self.plan.canary_percent)
        local_nginx(self.config).apply(split)

    def stop(self):
        self.stack.stop()
        self.records.dispose()

    def control(self, *arguments):
        self.stack.supervisor.control(*arguments)

    def look(self, since):
        """Measure and judge a watch that began at ``since``."""
        watched = Watched(version=2, previous=1, since=since)
        measured = measure(self.records, self.prometheus, watched=watched, now=datetime.now(UTC))
        return measured, judge(self.plan, measured)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    log = folder / "movielog.log"
    log.touch()
    made = Site(read(var_dir=folder, replica_workers=1, event_source="file", event_file=log, **ports))
    try:
        made.start()
        with viewers(made.config, per_second=PER_S):
            yield made
    finally:
        made.stop()


@pytest.mark.timeout(120)
def test_instruments_agree_through_a_restart_of_the_replica(site):
    since = datetime.now(UTC)
    time.sleep(3 * SCRAPE_S)
    measured, _ = site.look(since)
    canary, scraped = measured.canary, measured.scraped
    # Between two scrapes a straight line stands for the answers: a few more or less.
    assert scraped.answers == pytest.approx(canary.answers, rel=0.1)
    # Prometheus also times the writing of the receipt.
    assert scraped.mean_ms == pytest.approx(canary.time.mean, abs=1.0)
    assert (canary.wrong_version, measured.users.mixed) == (0, 0)
    site.control("restart", "replica-canary")
    time.sleep(2 * SCRAPE_S)
    measured, judgement = site.look(since)
    of_canary_per_s = measured.canary.answers / (measured.elapsed_s - SETTLED_S)
    # What the replica counted after its last scrape died with it.
    missed = measured.canary.answers - measured.scraped.answers
    assert -of_canary_per_s <= missed <= of_canary_per_s * (SCRAPE_S + 1)
    assert judgement.verdict is Verdict.UNDECIDED, judgement.reason
    assert measured.users.mixed == 0


@pytest.mark.timeout(120)
def test_stopped_recorder_is_a_broken_instrument_until_it_has_caught_up(site):
    since = datetime.now(UTC)
    site.control("stop", "recorder")
    try:
        time.sleep(BLIND_S)
        measured, judgement = site.look(since)
    finally:
        site.control("start", "recorder")
    assert measured.scraped.answers > measured.canary.answers
    assert judgement.verdict is Verdict.INSTRUMENT_BROKEN, judgement.reason
    wait_for(
        "the recorder to catch up",
        lambda: site.look(since)[1].verdict is not Verdict.INSTRUMENT_BROKEN,
        within_s=15,
    )


@pytest.mark.timeout(120)
def test_lost_receipts_are_a_broken_instrument(site):
    since = datetime.now(UTC)
    limit_files(site, 1)
    try:
        time.sleep(BLIND_S)
        measured, judgement = site.look(since)
    finally:
        limit_files(site, resource.RLIM_INFINITY)
    assert measured.canary.answers < measured.stable.answers * site.plan.canary_percent / 100
    assert judgement.verdict is Verdict.INSTRUMENT_BROKEN, judgement.reason
    assert "receipts tell of" in judgement.reason


def limit_files(site, size):
    """Let the canary's workers write so many bytes into a file; the kernel refuses more, as a full disk."""
    for process in psutil.process_iter():
        if f"127.0.0.1:{site.config.canary_port}" in environ(process).get("MARQUEE_BIND_ADDRESS", ""):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def environ(process):
    try:
        return process.environ()
    except psutil.Error:
        return {}


@pytest.mark.timeout(120)
def test_stopped_prometheus_is_a_broken_instrument(site):
    since = datetime.now(UTC)
    site.control("stop", "prometheus")
    try:
        measured, judgement = site.look(since - timedelta(seconds=30))
    finally:
        site.control("start", "prometheus")
    assert judgement.verdict is Verdict.INSTRUMENT_BROKEN
    assert "gave no answer" in judgement.reason
    assert measured.canary.answers > 0


def test_mysql_tells_the_same_as_sqlite(tmp_path, mysql_url):
    since = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
    arms = {"canary": Arm(2, mean_ms=30, failed=0.1, short=0.1), "stable": Arm(1)}
    told = []
    for url in (f"sqlite:///{tmp_path / 'records.db'}", mysql_url):
        migrate(url)
        engine = connect(url)
        serve(engine, since=since, seconds=60, **arms)
        told.append(read_answers(engine, since=since, until=since + timedelta(seconds=60), split=True))
        engine.dispose()
    ours, theirs = told
    assert len(ours) == len(theirs) == 600
    for name in ("at_s", "user", "version", "canary", "status", "below", "listed"):
        assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()
    # It keeps six digits.
    assert ours.latency_ms.tolist() == pytest.approx(theirs.latency_ms.tolist(), rel=1e-5)
