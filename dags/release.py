"""Give a version to a part of the users, watch it, and then promote it or take it away.

Starts by itself when **retrain** publishes a new version. *Trigger* it with a `version` to release an
older one; without, the newest is taken. One release at a time: the next one waits.

| Task | What it does |
|---|---|
| `open_release` | writes the release and its limits into the ledger |
| `preflight` | tries the candidate before any viewer meets it |
| `start_canary` | gives the candidate its share of the users |
| `watch_canary` | looks until there is a verdict; holds no worker while it waits |
| `decide` | follows the verdict; runs whatever happened before |
| `promote` | moves all viewers to the candidate |
| `abort` | takes the candidate away; runs whenever the flow broke |
| `ask` | nothing could be measured: waits for *you* |
| `step_failed` | turns the run red when a task above is red |

**Green** means that the flow did what it is for: `promote` green, the version serves; `abort` green and
`promote` pink, the candidate was judged (or you refused it) and is gone. That is an answer, not a fault.
You were told by Slack or e-mail, and `python -m pipelines status` shows every look that led there.

**Red** means that the machinery broke and wants a hand. A red task *before* `decide`: the candidate was
taken away (`abort` is green) and the old version serves; mend the cause and trigger a new release with
the same `version`. `abort` red: the candidate may still have its users; mend the cause and *clear* `abort`.
`promote` red: some replicas may have the new version, viewers are answered by both; mend the cause and
*clear* `promote`, or use the DAG **rollback**. Every task may be run again.

**To decide** when `ask` is waiting: open the task, *Required Actions*, choose. The candidate keeps its
share of the users until then, and the next release waits. **To stop a release early** mark `watch_canary`
as failed, not the run: then the candidate is taken away.
"""

from typing import Any

from airflow.sdk import DAG, Param, TriggerRule, chain, task
from airflow.sdk.exceptions import AirflowFailException

from marquee_airflow.assets import MODEL, newest_version
from marquee_airflow.defaults import DEFAULT_ARGS, TAGS, here, outcomes, requested_by
from marquee_airflow.notifiers import announce
from marquee_airflow.operators import AskOperator, decided_by
from marquee_airflow.sensors import CanarySensor
from pipelines.settings import settings


@task
@outcomes()
def open_release(params: Any = None, triggering_asset_events: Any = None, dag_run: Any = None) -> int:
    """Open the release in the ledger, or find the one this run has opened; returns its id."""
    from pipelines.release import steps
    from pipelines.release.plan import Plan

    version = params["version"] or newest_version(triggering_asset_events)
    plan = Plan.of(settings())
    release = steps.open_release(here(), version=version, plan=plan, requested_by=requested_by(dag_run))
    return release.release_id


@task
@outcomes()
def preflight(release_id: int) -> str:
    """Try the candidate before any viewer meets it."""
    from pipelines.release import steps

    return steps.preflight(here(), release_id)


@task
@outcomes()
def start_canary(release_id: int) -> None:
    """Give the candidate its share of the users."""
    from pipelines.release import steps

    steps.start_canary(here(), release_id)


@task.branch(trigger_rule=TriggerRule.ALL_DONE)
@outcomes()
def decide(release_id: int | None) -> str | None:
    """Follow the verdict; without a release there is nothing to follow."""
    from pipelines.release import steps

    return steps.outcome(here(), release_id) if release_id else None


@task(trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
@outcomes()
def promote(release_id: int, ti: Any = None) -> None:
    """Move all viewers to the candidate."""
    from pipelines.release import steps

    steps.promote(here(), release_id, announce=announce, decided_by=decided_by(ti))


# ALL_DONE, so that the candidate is also taken away when `decide` or `ask` itself breaks; a branch that
# goes elsewhere skips this task before the rule is looked at.
@task(trigger_rule=TriggerRule.ALL_DONE)
@outcomes()
def abort(release_id: int, ti: Any = None) -> None:
    """Take the candidate away."""
    from pipelines.release import steps

    steps.abort(here(), release_id, announce=announce, decided_by=decided_by(ti))


# A run takes its colour from its last tasks, and `abort` is green. What failed has announced itself.
@task(trigger_rule=TriggerRule.ONE_FAILED, retries=0, on_failure_callback=[])
def step_failed() -> None:
    """Turn the run red."""
    raise AirflowFailException("another task of this release failed; the text of the DAG says what to do")


with DAG(
    dag_id="release",
    description="On a new version: canary, watch, then promote, abort or ask",
    doc_md=__doc__,
    schedule=MODEL,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    params={
        "version": Param(
            None, type=["null", "integer"], minimum=1, description="Version to release; empty: the newest"
        )
    },
    default_args=DEFAULT_ARGS,
    tags=TAGS,
):
    release_id: Any = open_release()
    start = [preflight(release_id), start_canary(release_id)]
    watch = CanarySensor(task_id="watch_canary", release_id=release_id)
    ask = AskOperator(task_id="ask", release_id=release_id, options=["promote", "abort"])
    ends = [promote(release_id), abort(release_id)]
    chain(*start, watch, decide(release_id), [ask, *ends])
    ask >> ends
    # Not behind `decide` and `ask`: a branch that goes nowhere would skip it, too.
    [release_id, *start, watch, *ends] >> step_failed()
