"""What every task of Marquee has in common: owner, retries, and what happens when it fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from marquee_airflow.connections import docker_hook
from marquee_airflow.notifiers import announce
from pipelines.alerts import Alert
from pipelines.errors import MarqueeError, NothingNew, Refused
from pipelines.settings import FleetKind, settings

if TYPE_CHECKING:
    from pipelines.release.world import World

TAGS = ["marquee"]
_LONGEST_ERROR = 1_500


def here() -> "World":
    """Return the world that a release touches, as the settings describe it; imported late, it is heavy."""
    from pipelines.release.world import world

    config = settings()
    if config.fleet is not FleetKind.DOCKER:
        return world(config)
    return world(config, docker=lambda: docker_hook().api_client)


@contextmanager
def outcomes(*skipping: type[MarqueeError]) -> Iterator[None]:
    """Translate the answers that are not faults; also a decorator for the function of a task.

    ``NothingNew``, and what ``skipping`` names, skips the task and everything behind it. ``Refused`` fails it
    without a retry, because the same data or model would only be refused again.
    """
    answers: tuple[type[MarqueeError], ...] = (NothingNew, *skipping)
    try:
        yield
    except answers as answer:
        raise AirflowSkipException(str(answer)) from answer
    except Refused as answer:
        raise AirflowFailException(str(answer)) from answer


def announce_failure(context: Context) -> None:
    """Tell people once that a task has failed for good; a refusal has told them already."""
    error = context.get("exception")
    if isinstance(error, AirflowFailException) and isinstance(error.__cause__, Refused):
        return
    task = context["ti"]
    announce(task_failed(task.dag_id, task.task_id, task.run_id, error, getattr(task, "log_url", "")))


def task_failed(dag_id: str, task_id: str, run_id: str, error: object, log_url: str) -> Alert:
    """Word the failure of a task that no step has announced."""
    kind = f"{type(error).__name__}: " if isinstance(error, BaseException) else ""
    return Alert(
        title=f"Marquee: task {task_id} of {dag_id} failed",
        body=f"Observed: {kind}{str(error or 'no reason was given')[:_LONGEST_ERROR]}\n"
        f"Where to look: {log_url or 'the log of the task'} (run {run_id})\n"
        "What to do: mend the cause, then clear the task in the UI; every step may be run again.",
    )


def requested_by(dag_run: Any) -> str:
    """Say which run asked, and who started it; the same on every attempt, at most 250 characters."""
    by = f" by {dag_run.triggering_user_name}" if dag_run.triggering_user_name else ""
    return f"{dag_run.run_id}{by}"[:250]


def person(dag_run: Any) -> str:
    """Return who started the run; a run that nobody started stands for itself."""
    return str(dag_run.triggering_user_name or dag_run.run_id)


def run_url(dag_run: Any) -> str:
    """Return the address of the run in the UI."""
    return f"{settings().airflow_url}/dags/{dag_run.dag_id}/runs/{quote(dag_run.run_id)}"


DEFAULT_ARGS: dict[str, Any] = {
    "owner": "marquee",
    "retries": 2,
    "retry_delay": timedelta(seconds=20),
    "on_failure_callback": announce_failure,
}
"""Arguments of every task: what infrastructure does wrong is tried three times within a minute."""
