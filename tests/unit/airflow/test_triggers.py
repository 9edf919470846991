import asyncio
from collections.abc import Iterator
from importlib import import_module

import pytest
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent

from marquee_airflow import triggers
from marquee_airflow.triggers import MAX_FAILURES, CanaryWatch
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


def test_the_triggerer_can_build_the_trigger_from_what_it_serialized():
    path, arguments = CanaryWatch(release_id=7, look_every_s=60.0).serialize()
    module, name = path.rsplit(".", 1)
    rebuilt = getattr(import_module(module), name)(**arguments)
    assert rebuilt.serialize() == (path, arguments)
    assert arguments == {"release_id": 7, "look_every_s": 60.0}


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
