"""Bring in what viewers did since the last time, so that the broker may forget it.

Runs by itself at ten to every hour: a broker keeps events for a while only, and what it lets go of before it
is collected is lost. The training at 03:00 UTC then finds nearly everything there, and brings in the rest
itself. One run at a time; those that were missed while Airflow was down are made up for by one.

| Task | What it does |
|---|---|
| `collect` | events become batches, each exactly once; publishes the asset `events` with what came |

**Skipped (pink)?** No event has come since the last time, or another process is collecting already, such as
the task `collect` of **retrain**; the log names it by its pid. Nothing is lost: the next run goes on.

**"line(s) lost"** means that the broker let go of events before anybody collected them: this DAG was off or
red for longer than the topic keeps events. You are told once of each gap. Keep this DAG switched on, or let
the broker keep events longer; if an archive has the lines, `python -m pipelines collect --file` brings them
in.

**Red?** You have been told why by Slack or e-mail. It was tried three times; mend the cause, often a broker
that is away. The next run goes on where the last one stopped, as long as the broker keeps the events.
"""

from typing import Any

from airflow.sdk import DAG, task

from marquee_airflow.assets import EVENTS, what_came
from marquee_airflow.defaults import DEFAULT_ARGS, TAGS, outcomes
from marquee_airflow.notifiers import announce
from pipelines.errors import Locked
from pipelines.settings import settings


@task(outlets=[EVENTS])
@outcomes(Locked)
def collect(outlet_events: Any = None) -> dict[str, Any]:
    """Turn the events that came since the last time into batches, and publish what came."""
    from pipelines import retrain

    collected = retrain.collect_new(settings(), announce=announce)
    outlet_events[EVENTS].extra = what_came(collected)
    return collected


with DAG(
    dag_id="collect",
    description="Every hour: bring in what viewers did",
    doc_md=__doc__,
    schedule="50 * * * *",
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    tags=TAGS,
):
    collect()
