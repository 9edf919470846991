from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving import create_app
from tests.fakes import ToyModel

STRANGERS = [
    "999999999999",
    "0",
    "-1",
    "nobody",
    "",
    "/",
    "//a///b/",
    "a/b",
    "..%2f..%2fetc",
    "%zz",
    "%00",
    "%0a%0d",
    "%ff%fe",
    "%F0%9F%8E%AC",
    "١٢٣",
    "x" * 5_000,
    "1?as=json",
    " ",
]


def test_a_known_user_gets_one_plain_line_of_20_ids_best_first(client: FlaskClient, model: ToyModel) -> None:
    answer = client.get("/recommend/1")

    assert answer.status_code == 200
    assert answer.mimetype == "text/plain"
    assert answer.text == ",".join(model.personal[:20])


@pytest.mark.parametrize("user_id", STRANGERS)
def test_whatever_stands_for_the_user_gets_a_list(client: FlaskClient, model: ToyModel, user_id: str) -> None:
    answer = client.get(f"/recommend/{user_id}")

    assert answer.status_code == 200
    assert answer.text.split(",")[0] in (model.lately[0], model.personal[0])
    assert len(answer.text.split(",")) == 20


@given(user_id=st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_as_user_id_is_answered_and_remembered(client: FlaskClient, receipts, user_id: str) -> None:
    answer = client.get(f"/recommend/{quote(user_id, safe='')}")

    assert answer.status_code == 200
    assert receipts.kept[-1]["user_id"] == user_id[:255]
    assert receipts.kept[-1]["movie_ids"] == answer.text


@pytest.mark.parametrize("user_id", ["666", "full"])
def test_a_user_the_model_fails_for_gets_the_popular_list(
    client: FlaskClient, model: ToyModel, user_id: str
) -> None:
    answer = client.get(f"/recommend/{user_id}")

    assert answer.status_code == 200
    assert answer.text == ",".join(model.ever[:20])
    assert answer.headers["X-Marquee-Source"] == "popular"


def test_a_stranger_who_has_watched_something_gets_a_list_folded_in_from_it(
    client: FlaskClient, model: ToyModel, recents, receipts
) -> None:
    recents.movies["stranger"] = (model.personal[3], "unknown+", model.personal[0])

    answer = client.get("/recommend/stranger")

    assert answer.headers["X-Marquee-Source"] == "folded-in"
    assert answer.text == ",".join([*model.personal[1:3], *model.personal[4:22]])
    assert receipts.kept[0]["watched"] == f"{model.personal[3]},unknown+,{model.personal[0]}"


def test_an_answer_says_who_gave_it(client: FlaskClient) -> None:
    headers = client.get("/recommend/1").headers

    assert headers["X-Marquee-Version"] == "7"
    assert headers["X-Marquee-Arm"] == "canary"
    assert headers["X-Marquee-Source"] == "personal"


@pytest.mark.parametrize("given", ["a", "0123456789abcdef-ABC", "x" * 64])
def test_a_sane_request_id_is_kept(client: FlaskClient, receipts, given: str) -> None:
    answer = client.get("/recommend/1", headers={"X-Request-Id": given})

    assert answer.headers["X-Request-Id"] == receipts.kept[0]["request_id"] == given


@pytest.mark.parametrize("given", [None, "", "x" * 65, "a b", "a,b", "é", "../x"])
def test_any_other_request_id_is_replaced(client: FlaskClient, receipts, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given}

    first, second = (client.get("/recommend/1", headers=headers).headers["X-Request-Id"] for _ in range(2))

    assert [receipt["request_id"] for receipt in receipts.kept] == [first, second]
    assert len({first, second, given}) == 3


def test_a_receipt_holds_the_whole_answer(client: FlaskClient, receipts) -> None:
    before = datetime.now(UTC)
    answer = client.get("/recommend/1", headers={"X-Request-Id": "abc", "X-Marquee-Canary-Percent": "20"})

    (receipt,) = receipts.kept
    assert before <= datetime.fromisoformat(receipt.pop("served_at")) <= datetime.now(UTC)
    assert 0.0 < receipt.pop("latency_ms") < 60_000.0
    assert receipt == {
        "request_id": "abc",
        "version_number": 7,
        "user_id": "1",
        "arm": "canary",
        "replica": "canary",
        "source": "personal",
        "movie_ids": answer.text,
        "watched": "",
        "status": 200,
        "canary_percent": 20,
    }


@pytest.mark.parametrize(
    ("given", "kept"),
    [("0", 0), ("20", 20), ("100", 100), ("101", None), ("", None), ("-5", None), ("2_0", None), ("²", None)],
)
def test_the_split_is_remembered_if_it_is_a_percentage(
    client: FlaskClient, receipts, given: str, kept: int | None
) -> None:
    client.get("/recommend/1", headers={"X-Marquee-Canary-Percent": given})

    assert receipts.kept[0]["canary_percent"] == kept


def test_a_lost_receipt_does_not_cost_the_answer(client: FlaskClient, receipts) -> None:
    receipts.full = True

    assert client.get("/recommend/1").status_code == 200


@pytest.mark.parametrize("path", ["/recommend/1", "/recommend/666", "/healthz"])
def test_the_length_of_the_body_is_said_and_true(client: FlaskClient, path: str) -> None:
    answer = client.get(path)

    assert answer.headers.getlist("Content-Length") == [str(len(answer.data))]
    assert answer.headers.getlist("Content-Type") == ["text/plain; charset=utf-8"]


def test_head_is_answered_without_a_body(client: FlaskClient) -> None:
    answer = client.head("/recommend/1")

    assert (answer.status_code, answer.data) == (200, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
def test_other_methods_are_refused_in_plain_text(client: FlaskClient, receipts, method: str) -> None:
    answer = client.open("/recommend/1", method=method)

    assert (answer.status_code, answer.mimetype) == (405, "text/plain")
    assert set(answer.allow) == {"GET", "HEAD"}
    assert receipts.kept == []


@pytest.mark.parametrize("path", ["/", "/recommend", "/recommendations/1", "/static/x", "/readyz/"])
def test_an_unknown_path_is_404_in_plain_text(client: FlaskClient, path: str) -> None:
    answer = client.get(path)

    assert (answer.status_code, answer.mimetype, answer.text) == (404, "text/plain", "404 Not Found\n")


def test_a_fault_of_ours_is_500_in_plain_text_and_leaves_a_receipt(
    client: FlaskClient, monkeypatch, receipts
) -> None:
    monkeypatch.setattr(client.application.wsgi_app.answers, "answer", lambda user_id: 1 / 0)

    answer = client.get("/recommend/1")

    assert (answer.status_code, answer.text) == (500, "500 Internal Server Error\n")
    (kept,) = receipts.kept
    assert (kept["status"], kept["movie_ids"], kept["source"], kept["user_id"]) == (500, "", "none", "1")
    assert answer.headers["X-Request-Id"] == kept["request_id"]


def test_healthz_says_that_the_process_lives_even_without_a_model(
    client: FlaskClient, model: ToyModel
) -> None:
    model.healthy = False

    assert client.get("/healthz").status_code == 200


def test_readyz_says_who_is_ready(client: FlaskClient) -> None:
    answer = client.get("/readyz")

    assert answer.status_code == 200
    assert answer.json == {"version": 7, "arm": "canary", "replica": "canary", "ready": True}


def test_readyz_is_503_while_the_model_cannot_recommend(client: FlaskClient, model: ToyModel) -> None:
    model.healthy = False
    broken = client.get("/readyz")
    model.healthy = True
    mended = client.get("/readyz")

    assert broken.status_code == 503
    assert broken.json is not None
    assert broken.json["ready"] is False
    assert mended.status_code == 200


def test_a_model_that_breaks_later_still_leaves_the_popular_list(
    client: FlaskClient, model: ToyModel
) -> None:
    model.healthy = False

    answer = client.get("/recommend/1")

    assert (answer.status_code, answer.text) == (200, ",".join(model.ever[:20]))


def test_a_replica_that_never_had_a_list_sends_the_caller_to_the_next_one(
    model: ToyModel, receipts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    model.healthy = False
    app = create_app(model, version=7, arm="canary", replica="canary", receipts=receipts)

    assert app.test_client().get("/recommend/1").status_code == 503
    assert (receipts.kept[0]["status"], receipts.kept[0]["movie_ids"]) == (503, "")


def test_version_says_what_model_json_says_and_who_serves_it(client: FlaskClient) -> None:
    assert client.get("/version").json == {
        "version": 7,
        "rmse": 0.875,
        "arm": "canary",
        "replica": "canary",
    }
