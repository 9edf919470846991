import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from pipelines.errors import StackError
from pipelines.local import airflow_api
from pipelines.local.airflow_api import AirflowApi

HEALTHY = {
    part: {"status": "healthy"} for part in ("metadatabase", "scheduler", "triggerer", "dag_processor")
}


class Airflow:
    """Answers as Airflow does; ``answers`` maps method and path to JSON, a list of it, or a status code."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.bodies: list[Any] = []
        self.valid_token = "token-1"
        self.logins: list[Any] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            self.logins.append(json.loads(request.content))
            return httpx.Response(201, json={"access_token": self.valid_token})
        if request.headers["Authorization"] != f"Bearer {self.valid_token}":
            return httpx.Response(401, json={"detail": "Token Expired"})
        key = f"{request.method} {request.url.raw_path.decode()}"
        self.asked.append(key)
        self.bodies.append(json.loads(request.content or b"null"))
        return self._answer(self.answers.get(key, 404))

    def _answer(self, answer: Any) -> httpx.Response:
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        return httpx.Response(answer) if isinstance(answer, int) else httpx.Response(200, json=answer)


@pytest.fixture
def airflow() -> Airflow:
    return Airflow()


@pytest.fixture
def api(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> Iterator[AirflowApi]:
    monkeypatch.setattr(airflow_api, "_PAUSE_S", 0)
    client = AirflowApi("http://airflow", "admin", "secret", transport=httpx.MockTransport(airflow))
    yield client
    client.close()


def test_it_logs_in_once_and_keeps_the_token(api, airflow):
    airflow.answers["GET /api/v2/dags/retrain/dagRuns/one"] = {"state": "running"}
    assert [api.run_state("retrain", "one") for _ in range(3)] == ["running"] * 3
    assert airflow.logins == [{"username": "admin", "password": "secret"}]


def test_it_logs_in_again_when_the_token_has_expired(api, airflow):
    airflow.answers["GET /api/v2/dags/retrain/dagRuns/one"] = {"state": "success"}
    api.run_state("retrain", "one")
    airflow.valid_token = "token-2"
    assert api.run_state("retrain", "one") == "success"
    assert len(airflow.logins) == 2


def test_a_run_is_started_with_its_params(api, airflow):
    airflow.answers["POST /api/v2/dags/release/dagRuns"] = {"dag_run_id": "manual__1"}
    assert api.trigger("release", {"version": 3}) == "manual__1"
    assert airflow.bodies == [{"logical_date": None, "conf": {"version": 3}}]


def test_the_latest_run_is_none_before_the_first(api, airflow):
    key = "GET /api/v2/dags/release/dagRuns?order_by=-run_after&limit=1"
    airflow.answers[key] = [{"dag_runs": []}, {"dag_runs": [{"dag_run_id": "manual__1"}]}]
    assert api.latest_run("release") is None
    assert api.latest_run("release") == "manual__1"


def test_a_run_id_is_quoted_in_the_address(api, airflow):
    key = "GET /api/v2/dags/retrain/dagRuns/manual__2026-01-01T00%3A00%3A00%2B00%3A00/taskInstances"
    tasks = [{"task_id": "collect", "state": "success"}, {"task_id": "train", "state": None}]
    airflow.answers[key] = {"task_instances": tasks}
    states = api.task_states("retrain", "manual__2026-01-01T00:00:00+00:00")
    assert states == {"collect": "success", "train": "none"}


def test_a_dag_is_switched_on(api, airflow):
    airflow.answers["PATCH /api/v2/dags/retrain"] = {}
    api.unpause("retrain")
    assert airflow.bodies == [{"is_paused": False}]


def test_a_question_is_answered(api, airflow):
    airflow.answers["PATCH /api/v2/dags/release/dagRuns/one/taskInstances/ask/-1/hitlDetails"] = {}
    api.respond("release", "one", "ask", "promote", params={"why": "sound"})
    assert airflow.bodies == [{"chosen_options": ["promote"], "params_input": {"why": "sound"}}]


def test_a_run_is_waited_for(api, airflow):
    airflow.answers["GET /api/v2/dags/retrain/dagRuns/one"] = [
        {"state": "queued"},
        {"state": "running"},
        {"state": "failed"},
    ]
    assert api.wait_run("retrain", "one", timeout_s=60) == "failed"


def test_a_task_is_waited_for(api, airflow):
    key = "GET /api/v2/dags/release/dagRuns/one/taskInstances"
    airflow.answers[key] = [
        {"task_instances": []},
        {"task_instances": [{"task_id": "ask", "state": "awaiting_input"}]},
    ]
    assert api.wait_task("release", "one", "ask", {"awaiting_input"}, timeout_s=60) == "awaiting_input"


def test_waiting_ends_and_says_what_was_seen_last(api, airflow):
    airflow.answers["GET /api/v2/dags/retrain/dagRuns/one"] = {"state": "queued"}
    with pytest.raises(StackError, match="run one of retrain: still 'queued' after 0 s"):
        api.wait_run("retrain", "one", timeout_s=0)


def test_airflow_is_ready_once_all_parts_and_dags_are_there(api, airflow):
    airflow.answers |= {
        "GET /api/v2/monitor/health": [{**HEALTHY, "triggerer": {"status": None}}, HEALTHY],
        "GET /execution/health": {"status": "healthy"},
        "GET /api/v2/dags?limit=100": [{"dags": []}, {"dags": [{"dag_id": "retrain"}]}],
    }
    api.wait_healthy(60, dag_ids=["retrain"])
    assert airflow.asked.count("GET /api/v2/monitor/health") == 2


def test_readiness_names_what_is_missing(api, airflow):
    airflow.answers |= {
        "GET /api/v2/monitor/health": {**HEALTHY, "scheduler": {"status": "unhealthy"}},
        "GET /execution/health": {"status": "healthy"},
        "GET /api/v2/dags?limit=100": {"dags": []},
    }
    with pytest.raises(StackError, match="still 'scheduler, DAG retrain' after 0 s"):
        api.wait_healthy(0, dag_ids=["retrain"])


def test_a_log_is_read_line_by_line(api, airflow):
    key = "GET /api/v2/dags/retrain/dagRuns/one/taskInstances/gate/logs/1?full_content=true"
    error = {"exc_type": "Refused", "exc_value": "RMSE 1.2"}
    airflow.answers[key] = {
        "content": [
            "plain",
            {"event": "Skipping task.", "reason": "no event has come"},
            {"event": "Task failed", "error_detail": [error]},
        ]
    }
    assert api.log("retrain", "one", "gate").splitlines() == [
        "plain",
        "Skipping task. no event has come",
        "Task failed Refused: RMSE 1.2",
    ]


def test_a_refusal_carries_what_airflow_said(api):
    with pytest.raises(StackError, match="Airflow refused PATCH /dags/nosuch: 404"):
        api.unpause("nosuch")


@pytest.mark.parametrize(
    "answer",
    [httpx.ConnectError("refused"), httpx.ReadTimeout("silent"), httpx.Response(200, text="<html>")],
)
def test_no_answer_and_no_json_are_both_no_answer(answer):
    def dead(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, httpx.Response):
            return httpx.Response(201, json={"access_token": "t"}) if "auth" in request.url.path else answer
        raise answer

    api = AirflowApi("http://airflow", "admin", "secret", transport=httpx.MockTransport(dead))
    with pytest.raises(StackError, match="Airflow did not answer GET"):
        api.run_state("retrain", "one")
    api.close()


def test_a_wrong_password_is_a_refusal(airflow):
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(401, json={"detail": "Invalid credentials"})

    api = AirflowApi("http://airflow", "admin", "wrong", transport=httpx.MockTransport(refuse))
    with pytest.raises(StackError, match=r"401.*Invalid credentials"):
        api.run_state("retrain", "one")
    api.close()
