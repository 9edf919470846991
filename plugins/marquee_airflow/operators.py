"""Operators that the providers do not have."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.hitl import upsert_hitl_detail

from marquee_airflow.defaults import here, outcomes
from marquee_airflow.notifiers import announce
from marquee_airflow.triggers import Question
from pipelines.errors import ReleaseError

if TYPE_CHECKING:
    from pipelines.release.world import World

Does = Literal["approve", "extend", "abort"]
"""What an answer does to a release."""


class SteerOperator(HITLOperator):
    """Let a person steer a release for as long as it is in ``state``; no process is held.

    ``answers`` are the options and what each of them does; ``params`` ask ``why`` and, where there is
    something to extend, for ``hours``. The answer goes into the ledger, which everything else follows; after
    an extension the question is put again. The task is skipped when the release is not, or not any more, in
    ``state``.
    """

    template_fields: Sequence[str] = (*HITLOperator.template_fields, "release_id")

    def __init__(self, *, release_id: Any, state: str, answers: Mapping[str, Does], **kwargs: Any) -> None:
        super().__init__(options=list(answers), **kwargs)
        self.release_id = release_id
        self.state = state
        self.answers = answers

    def execute(self, context: Context) -> None:
        """Put the question, then wait in the triggerer."""
        world = here()
        release = world.ledger.get(self.release_id)
        if release.state != self.state:
            raise AirflowSkipException(f"release {release.release_id} is {release.state}: nothing is asked")
        self.tell(world)
        task_instance = context["ti"].id
        upsert_hitl_detail(
            ti_id=task_instance,
            options=self.options,
            subject=f"Version {release.version}: {self.subject}",
            body=f"{self.body}\n\nObserved: {release.reason}" if release.reason else self.body,
            params=self.serialized_params,
        )
        # Not as the provider does since Airflow 3.3: a task that awaits input has no trigger, and nobody
        # would notice that the release was decided elsewhere.
        trigger = Question(
            ti_id=task_instance,
            options=self.options,
            params=self.serialized_params,
            timeout_datetime=None,
            release_id=self.release_id,
            state=self.state,
        )
        self.defer(trigger=trigger, method_name="execute_complete")

    def tell(self, world: "World") -> None:
        """Tell people that they are asked; this question is for those who come by."""

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        """Write the answer into the ledger; one that came too late is not followed."""
        from pipelines.release import by_hand

        answer = super().execute_complete(context, event)
        does = self.answers[answer["chosen_options"][0]]
        person = answer["responded_by_user"] or {}
        who, why = person.get("name") or person.get("id") or "somebody", self.params["why"]
        self.log.info("%s by %s: %s", does, who, why)
        with outcomes(ReleaseError):
            by_hand.intervene(
                here(),
                self.release_id,
                does,
                who=who,
                why=why,
                seconds=self.params.get("hours", 0) * 3_600,
                request=f"{context['ti'].id} {answer['responded_at']}",
            )
        if does == "extend":
            self.execute(context)


class AskOperator(SteerOperator):
    """Tell people by Slack or e-mail that a candidate waits for their decision, then wait for it."""

    def tell(self, world: "World") -> None:
        """Announce the question."""
        from pipelines.release import steps

        steps.ask(world, self.release_id, announce=announce)
