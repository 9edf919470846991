from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from marquee_airflow import defaults
from marquee_airflow.defaults import announce_failure, outcomes, person, requested_by, run_url
from pipelines.alerts import Alert
from pipelines.errors import FleetError, Locked, NothingNew, Refused
from pipelines.settings import read

TASK = SimpleNamespace(
    dag_id="release", task_id="start_canary", run_id="manual__1", log_url="http://127.0.0.1:8080/log"
)


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[Alert]:
    alerts: list[Alert] = []
    monkeypatch.setattr(defaults, "announce", alerts.append)
    return alerts


def fail(error: Exception) -> None:
    with outcomes():
        raise error


def caught(error: Exception) -> Exception:
    with pytest.raises(Exception) as info:  # noqa: PT011 - which one is what the caller asks
        fail(error)
    return info.value


def test_nothing_new_skips_the_task_with_its_reason():
    assert isinstance(caught(NothingNew("no event has come")), AirflowSkipException)
    assert str(caught(NothingNew("no event has come"))) == "no event has come"


def test_a_refusal_fails_the_task_for_good_with_its_reason():
    assert isinstance(caught(Refused("RMSE 1.2")), AirflowFailException)
    assert str(caught(Refused("RMSE 1.2"))) == "RMSE 1.2"


def test_a_task_may_name_what_else_skips_it():
    @outcomes(Locked)
    def collect(error: Exception) -> None:
        raise error

    for answer in (Locked("process 7 is collecting"), NothingNew("no event has come")):
        with pytest.raises(AirflowSkipException, match=str(answer)):
            collect(answer)
    assert isinstance(caught(Locked("process 7 is collecting")), Locked), "elsewhere it is a fault"


def test_a_fault_stays_what_it_is_and_is_retried():
    assert isinstance(caught(FleetError("no replica")), FleetError)


def test_outcomes_is_a_decorator_that_keeps_the_name_for_the_task():
    @outcomes()
    def collect() -> int:
        return 3

    assert collect() == 3
    assert collect.__name__ == "collect"


def test_a_failure_is_announced_with_task_error_and_log(announced):
    announce_failure({"exception": FleetError("no replica"), "ti": TASK})
    (alert,) = announced
    assert alert.title == "Marquee: task start_canary of release failed"
    assert "FleetError: no replica" in alert.body
    assert "http://127.0.0.1:8080/log (run manual__1)" in alert.body


def test_a_refusal_has_announced_itself(announced):
    announce_failure({"exception": caught(Refused("RMSE 1.2")), "ti": TASK})
    assert announced == []


def test_a_task_that_failed_of_its_own_accord_is_announced(announced):
    announce_failure({"exception": AirflowFailException("gone"), "ti": TASK})
    assert len(announced) == 1


@pytest.mark.parametrize("error", [None, "killed from outside"])
def test_a_killed_task_is_announced_though_nobody_saw_an_exception(announced, error):
    announce_failure({"exception": error, "ti": TASK})
    assert (error or "no reason was given") in announced[0].body


def test_an_endless_error_is_cut(announced):
    announce_failure({"exception": ValueError("x" * 10_000), "ti": TASK})
    assert announced[0].body.count("x") < 2_000


@pytest.mark.parametrize(
    ("user", "text"), [("admin", "manual__1 by admin"), (None, "manual__1"), ("x" * 300, None)]
)
def test_who_asked_fits_the_ledger(user, text):
    said = requested_by(SimpleNamespace(run_id="manual__1", triggering_user_name=user))
    assert said.startswith("manual__1")
    assert len(said) <= 250
    assert text is None or said == text


@pytest.mark.parametrize(("user", "who"), [("ada", "ada"), (None, "manual__1")])
def test_who_steers_is_the_user_or_else_the_run(user, who):
    assert person(SimpleNamespace(run_id="manual__1", triggering_user_name=user)) == who


def test_the_link_to_a_run_survives_what_is_in_its_name(monkeypatch):
    monkeypatch.setattr(defaults, "settings", lambda: read(bind="127.0.0.1", airflow_port=8123))
    run = SimpleNamespace(dag_id="release", run_id="manual__2026-01-01T00:00:00+00:00")
    link = "http://127.0.0.1:8123/dags/release/runs/manual__2026-01-01T00%3A00%3A00%2B00%3A00"
    assert run_url(run) == link
