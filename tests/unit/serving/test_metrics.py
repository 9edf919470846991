import re

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

WHO = {"arm": "canary", "version": "7"}
TIMED = "flask_http_request_duration_seconds"


def samples(client: FlaskClient, name: str) -> dict[frozenset[tuple[str, str]], float]:
    """Return the samples of one series name by their labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    found = [sample for family in families for sample in family.samples if sample.name == name]
    return {frozenset(sample.labels.items()): sample.value for sample in found}


def labels(**more: str) -> frozenset[tuple[str, str]]:
    return frozenset({**WHO, **more}.items())


def test_answers_are_timed_by_route_arm_version_method_and_status(client: FlaskClient) -> None:
    for user_id in ("1", "2", "a/b", "x" * 1_000):
        client.get(f"/recommend/{user_id}")

    assert samples(client, f"{TIMED}_count") == {
        labels(method="GET", path="/recommend/<userid>", status="200"): 4
    }


def test_the_route_is_what_the_usual_query_asks_for(client: FlaskClient) -> None:
    client.get("/recommend/1")

    (found,) = samples(client, f"{TIMED}_count")
    assert re.fullmatch("/recommend/.*", dict(found)["path"])


def test_the_limit_of_a_release_is_a_bucket(client: FlaskClient) -> None:
    client.get("/recommend/1")

    bounds = {dict(found)["le"] for found in samples(client, f"{TIMED}_bucket")}
    assert {"0.001", "0.5", "0.6", "0.8", "2.0", "+Inf"} <= bounds


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/version", "/metrics", "/nowhere"])
def test_only_recommendations_are_timed(client: FlaskClient, path: str) -> None:
    client.get(path)

    assert samples(client, f"{TIMED}_count") == {}


def test_a_made_up_method_makes_no_series(client: FlaskClient) -> None:
    client.open("/recommend/1", method="BREW")

    assert samples(client, f"{TIMED}_count") == {}


def test_answers_are_counted_by_rung_of_the_ladder(client: FlaskClient, recents) -> None:
    recents.movies["guest"] = ("some+movie+2000",)
    for user_id in ("1", "1", "guest", "stranger", "666"):
        client.get(f"/recommend/{user_id}")

    assert samples(client, "marquee_answers_total") == {
        labels(source="personal"): 2,
        labels(source="folded-in"): 1,
        labels(source="trending"): 1,
        labels(source="popular"): 1,
    }


def test_lost_receipts_are_counted(client: FlaskClient, receipts) -> None:
    before = samples(client, "marquee_receipts_lost_total")
    receipts.full = True
    for _ in range(3):
        client.get("/recommend/1")

    assert (before, samples(client, "marquee_receipts_lost_total")) == ({labels(): 0}, {labels(): 3})


def test_what_did_not_work_beside_an_answer_is_counted(client: FlaskClient, recents) -> None:
    client.get("/recommend/666")
    recents.broken = True
    client.get("/recommend/1")

    assert samples(client, "marquee_ladder_failures_total") == {labels(): 1}
    assert samples(client, "marquee_recents_failures_total") == {labels(): 1}


def test_a_fault_of_ours_is_counted_as_a_failed_answer(client: FlaskClient, monkeypatch) -> None:
    monkeypatch.setattr(client.application.wsgi_app.answers, "answer", lambda user_id: 1 / 0)
    client.get("/recommend/1")

    assert samples(client, f"{TIMED}_count") == {
        labels(method="GET", path="/recommend/<userid>", status="500"): 1
    }
