from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Thread
from types import SimpleNamespace

import pytest
from sqlalchemy import insert
from werkzeug.serving import make_server

from pipelines.fault import Fault
from pipelines.model.artifact import load
from pipelines.records.tables import reccom
from pipelines.release import preflight
from pipelines.release.faults import broken
from pipelines.release.figures import GOOD
from pipelines.release.findings import Answer, Request, findings_of, trouble
from pipelines.release.fleet import SHADOW_REPLICA
from pipelines.release.plan import Plan
from pipelines.release.preflight import requests_of, tried
from pipelines.settings import read
from serving import create_app
from tests.fakes import tiny_artifact

PLAN = Plan.of(read())
EVEN = (*(f"m{movie:02}" for movie in range(2, 40, 2)), "m01")
"""What user "1" of the tiny artifact gets; "m00" has been seen."""
ODD = (*(f"m{movie:02}" for movie in range(3, 40, 2)), "m00")
LATELY = tuple(f"m{movie:02}" for movie in range(20))
ONES = Request("1", EVEN, source="personal")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tiny_artifact(tmp_path_factory.mktemp("model") / "v7"))


def test_the_latest_requests_of_the_stable_version_are_tried(world, model, monkeypatch):
    monkeypatch.setattr(type(world.ledger), "stable", lambda self: 6)
    begin = datetime(2026, 11, 22, tzinfo=UTC).replace(tzinfo=None)
    rows = [
        {
            "served_at": begin + timedelta(seconds=number),
            "request_id": f"r{number}",
            "replica": "stable-1",
            "version_number": 6 if number != 3 else 5,
            "user_id": f"u{number}",
            "arm": "stable",
            "source": "personal",
            "movie_ids": "m01,m02",
            "watched": "m03",
            "latency_ms": 1.0,
            "status": 200,
            "canary_percent": 0 if number != 4 else None,
        }
        for number in range(6)
    ]
    with world.records.begin() as connection:
        connection.execute(insert(reccom), rows)
    asked = requests_of(world, model, replace(PLAN, preflight_requests=3))
    assert [request.user_id for request in asked[:3]] == ["u5", "u2", "u1"]
    assert asked[0] == Request("u5", ("m01", "m02"), ("m03",), "personal")
    assert {request.user_id for request in asked[3:]} == set(preflight._STRANGERS)


def test_first_version_is_tried_with_users_of_its_training_and_strangers(world, model):
    asked = [request.user_id for request in requests_of(world, model, PLAN)]
    assert asked == ["1", "2", *preflight._STRANGERS]


class Nothing:
    def append(self, receipt):
        return True


@pytest.fixture
def answering(model, monkeypatch):
    """The production app with a fault, behind a real port: yields host:port."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)

    @contextmanager
    def serve(fault=Fault.NONE, delay_s=0.0):
        app = create_app(model, version=7, arm="shadow", replica="shadow", receipts=Nothing())
        server = make_server("127.0.0.1", 0, broken(app, fault, delay_s=delay_s), threaded=True)
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    return serve


REQUESTS = [ONES, Request("2", ODD, source="personal"), Request("a/b ü?", LATELY, source="trending")] * 10


def test_every_request_is_answered_over_http(answering, model):
    with answering() as address:
        findings = tried(address, model, PLAN, REQUESTS)
    assert trouble(PLAN, findings) == ""
    assert (findings.answers, findings.strangers, findings.overlap) == (30, 10, 1.0)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.ERRORING, "answers failed; the limit is 0.0%"),
        (Fault.POPULAR, "which that user has seen"),
        (Fault.STALE, "answered by version '6'"),
        (Fault.WRONG_IDS, "'no+such+movie+0+1900', which the version does not know"),
        (Fault.SHORT, "gets 3 distinct movies, 20 were wanted"),
        (Fault.SLOW, "p99 of the response times is"),
    ],
)
def test_every_known_fault_is_found(fault, reason, answering, model):
    plan = replace(PLAN, max_preflight_p99_ms=20.0)
    with answering(fault, delay_s=0.05) as address:
        findings = tried(address, model, plan, REQUESTS)
    assert reason in trouble(plan, findings)


def test_what_is_broken_whatever_else_comes_is_not_asked_to_the_end(answering, model):
    with answering(Fault.SLOW, delay_s=0.05) as address:
        findings = tried(address, model, replace(PLAN, max_preflight_p99_ms=20.0), REQUESTS * 10)
    # More than 1 % of 300 are too slow after 4; each of the threads may have one more on its way.
    assert findings.answers <= 4 + preflight._AT_A_TIME


def test_a_candidate_that_nobody_reaches_has_failed(model):
    findings = tried("127.0.0.1:1", model, PLAN, REQUESTS)
    assert "answers failed" in trouble(PLAN, findings)


def test_a_candidate_runs_as_the_shadow_and_leaves_nothing_behind(world, model, monkeypatch):
    tiny_artifact(world.models_dir / "v7")
    during = []
    sound = findings_of(model, [Answer(ONES, GOOD, 1.0, "7", "personal", EVEN)], requests=1, seconds=1.0)
    monkeypatch.setattr(preflight, "tried", lambda *_: during.append(dict(world.fleet.replicas)) or sound)
    went = preflight.preflight(world, SimpleNamespace(version=7, plan=PLAN))
    assert (went.trouble, went.told[:19]) == ("", "1 of 1 requests in ")
    assert during[0][SHADOW_REPLICA].version == 7
    assert world.fleet.replicas == {}


def test_a_damaged_artifact_is_refused_without_a_replica(world):
    folder = tiny_artifact(world.models_dir / "v7")
    release = SimpleNamespace(version=7, plan=PLAN)
    next(folder.glob("neighbour*.npy")).unlink()
    assert str(folder) in preflight.preflight(world, release).trouble
    tiny_artifact(folder, version=6)
    assert "says version 6, 7 was wanted" in preflight.preflight(world, release).trouble
    assert world.fleet.deployed == []
