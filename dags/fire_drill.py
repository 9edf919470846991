"""Try what tries every candidate: would preflight and watch catch a bad one today? No viewer is at risk.

Runs on Sundays at 20:00 UTC by itself, and whenever you trigger it, with one `fault` or all of them and, in
`minutes`, how long the watch may look for each (empty: `MARQUEE_DRILL_S`).

| Task | What it does |
|---|---|
| `drill` | runs the serving version with each fault beside the others; keeps what was caught and how fast |

The replica with the fault is the *shadow*: preflight asks it what viewers asked last, then NGINX copies to it
what viewers ask, and the judge looks at its receipts beside those of the serving version. Nobody is ever
answered by it, and nothing of it comes into the records of answers. One of the faults is `none`: a sound
replica, which must not be caught.

You are told once for each drill: what was caught, by whom, how fast, and what was missed. The same stands in
`python -m pipelines drill --list`, for all drills there ever were.

**Skipped (pink)?** A release is under way, or nothing serves yet. A release that begins ends the drill.

**Red?** A fault that was missed is told, and is *not* red. Red means that the shadow could not be run, or
NGINX not be told of it; the log says why. Mend it, then *clear* the task: it goes on with what it has not
tried. Whatever a killed drill leaves behind is taken away by the next one, or by the next preflight.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, Param, task

from marquee_airflow.defaults import DEFAULT_ARGS, TAGS, here, outcomes, requested_by
from marquee_airflow.notifiers import announce
from pipelines.fault import Fault
from pipelines.settings import settings

ALL = "all"


@task
@outcomes()
def drill(params: Any = None, dag_run: Any = None) -> dict[str, list[str]]:
    """Try each fault; returns what came of it."""
    from pipelines.release import drills
    from pipelines.release.plan import Plan

    config, minutes = settings(), params["minutes"]
    trials = drills.drill(
        here(),
        list(Fault) if params["fault"] == ALL else [Fault(params["fault"])],
        run=requested_by(dag_run),
        plan=Plan.of(config),
        most_s=minutes * 60 if minutes else config.drill_s,
        announce=announce,
    )
    lines, missed, false_alarms = drills.summary(trials)
    return {"tried": lines, "missed": missed, "false_alarms": false_alarms}


with DAG(
    dag_id="fire_drill",
    description="Weekly: would preflight and watch catch a bad candidate? Viewers never meet it",
    doc_md=__doc__,
    # Without the last argument a first run is made up for until 17 hours later, as in the middle of a demo.
    schedule=CronTriggerTimetable("0 20 * * SUN", timezone="UTC", run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    params={
        "fault": Param(ALL, type="string", enum=[ALL, *map(str, Fault)], description="What to try"),
        "minutes": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            description="How long the watch may look for each",
        ),
    },
    default_args=DEFAULT_ARGS,
    tags=TAGS,
):
    drill()
