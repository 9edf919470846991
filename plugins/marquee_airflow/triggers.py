"""Triggers: what is waited for without a worker. Not in ``dags/``, because the triggerer reads no DAGs."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.triggers.hitl import HITLTrigger
from airflow.triggers.base import BaseTrigger, TaskSkippedEvent, TaskSuccessEvent, TriggerEvent

from marquee_airflow.defaults import here
from marquee_airflow.notifiers import announce

if TYPE_CHECKING:
    from pipelines.release.judge import Judgement

MAX_FAILURES = 20
"""Consecutive looks that raised after which the watch is given up. At a look a minute the task's three tries
outlast a database that is away for the better part of an hour."""
LONGEST_LOOK_S = 120.0
"""A look that takes longer counts as one that raised: a watch ends, whatever hangs."""


class CanaryWatch(BaseTrigger):
    """Look at a candidate, or at a promoted version, every ``look_every_s`` seconds until a look is final.

    Every look reads and writes the ledger, nothing is remembered here: the trigger may run twice at once
    or be started again anywhere in the window.
    """

    def __init__(self, release_id: int, look_every_s: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.release_id = release_id
        self.look_every_s = look_every_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments; the triggerer builds the trigger from them."""
        return _path(self), {"release_id": self.release_id, "look_every_s": self.look_every_s}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event with verdict and reason, which ends the task.

        Raises whatever a look raised when ``MAX_FAILURES`` looks in a row did.
        """
        failures = 0
        while True:
            try:
                look = await asyncio.wait_for(asyncio.to_thread(_look, self.release_id), LONGEST_LOOK_S)
            except Exception as error:
                failures += 1
                self.log.warning("look failed, %d in a row: %s: %s", failures, type(error).__name__, error)
                if failures == MAX_FAILURES:
                    raise
            else:
                failures = 0
                self.log.info("%s: %s", look.verdict, look.reason)
                if look.final:
                    yield _done(look)
                    return
            await asyncio.sleep(self.look_every_s)


class Question(HITLTrigger):
    """Wait for a person's answer for as long as the release is in ``state``; then the task is skipped.

    The answer itself comes through Airflow's API, which resumes the task at once. The rest is Airflow's own
    trigger: it also finds an answer that came before the task had begun to wait.
    """

    def __init__(self, *, release_id: int, state: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.release_id = release_id
        self.state = state

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments; the triggerer builds the trigger from them."""
        _, arguments = super().serialize()
        return _path(self), arguments | {"release_id": self.release_id, "state": self.state}

    async def _handle_response(self) -> TriggerEvent | None:
        answer: TriggerEvent | None = await super()._handle_response()  # type: ignore[no-untyped-call]
        if answer:
            return answer
        if await asyncio.to_thread(self._stands):
            return None
        self.log.info("release %d is not %s any more: nothing is asked", self.release_id, self.state)
        return TaskSkippedEvent()

    def _stands(self) -> bool:
        try:
            return bool(here().ledger.get(self.release_id).state == self.state)
        except Exception as error:
            self.log.warning("the ledger cannot be read: %s: %s", type(error).__name__, error)
            return True


def _path(trigger: BaseTrigger) -> str:
    return f"{type(trigger).__module__}.{type(trigger).__qualname__}"


def _look(release_id: int) -> "Judgement":
    # In the thread, because the first import takes longer than the triggerer's loop may stand still.
    from pipelines.release import watch

    return watch.look(here(), release_id, announce=announce)


def _done(look: "Judgement") -> TaskSuccessEvent:
    """End the task from here; what is in the XCom is for people, Airflow hands it on as JSON text.

    Resuming it on a worker would only cost a process, and a resumed task can be failed by the late report
    that its first half has ended (apache/airflow #72716).
    """
    return TaskSuccessEvent(xcoms={"return_value": {"verdict": str(look.verdict), "reason": look.reason}})
