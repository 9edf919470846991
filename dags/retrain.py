"""Read what viewers did since the last run, check it, train, judge the model and give it a version.

A new version starts the DAG **release** by itself.

Runs every `MARQUEE_RETRAIN_EVERY_DAYS` days (2 unless changed; 0: never by itself) at 03:00 UTC,
whenever you trigger it, and for the first time as soon as it is switched on. One run at a time; one that was
missed while Airflow was down is made up for once.

| Task | What it does |
|---|---|
| `collect` | brings in what the DAG **collect** has not yet; waits up to ten minutes for one that is at it |
| `validate` | checks the new batches against `expectations/` |
| `train` | judges the recipe on the newest ratings, then fits it on everything that was there to be checked |
| `gate` | compares with the limits and with the serving model |
| `version` | commits data and model as one version and publishes the asset `model` |

**`collect` waits (up for reschedule)?** There is no version yet, and too few ratings have come to judge a
first one by; the log of the task says how many. It looks again every minute, and the run goes on by itself.

**Skipped (pink)?** No event has come since the last run. There is nothing to do, and nothing is released.

**Red?** You have been told why by Slack or e-mail; the same reason stands in the log of the red task.

* `validate` or `gate` red *without a retry*: data or model was **refused**. Nothing was released and the
  serving model stays. `expectations/README.md` says for each check what to do; for the gate look at the
  newest ratings, or change `MARQUEE_MAX_RMSE` / `MARQUEE_MAX_RMSE_WORSE` if the limit is wrong.
* `train` red *without a retry*: in a container of its own it took more memory than `MARQUEE_TRAIN_MEMORY_MB`
  and was killed. Raise it if the machine has more, then *clear* the task.
* Anything else was tried three times. Mend the cause, then *clear* the red task: the run goes on from
  there. Every task may be run again; none does its work twice.
"""

from typing import Any

from airflow.sdk import DAG, chain, task

from marquee_airflow.assets import MODEL
from marquee_airflow.defaults import DEFAULT_ARGS, TAGS, outcomes
from marquee_airflow.notifiers import announce
from marquee_airflow.sensors import EnoughEvents
from marquee_airflow.timetables import every_days
from pipelines.settings import settings


@task
@outcomes()
def validate(run: str) -> dict[str, Any]:
    """Check the new batches; a critical failure refuses them."""
    from pipelines import retrain

    return retrain.validate(settings(), run_id=run, announce=announce)


@task
@outcomes()
def train(run: str) -> dict[str, Any]:
    """Judge the recipe, then fit it on everything; returns the metrics."""
    from pipelines import retrain

    return retrain.train(settings(), run_id=run)


def train_somewhere(run: str) -> Any:
    """Return the task `train`: in a container of its own where there is an image for it."""
    if not settings().train_image:
        return train(run)
    from marquee_airflow.training import TrainOperator

    return TrainOperator(task_id="train")


@task
@outcomes()
def gate(run: str) -> str:
    """Let the model through, or refuse it; returns the reason."""
    from pipelines import retrain

    return retrain.gate(settings(), run_id=run, announce=announce)


@task(outlets=[MODEL])
@outcomes()
def version(run: str, outlet_events: Any = None) -> int:
    """Commit data and model as one version, and publish its number with the asset."""
    from pipelines import retrain

    number = retrain.version(settings(), run_id=run, announce=announce)
    outlet_events[MODEL].extra = {"version": number}
    return number


with DAG(
    dag_id="retrain",
    description="Every few days: collect, validate, train, gate, version",
    doc_md=__doc__,
    schedule=every_days(settings().retrain_every_days, at_once=settings().retrain_at_once),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=TAGS,
):
    RUN = "{{ run_id }}"
    chain(EnoughEvents(task_id="collect"), validate(RUN), train_somewhere(RUN), gate(RUN), version(RUN))
