"""Sensors: what a DAG waits for."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseSensorOperator, Context

from marquee_airflow.triggers import CanaryWatch
from pipelines.settings import Settings, settings


class CanarySensor(BaseSensorOperator):
    """Wait, without a worker, until the watch over a candidate has ended, whatever its verdict.

    The verdict is in the ledger; the XCom of the task shows it to people. Running the task again goes on
    where the ledger stands.
    """

    template_fields: Sequence[str] = ("release_id",)

    def __init__(self, *, release_id: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.release_id = release_id

    def execute(self, context: Context) -> None:
        """Hand the watch to the triggerer, which also ends this task: nothing comes back here."""
        config = settings()
        trigger = CanaryWatch(release_id=self.release_id, look_every_s=config.look_every_s)
        self.defer(trigger=trigger, method_name="execute", timeout=patience(config))


def patience(config: Settings) -> timedelta:
    """Return after how long a watch that should have ended by itself is given up.

    Twice the window and its extension, and an hour: a machine that was down in between shall not break it.
    """
    return timedelta(seconds=2 * (config.canary_window_s + config.canary_extension_s) + 3_600)
