"""Promote, extend or take away a release that is under way, at any moment. Started by hand only.

The same can be answered in the task `steer`, `ask` or `keep_or_revert` of a run of **release**; here no run
has to be found, and the API will do, too. Your name, the time and `why` go into the ledger.

| `what` | While a candidate is watched | While `ask` waits | While a promoted version is guarded |
|---|---|---|---|
| `approve` | promotes it now | promotes it | keeps it now |
| `extend` | watches it for `hours` more | refused | guards it for `hours` more |
| `abort` | takes it away | takes it away | puts the version before back |

| Task | What it does |
|---|---|
| `intervene` | writes it into the ledger; the run of **release** follows at its next look |

**Red?** No release is under way, or it is past what you want: a promotion that is being carried out is not
stopped. The log of the task says where it stands. Nothing was changed. To take back what was promoted use the
DAG **rollback**.
"""

from typing import Any

from airflow.sdk import DAG, Param, task

from marquee_airflow.defaults import DEFAULT_ARGS, TAGS, here, outcomes, person
from marquee_airflow.forms import hours, number, why


@task
@outcomes()
def intervene(params: Any = None, dag_run: Any = None) -> str:
    """Write down what a person wants; returns what has become of the release."""
    from pipelines.release import by_hand

    release = by_hand.intervene(
        here(),
        params["release_id"],
        params["what"],
        who=person(dag_run),
        why=params["why"],
        seconds=params["hours"] * 3_600,
        request=dag_run.run_id,
    )
    return f"release {release.release_id} of version {release.version} is {release.state}"


with DAG(
    dag_id="steer",
    description="By hand: promote, extend or take away a release that is under way",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    params={
        "what": Param(
            type="string",
            enum=["approve", "extend", "abort"],
            values_display={
                "approve": "approve: promote the candidate, or keep what is guarded",
                "extend": "extend: watch or guard it longer",
                "abort": "abort: take the candidate away, or put the version before back",
            },
            description="What to do",
        ),
        "why": why(),
        "hours": hours(),
        "release_id": number("Release; empty: the one under way"),
    },
    default_args=DEFAULT_ARGS,
    tags=TAGS,
):
    intervene()
