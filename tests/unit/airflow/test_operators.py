from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import DownstreamTasksSkipped, TaskAwaitingInput

from marquee_airflow import operators
from marquee_airflow.operators import AskOperator, decided_by
from pipelines.release import steps


class Notes:
    """The XCom of one task instance."""

    map_index = -1
    id = "one"

    def __init__(self, task: BaseOperator) -> None:
        self.task = task
        self.kept: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.kept[key] = value

    def xcom_pull(self, *, task_ids: str, key: str) -> Any:
        return self.kept.get(key)


@pytest.fixture
def ask() -> AskOperator:
    with DAG("release", schedule=None):
        ends = [BaseOperator(task_id="promote"), BaseOperator(task_id="abort")]
        operator = AskOperator(task_id="ask", release_id=7, options=["promote", "abort"])
        operator >> ends
    return operator


def answered(ask: AskOperator, option: str, person: dict[str, str] | None) -> tuple[Notes, list[Any]]:
    notes = Notes(ask)
    event = {
        "chosen_options": [option],
        "params_input": {},
        "responded_at": datetime(2026, 1, 1, tzinfo=UTC),
        "responded_by_user": person,
    }
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        ask.execute_complete({"ti": notes, "task": ask}, event)
    return notes, skipped.value.tasks


def test_people_are_told_before_the_task_waits(ask, monkeypatch):
    told = []
    release = SimpleNamespace(version=3, reason="no request came")
    world = SimpleNamespace(ledger=SimpleNamespace(get={7: release}.get))
    monkeypatch.setattr(operators, "here", lambda: world)
    monkeypatch.setattr(steps, "ask", lambda world, release_id, *, announce: told.append(release_id))
    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.upsert_hitl_detail",
        lambda *, subject, body, options, **_: told.append((subject, body, options)),
    )
    with pytest.raises(TaskAwaitingInput):
        ask.execute({"task_instance": SimpleNamespace(id="one")})
    question = "Promote version 3, or take it away?"
    assert told == [7, (question, "no request came", ["promote", "abort"])]


@pytest.mark.parametrize(("option", "other"), [("promote", "abort"), ("abort", "promote")])
def test_the_other_end_is_skipped_and_the_name_is_kept(ask, option, other):
    notes, skipped = answered(ask, option, {"id": "1", "name": "Ada"})
    assert [task_id for task_id, _ in skipped] == [other]
    assert decided_by(notes) == "Ada"


def test_an_id_stands_in_for_a_missing_name(ask):
    notes, _ = answered(ask, "promote", {"id": "ada@example", "name": ""})
    assert decided_by(notes) == "ada@example"


def test_nobody_decided_where_nobody_was_asked(ask):
    assert decided_by(Notes(ask)) == ""
