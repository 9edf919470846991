import time

import pytest

from pipelines.errors import SettingsError
from pipelines.fault import Fault
from pipelines.release import faults
from pipelines.release.faults import broken
from serving import create_app
from tests.fakes import ToyModel, tiny_artifact


class Kept(list):
    """Receipts in a list."""

    def append(self, receipt):
        super().append(receipt)
        return True


@pytest.fixture
def naps(monkeypatch):
    """Sleeps are noted down, and the clock of the application is advanced by them."""
    taken = []
    real = time.perf_counter
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.setattr(faults.time, "sleep", taken.append)
    monkeypatch.setattr("serving.app.perf_counter", lambda: real() + sum(taken))
    return taken


@pytest.fixture
def receipts():
    return Kept()


@pytest.fixture
def client_of(naps, receipts):
    def make(fault):
        app = create_app(ToyModel(), version=7, arm="shadow", replica="shadow", receipts=receipts)
        return broken(app, fault).test_client()

    return make


def test_a_sound_replica_is_left_as_it_is(client_of, receipts):
    answer = client_of(Fault.NONE).get("/recommend/1")
    assert answer.text.split(",") == ToyModel().personal[:20]
    assert receipts[0]["version_number"] == 7


def test_the_delay_is_inside_the_latency_of_the_receipt(client_of, naps, receipts):
    client_of(Fault.SLOW).get("/recommend/1")
    assert naps == [0.7]
    assert receipts[0]["latency_ms"] >= 700


@pytest.mark.parametrize("fault", Fault)
def test_probes_are_spared(fault, client_of, naps):
    client = client_of(fault)
    for path in ("/healthz", "/readyz", "/version", "/metrics", "/nowhere"):
        client.get(path)
    assert client.get("/readyz").json["version"] == 7
    assert naps == []


def test_every_tenth_answer_of_the_erroring_one_fails(client_of, receipts):
    client = client_of(Fault.ERRORING)
    statuses = [client.get("/recommend/1").status_code for _ in range(30)]
    assert statuses == ([200] * 9 + [503]) * 3
    assert [receipt["status"] for receipt in receipts] == statuses


def test_everybody_gets_the_same_of_the_popular_one(client_of, receipts):
    client = client_of(Fault.POPULAR)
    answers = {client.get(f"/recommend/{user}").text for user in ("1", "2", "stranger")}
    assert answers == {",".join(ToyModel().lately[:20])}
    assert {receipt["source"] for receipt in receipts} == {"popular"}


def test_the_stale_one_says_the_version_before(client_of, receipts):
    answer = client_of(Fault.STALE).get("/recommend/1")
    assert (answer.headers["X-Marquee-Version"], receipts[0]["version_number"]) == ("6", 6)


def test_the_wrong_ids_are_distinct_and_of_no_movie(client_of):
    movie_ids = client_of(Fault.WRONG_IDS).get("/recommend/1").text.split(",")
    assert len(set(movie_ids)) == 20
    assert not set(movie_ids) & set(ToyModel().personal)


def test_the_short_one_gives_the_best_three(client_of):
    assert client_of(Fault.SHORT).get("/recommend/1").text.split(",") == ToyModel().personal[:3]


@pytest.fixture
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MARQUEE_MODEL_DIR", str(tiny_artifact(tmp_path / "v7")))
    monkeypatch.setenv("MARQUEE_ARM", "shadow")
    monkeypatch.setenv("MARQUEE_REPLICA", "shadow")
    monkeypatch.setenv("MARQUEE_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("MARQUEE_FAULT", "slow")
    return monkeypatch


@pytest.mark.parametrize(("given", "delay_s"), [(None, 0.7), ("50", 0.05)])
def test_the_environment_says_how_slow(given, delay_s, environment, naps):
    if given:
        environment.setenv("MARQUEE_FAULT_DELAY_MS", given)
    faults.create_app_from_env().test_client().get("/recommend/1")
    assert naps == [delay_s]


@pytest.mark.parametrize("given", ["", "fast", "-1", "0.5"])
def test_a_delay_that_is_no_number_is_refused(given, environment):
    environment.setenv("MARQUEE_FAULT_DELAY_MS", given)
    with pytest.raises(SettingsError, match="MARQUEE_FAULT_DELAY_MS"):
        faults.create_app_from_env()


@pytest.mark.parametrize("given", ["", "sloow"])
def test_an_unknown_fault_is_refused(given, environment):
    environment.setenv("MARQUEE_FAULT", given)
    with pytest.raises(SettingsError, match=r"MARQUEE_FAULT=.*wanted one of none, slow, erroring"):
        faults.create_app_from_env()
