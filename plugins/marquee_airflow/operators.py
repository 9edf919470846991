"""Operators that the providers do not have."""

from collections.abc import Sequence
from typing import Any

from airflow.providers.standard.operators.hitl import HITLBranchOperator
from airflow.sdk import Context

from marquee_airflow.defaults import here
from marquee_airflow.notifiers import announce

_DECIDED_BY = "decided_by"


class AskOperator(HITLBranchOperator):
    """Tell people that a candidate waits for their decision, then wait for it; no process is held.

    What is asked stands in the ledger: the version, and why it could not be judged.
    """

    template_fields: Sequence[str] = (*HITLBranchOperator.template_fields, "release_id")

    def __init__(self, *, release_id: Any, **kwargs: Any) -> None:
        super().__init__(subject="Promote the candidate, or take it away?", **kwargs)
        self.release_id = release_id

    def execute(self, context: Context) -> Any:
        """Announce the question, then put it."""
        from pipelines.release import steps

        world = here()
        release = world.ledger.get(self.release_id)
        self.subject = f"Promote version {release.version}, or take it away?"
        self.body = release.reason
        steps.ask(world, self.release_id, announce=announce)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Note who answered, then follow the answer."""
        person = event.get("responded_by_user") or {}
        context["ti"].xcom_push(_DECIDED_BY, person.get("name") or person.get("id") or "")
        return super().execute_complete(context, event)


def decided_by(task_instance: Any, *, task_id: str = "ask") -> str:
    """Return who answered the task ``task_id`` of this run; empty when nobody was asked."""
    return str(task_instance.xcom_pull(task_ids=task_id, key=_DECIDED_BY) or "")
