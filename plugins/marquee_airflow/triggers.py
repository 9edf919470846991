"""Triggers: what is waited for without a worker. Not in ``dags/``, because the triggerer reads no DAGs."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from marquee_airflow.defaults import here

if TYPE_CHECKING:
    from pipelines.release.judge import Judgement

MAX_FAILURES = 5
"""Consecutive looks that raised after which the watch is given up."""


class CanaryWatch(BaseTrigger):
    """Look at a candidate every ``look_every_s`` seconds until a look is final.

    Every look reads and writes the ledger, nothing is remembered here: the trigger may run twice at once
    or be started again anywhere in the window.
    """

    def __init__(self, release_id: int, look_every_s: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.release_id = release_id
        self.look_every_s = look_every_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments; the triggerer builds the trigger from them."""
        arguments = {"release_id": self.release_id, "look_every_s": self.look_every_s}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event with verdict and reason, which ends the task.

        Raises whatever a look raised when ``MAX_FAILURES`` looks in a row did.
        """
        failures = 0
        while True:
            try:
                look = await asyncio.to_thread(_look, self.release_id)
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


def _look(release_id: int) -> "Judgement":
    # In the thread, because the first import takes longer than the triggerer's loop may stand still.
    from pipelines.release import steps

    return steps.look(here(), release_id)


def _done(look: "Judgement") -> TaskSuccessEvent:
    """End the task from here; what is in the XCom is for people, Airflow hands it on as JSON text.

    Resuming it on a worker would only cost a process, and a resumed task can be failed by the late report
    that its first half has ended (apache/airflow #72716).
    """
    return TaskSuccessEvent(xcoms={"return_value": {"verdict": str(look.verdict), "reason": look.reason}})
