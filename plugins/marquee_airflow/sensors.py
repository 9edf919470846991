"""Sensors: what a DAG waits for."""

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseSensorOperator, Context

from marquee_airflow.triggers import CanaryWatch
from pipelines.settings import settings


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
