"""Put an older version back for all viewers, at once and without a canary. Started by hand only.

Trigger it with the `version` to go back to (`python -m pipelines status` lists them) and, in `why`, a
sentence for the others: it goes into the ledger and into the alert. A release that is being watched, guarded,
or waits for an answer, is broken off first; its run notices by itself and ends. A promotion that is being
carried out is waited for, some seconds.

**Red?** Two reasons are usual: the version is not in the registry, or a replica does not become ready with
it. The log of the task `rollback` says which. Mend it, then *clear* the task.
"""

from typing import Any

from airflow.sdk import DAG, Param, task

from marquee_airflow.defaults import DEFAULT_ARGS, TAGS, here, outcomes, requested_by, run_url
from marquee_airflow.forms import why
from marquee_airflow.notifiers import announce
from pipelines.settings import settings


@task
@outcomes()
def rollback(params: Any = None, dag_run: Any = None) -> None:
    """Let all replicas serve the version."""
    from pipelines.release import by_hand
    from pipelines.release.plan import Plan

    by_hand.rollback(
        here(),
        params["version"],
        plan=Plan.of(settings()),
        why=params["why"],
        requested_by=requested_by(dag_run),
        announce=announce,
        run_url=run_url(dag_run),
    )


with DAG(
    dag_id="rollback",
    description="By hand: put an older version back, in seconds",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    params={
        "version": Param(type="integer", minimum=1, description="Version to put back"),
        "why": why(),
    },
    default_args=DEFAULT_ARGS,
    tags=TAGS,
):
    rollback()
