"""Sensors: what a DAG waits for."""

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseSensorOperator, Context, PokeReturnValue

from marquee_airflow.defaults import outcomes
from marquee_airflow.notifiers import announce
from marquee_airflow.triggers import CanaryWatch
from pipelines.errors import TooEarly
from pipelines.settings import settings

_LOOK_EVERY_S = 60.0
_LONGEST_WAIT_S = 365 * 86_400.0


class CanarySensor(BaseSensorOperator):
    """Wait, without a worker, until the watch over a candidate or a guard has ended, whatever its verdict.

    The verdict is in the ledger; the XCom of the task shows it to people. Running the task again goes on
    where the ledger stands.
    """

    template_fields: Sequence[str] = ("release_id",)

    def __init__(self, *, release_id: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.release_id = release_id

    def execute(self, context: Context) -> None:
        """Hand the watch to the triggerer, which also ends this task: nothing comes back here.

        No timeout: the trigger ends by itself, and a person may extend the watch by days.
        """
        trigger = CanaryWatch(release_id=self.release_id, look_every_s=settings().look_every_s)
        self.defer(trigger=trigger, method_name="execute")


class EnoughEvents(BaseSensorOperator):
    """Turn the events that came since the last run into batches.

    A run that came by itself waits, without a worker, until there is enough for a first version. Whoever
    triggers a run wants to know at once: without anything new it is skipped.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(mode="reschedule", poke_interval=_LOOK_EVERY_S, timeout=_LONGEST_WAIT_S, **kwargs)

    @outcomes()
    def poke(self, context: Context) -> PokeReturnValue:
        """Collect; returns whether that is enough, and what came."""
        from pipelines import retrain

        by_itself = context["dag_run"].run_type == "scheduled"
        try:
            collected = retrain.collect(settings(), announce=announce, first_waits=by_itself)
        except TooEarly as reason:
            self.log.info("%s; the next look is in %.0f s", reason, self.poke_interval)
            return PokeReturnValue(False)
        return PokeReturnValue(True, xcom_value=collected)
