import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.triggers.base import TaskSkippedEvent, TaskSuccessEvent, TriggerEvent

from marquee_airflow import triggers
from marquee_airflow.triggers import MAX_FAILURES, CanaryWatch, Question
from pipelines.errors import MeasurementError
from pipelines.release.judge import Judgement, Verdict

HOLD = Judgement(Verdict.NO_TRAFFIC, "no request yet", final=False)
PASS = Judgement(Verdict.PASS, "120 ms", final=True)
FAIL = Judgement(Verdict.FAIL, "900 ms", final=True)
BROKEN = MeasurementError("Prometheus did not answer")

Look = Judgement | Exception


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every pause that was made, in seconds; none takes any time."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(triggers.asyncio, "sleep", sleep)
    return made


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> list[Look]:
    """What the next looks see; filled by the test."""
    script: list[Look] = []
    seen: Iterator[Look] = iter(script)

    def look(release_id: int) -> Judgement:
        assert release_id == 7
        answer = next(seen)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(triggers, "_look", look)
    return script


def watch() -> list[TriggerEvent]:
    async def run() -> list[TriggerEvent]:
        return [event async for event in CanaryWatch(release_id=7, look_every_s=60.0).run()]

    return asyncio.run(run())


def question() -> Question:
    params = {"why": {"value": "", "description": "One sentence", "schema": {"type": "string"}}}
    return Question(
        ti_id="one",
        options=["promote", "abort"],
        params=params,
        timeout_datetime=None,
        release_id=7,
        state="watching",
    )


@pytest.mark.parametrize("trigger", [CanaryWatch(release_id=7, look_every_s=60.0), question()])
def test_the_triggerer_can_build_the_trigger_from_what_it_serialized(trigger):
    path, arguments = trigger.serialize()
    module, name = path.rsplit(".", 1)
    rebuilt = getattr(import_module(module), name)(**trigger.serialize()[1])
    assert type(rebuilt) is type(trigger)
    assert rebuilt.serialize() == (path, arguments)
    assert arguments["release_id"] == 7


@pytest.mark.parametrize("final", [PASS, FAIL])
def test_a_final_look_ends_the_task_with_verdict_and_reason(looks, pauses, final):
    looks += [final]
    (event,) = watch()
    assert isinstance(event, TaskSuccessEvent)
    assert event.xcoms == {"return_value": {"verdict": str(final.verdict), "reason": final.reason}}
    assert pauses == []


def test_it_looks_again_after_a_pause_until_a_look_is_final(looks, pauses):
    looks += [HOLD, HOLD, PASS]
    assert len(watch()) == 1
    assert pauses == [60.0, 60.0]


def test_a_failed_look_pauses_like_any_other(looks, pauses):
    looks += [BROKEN, HOLD, PASS]
    watch()
    assert pauses == [60.0, 60.0]


def test_too_many_failures_in_a_row_are_raised(looks, pauses):
    looks += [BROKEN] * MAX_FAILURES
    with pytest.raises(MeasurementError, match="Prometheus did not answer"):
        watch()
    assert len(pauses) == MAX_FAILURES - 1


def test_an_ordinary_look_forgives_the_failures_before_it(looks):
    almost = [BROKEN] * (MAX_FAILURES - 1)
    looks += [*almost, HOLD, *almost, PASS]
    assert len(watch()) == 1


def test_two_triggers_at_once_end_with_the_same_verdict(monkeypatch, pauses):
    decided: list[Judgement] = []

    def look(release_id: int) -> Judgement:
        if not decided:
            decided.append(FAIL)
            return HOLD
        return decided[0]

    monkeypatch.setattr(triggers, "_look", look)

    async def end() -> TriggerEvent:
        return await anext(CanaryWatch(release_id=7, look_every_s=60.0).run())

    async def both() -> list[TriggerEvent]:
        return await asyncio.gather(end(), end())

    first, second = asyncio.run(both())
    assert first.xcoms == second.xcoms == {"return_value": {"verdict": "fail", "reason": "900 ms"}}


def test_looks_do_not_hold_up_the_triggerer(monkeypatch):
    held: list[str] = []

    def look(release_id: int) -> Judgement:
        # Only in the loop's own thread is there a running loop.
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            held.append("another thread")
        return PASS

    monkeypatch.setattr(triggers, "_look", look)
    watch()
    assert held == ["another thread"]


def test_a_look_that_hangs_counts_as_one_that_failed(monkeypatch, pauses):
    go_on = threading.Event()
    monkeypatch.setattr(triggers, "LONGEST_LOOK_S", 0.01)
    monkeypatch.setattr(triggers, "_look", lambda release_id: go_on.wait(60))

    async def run() -> None:
        watching = CanaryWatch(release_id=7, look_every_s=60.0).run()
        with pytest.raises(TimeoutError):
            await anext(watching)
        go_on.set()

    asyncio.run(run())
    assert len(pauses) == MAX_FAILURES - 1


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> list[str | Exception]:
    """What the ledger says at the next readings; filled by the test."""
    script: list[str | Exception] = []
    seen: Iterator[str | Exception] = iter(script)

    def get(release_id: int) -> Any:
        assert release_id == 7
        state = next(seen)
        if isinstance(state, Exception):
            raise state
        return SimpleNamespace(state=state)

    monkeypatch.setattr(triggers, "here", lambda: SimpleNamespace(ledger=SimpleNamespace(get=get)))
    return script


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The answer that Airflow holds; none while it is empty."""
    given: list[str] = []

    def detail(ti_id: str) -> Any:
        assert ti_id == "one"
        return SimpleNamespace(
            response_received=bool(given),
            chosen_options=given,
            params_input={"why": "sound"},
            responded_at=datetime(2026, 1, 1, tzinfo=UTC),
            responded_by_user=SimpleNamespace(id="1", name="Ada"),
        )

    source = "airflow.providers.standard.triggers.hitl.get_hitl_detail_content_detail"
    monkeypatch.setattr(source, detail)
    return given


def wait() -> list[TriggerEvent]:
    async def run() -> list[TriggerEvent]:
        return [event async for event in question().run()]

    return asyncio.run(run())


def test_a_question_stands_until_the_release_has_gone_on(states, answers, pauses):
    states += ["watching", "watching", "promoting"]
    (event,) = wait()
    assert isinstance(event, TaskSkippedEvent)
    assert len(pauses) == 2


def test_a_question_stands_while_the_ledger_cannot_be_read(states, answers, pauses):
    states += [*[ConnectionError("the records are away")] * (MAX_FAILURES + 1), "aborting"]
    assert len(wait()) == 1
    assert len(pauses) == MAX_FAILURES + 1


def test_an_answer_that_came_before_the_task_waited_is_found_and_wins(states, answers):
    answers.append("promote")
    (event,) = wait()
    assert not isinstance(event, TaskSkippedEvent)
    assert event.payload["chosen_options"] == ["promote"]
    assert event.payload["responded_by_user"] == {"id": "1", "name": "Ada"}
