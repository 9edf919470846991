"""Give a version to a part of the users, watch it, promote it or take it away, and look after it.

Starts by itself when **retrain** publishes a new version. *Trigger* it with a `version` to release an older
one; without, the newest is taken. One release at a time: the next run waits. When several versions wait, only
the newest is released and the ledger calls the others superseded; their runs are skipped.

| Task | What it does |
|---|---|
| `open_release` | writes the release and its limits into the ledger; skipped when none is left |
| `preflight` | lets the candidate answer the last real requests before any viewer meets it |
| `start_canary` | gives the candidate its share of the users |
| `watch_canary` | looks until there is a verdict; holds no worker while it waits |
| `steer` | lets *you* promote, extend or take away meanwhile; skipped when the watch ends without you |
| `ask` | there is no verdict: waits for *you*; skipped when there is one, or when it is decided elsewhere |
| `decide` | follows the ledger; runs whatever happened before |
| `promote` | moves all viewers to the candidate |
| `abort` | takes the candidate away; runs whenever the flow broke |
| `guard` | goes on looking at the promoted version, beside the figures of the one before |
| `keep_or_revert` | lets *you* keep it, extend the guard or put the version before back meanwhile |
| `settle` | keeps the version, or puts the one before back; runs also when `guard` broke |
| `step_failed` | turns the run red when a task above is red |

**Green** means that the flow did what it is for. `promote` green and `settle` green: the version serves, or
its guard has put the one before back. `abort` green and `promote` pink: the candidate was judged (or you
refused it) and is gone. That is an answer, not a fault. You were told by Slack or e-mail, and
`python -m pipelines status` shows every look that led there. All pink but `decide`: a newer version was
released instead.

**To steer** open `steer`, `ask` or `keep_or_revert` (purple while it waits) and its tab *Required Action*,
say why, choose. Or trigger the DAG **steer**, which does the same. Who, when and why go into the ledger.
Nobody has to: without you the judge decides, and only `ask` waits for a person. The candidate keeps its share
of the users until then, and the next release waits.

**Red** means that the machinery broke and wants a hand. Every task may be *cleared* and run again.

* A task *before* `decide`: the candidate was taken away (`abort` is green) and the old version serves. Mend
  the cause and trigger a new release with the same `version`. `preflight` red *without a retry*: the
  candidate was refused; the log says why.
* `abort`: the candidate may still have its users. Mend the cause and clear `abort`.
* `promote`: some replicas may have the new version, viewers are answered by both. Mend the cause and clear
  `promote`, or use the DAG **rollback**.
* `guard`: nobody could look, and the version was kept without a verdict. Look at it yourself.
* `settle`: what the ledger says is not carried out yet. Mend the cause and clear `settle`.

A run that somebody *marked* as failed or success carries nothing out any more: clear its `decide`, or use the
DAG **rollback**.
"""

from typing import Any

from airflow.sdk import DAG, TriggerRule, chain, task
from airflow.sdk.exceptions import AirflowFailException

from marquee_airflow.assets import MODEL
from marquee_airflow.defaults import DEFAULT_ARGS, TAGS, here, outcomes, requested_by, run_url
from marquee_airflow.forms import hours, number, why
from marquee_airflow.notifiers import announce
from marquee_airflow.operators import AskOperator, SteerOperator
from marquee_airflow.sensors import CanarySensor
from pipelines.settings import settings


@task
@outcomes()
def open_release(params: Any = None, triggering_asset_events: Any = None, dag_run: Any = None) -> int:
    """Open the release in the ledger, or find the one this run has opened; returns its id."""
    from pipelines.release import steps
    from pipelines.release.plan import Plan

    release = steps.open_release(
        here(),
        version=params["version"],
        plan=Plan.of(settings()),
        requested_by=requested_by(dag_run),
        run_url=run_url(dag_run),
        automatic=bool(triggering_asset_events.get(MODEL)),
    )
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


# ALL_DONE, so that the candidate is also taken away when the watch or the question itself breaks.
@task.branch(trigger_rule=TriggerRule.ALL_DONE)
@outcomes()
def decide(release_id: int | None) -> str | None:
    """Follow the ledger; without a release there is nothing to follow."""
    from pipelines.release import steps

    if not release_id:
        return None
    return "promote" if steps.outcome(here(), release_id) == "promote" else "abort"


@task
@outcomes()
def promote(release_id: int) -> int:
    """Move all viewers to the candidate; returns the id of the release, for what comes after."""
    from pipelines.release import steps

    steps.promote(here(), release_id, announce=announce)
    return release_id


# ALL_DONE, so that the candidate is also taken away when `decide` itself breaks; a branch that goes
# elsewhere skips this task before the rule is looked at.
@task(trigger_rule=TriggerRule.ALL_DONE)
@outcomes()
def abort(release_id: int) -> None:
    """Take the candidate away."""
    from pipelines.release import steps

    steps.abort(here(), release_id, announce=announce)


# Behind `promote` and `guard` only: skipped when nothing was promoted, and run when the guard broke.
@task(trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
@outcomes()
def settle(release_id: int) -> str:
    """Keep the promoted version, or put the one before back."""
    from pipelines.release import steps

    return steps.settle(here(), release_id, announce=announce)


# A run takes its colour from its last tasks, and `abort` is green. What failed has announced itself.
@task(trigger_rule=TriggerRule.ONE_FAILED, retries=0, on_failure_callback=[])
def step_failed() -> None:
    """Turn the run red."""
    raise AirflowFailException("another task of this release failed; the text of the DAG says what to do")


with DAG(
    dag_id="release",
    description="On a new version: canary, watch, then promote, abort or ask; a guard afterwards",
    doc_md=__doc__,
    schedule=MODEL,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    params={"version": number("Version to release; empty: the newest")},
    default_args=DEFAULT_ARGS,
    tags=TAGS,
):
    release_id: Any = open_release()
    start = [preflight(release_id), start_canary(release_id)]
    watch = CanarySensor(task_id="watch_canary", release_id=release_id)
    steer = SteerOperator(
        task_id="steer",
        release_id=release_id,
        state="watching",
        subject="promote it now, watch it longer, or take it away?",
        body="A part of the users has it and it is being watched. You need not answer: the judge decides "
        "when the watch is over. `python -m pipelines status` shows the looks so far.",
        answers={"promote now": "approve", "extend": "extend", "take away": "abort"},
        params={"why": why(), "hours": hours()},
    )
    ask = AskOperator(
        task_id="ask",
        release_id=release_id,
        state="asking",
        subject="promote it, or take it away?",
        body="The watch has ended without a verdict. It keeps its share of the users until you answer. "
        "`python -m pipelines status` shows the looks that led here.",
        answers={"promote": "approve", "take away": "abort"},
        params={"why": why()},
    )
    promoted: Any = promote(release_id)
    aborted = abort(release_id)
    guard = CanarySensor(task_id="guard", release_id=promoted)
    keep_or_revert = SteerOperator(
        task_id="keep_or_revert",
        release_id=promoted,
        state="guarding",
        subject="keep it now, guard it longer, or put the version before back?",
        body="All viewers have it and it is still being watched. You need not answer: unless the judge "
        "finds it bad, it stays when the guard is over.",
        answers={"keep": "approve", "extend": "extend", "revert": "abort"},
        params={"why": why(), "hours": hours()},
    )
    settled = settle(promoted)
    chain(*start, [watch, steer])
    chain(watch, ask, decide(release_id), [promoted, aborted])
    guard >> settled
    flow = [release_id, *start, watch, steer, ask, promoted, aborted, guard, keep_or_revert, settled]
    # Not behind `decide`: a branch that goes nowhere would skip it, too.
    flow >> step_failed()
