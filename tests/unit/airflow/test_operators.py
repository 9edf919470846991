from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException, ParamValidationError, TaskDeferred

from marquee_airflow import operators
from marquee_airflow.forms import hours, why
from marquee_airflow.operators import AskOperator, SteerOperator
from marquee_airflow.triggers import Question
from pipelines.errors import ReleaseError
from pipelines.release import by_hand, steps

ANSWERS = {"promote now": "approve", "extend": "extend", "take away": "abort"}
AT = datetime(2026, 1, 1, tzinfo=UTC)
CONTEXT: Any = {"ti": SimpleNamespace(id="one")}


class World:
    """A ledger with one release; what was told, asked and done, in order."""

    def __init__(self) -> None:
        self.release = SimpleNamespace(release_id=7, version=3, reason=None, state="watching")
        self.ledger = SimpleNamespace(get={7: self.release}.get)
        self.seen: list[Any] = []

    def intervene(self, world: Any, release_id: int, what: str, **said: Any) -> None:
        assert world is self
        self.seen.append((release_id, what, said))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    here = World()
    monkeypatch.setattr(operators, "here", lambda: here)
    monkeypatch.setattr(by_hand, "intervene", here.intervene)
    monkeypatch.setattr(steps, "ask", lambda world, release_id, announce: here.seen.append("told"))
    monkeypatch.setattr(operators, "upsert_hitl_detail", lambda **question: here.seen.append(question))
    return here


def steering() -> SteerOperator:
    with DAG("release", schedule=None):
        return SteerOperator(
            task_id="steer",
            release_id=7,
            state="watching",
            subject="promote it?",
            body="You need not answer.",
            answers=ANSWERS,
            params={"why": why(), "hours": hours()},
        )


def asking() -> AskOperator:
    with DAG("release", schedule=None):
        return AskOperator(
            task_id="ask",
            release_id=7,
            state="asking",
            subject="promote it, or take it away?",
            body="No verdict.",
            answers={"promote": "approve", "take away": "abort"},
            params={"why": why()},
        )


def event(option: str, person: dict[str, str] | None = None, **form: Any) -> dict[str, Any]:
    return {
        "chosen_options": [option],
        "params_input": form,
        "responded_at": AT,
        "responded_by_user": person or {"id": "1", "name": "Ada"},
    }


def test_a_question_is_put_while_the_release_is_watched(world):
    with pytest.raises(TaskDeferred) as deferred:
        steering().execute(CONTEXT)
    (question,) = world.seen
    assert question["subject"] == "Version 3: promote it?"
    assert question["body"] == "You need not answer."
    assert question["options"] == ["promote now", "extend", "take away"]
    assert list(question["params"]) == ["why", "hours"]
    trigger = deferred.value.trigger
    assert isinstance(trigger, Question)
    assert (trigger.release_id, trigger.state, trigger.ti_id) == (7, "watching", "one")
    assert deferred.value.method_name == "execute_complete"
    assert deferred.value.timeout is None


@pytest.mark.parametrize("state", ["promoting", "asking", "aborted"])
def test_nothing_is_asked_once_the_watch_is_over(world, state):
    world.release.state = state
    with pytest.raises(AirflowSkipException, match=f"release 7 is {state}"):
        steering().execute(CONTEXT)
    assert world.seen == []


def test_people_are_told_before_the_task_waits_for_their_decision(world):
    world.release.state, world.release.reason = "asking", "no request came"
    with pytest.raises(TaskDeferred):
        asking().execute(CONTEXT)
    told, question = world.seen
    assert told == "told"
    assert question["body"] == "No verdict.\n\nObserved: no request came"
    assert list(question["params"]) == ["why"], "a watch that has ended has no window to extend"


@pytest.mark.parametrize(("option", "what"), [("promote now", "approve"), ("take away", "abort")])
def test_an_answer_goes_into_the_ledger_with_who_and_why(world, option, what):
    steering().execute_complete(CONTEXT, event(option, why="I know it", hours=2))
    said = {"who": "Ada", "why": "I know it", "seconds": 7_200, "request": f"one {AT}"}
    assert world.seen == [(7, what, said)]


def test_an_answer_without_the_form_takes_its_defaults(world):
    with pytest.raises(TaskDeferred):
        steering().execute_complete(CONTEXT, event("extend"))
    _, what, said = world.seen[0]
    assert (what, said["why"], said["seconds"]) == ("extend", "", 3_600)


def test_after_an_extension_the_question_is_put_again(world):
    with pytest.raises(TaskDeferred) as deferred:
        steering().execute_complete(CONTEXT, event("extend", why="too few", hours=0.5))
    (_, what, said), question = world.seen
    assert (what, said["seconds"]) == ("extend", 1_800)
    assert question["options"] == list(ANSWERS)
    assert isinstance(deferred.value.trigger, Question)


@pytest.mark.parametrize("hours", [0, -1, 169, "two"])
def test_hours_that_make_no_sense_change_nothing(world, hours):
    with pytest.raises(ParamValidationError):
        steering().execute_complete(CONTEXT, event("extend", why="", hours=hours))
    assert world.seen == []


def test_an_answer_that_comes_too_late_is_skipped_and_says_so(world, monkeypatch):
    def too_late(*_: Any, **__: Any) -> None:
        raise ReleaseError("release 7 is promoting and cannot become aborting")

    monkeypatch.setattr(by_hand, "intervene", too_late)
    with pytest.raises(AirflowSkipException, match="release 7 is promoting"):
        steering().execute_complete(CONTEXT, event("take away", why="", hours=1))


@pytest.mark.parametrize(
    ("person", "who"),
    [({"id": "ada@example", "name": ""}, "ada@example"), ({"id": "", "name": ""}, "somebody")],
)
def test_an_id_stands_in_for_a_missing_name(world, person, who):
    world.release.state = "asking"
    asking().execute_complete(CONTEXT, event("promote", person))
    assert world.seen[0][2]["who"] == who
