"""Look after receipts, looks and alerts: tell what is lost, stuck or fires, and keep the database small.

Runs every ten minutes by itself; a run takes seconds. Viewers notice nothing of it, whatever it finds.

| Task | What it does |
|---|---|
| `watch_receipts` | tells once of every loss, and of receipts that wait for 15 minutes and more |
| `watch_alarms` | tells once of each alert of Prometheus, once when it is over; and of its silence |
| `archive_receipts` | moves days older than `MARQUEE_RECEIPTS_KEEP_DAYS` (30) to Parquet, one file a day |
| `thin_looks` | lets go of figures of looks at releases that ended `MARQUEE_LOOKS_KEEP_DAYS` (90) ago |

**Skipped (pink)?** The records database does not answer. Receipts wait in the spool and none is lost; you
are told once it has been so for 15 minutes. Archiving and thinning wait for the next run.

**"receipt(s) lost"** means that a disk was full or refused: answers were given, but without a receipt. Make
room in the spool folder; the replicas keep receipts again by themselves, and `served --at` names the gap.

**"receipts wait"** means that database or recorder are away. Bring them back; everything is shipped then.

**Other alerts** are rules of Prometheus (`docker/prometheus/rules.yml`); its page Alerts shows them as they
are now. You are told within ten minutes, and not while this DAG cannot run.

**Red?** The log of the red task says why. `archive_receipts` red with *Locked*: another archiver is at work,
the next run finds what is left. Nothing is lost or doubled however often a task is killed or cleared.
"""

from airflow.sdk import DAG, chain, task

from marquee_airflow.defaults import DEFAULT_ARGS, TAGS, outcomes
from marquee_airflow.notifiers import announce
from pipelines.settings import settings


@task.short_circuit
@outcomes()
def watch_receipts() -> bool:
    """Tell what is new; false, which skips the rest, when the database does not answer."""
    from pipelines.audit import upkeep

    return upkeep.watch_receipts(settings(), announce=announce)


@task
@outcomes()
def watch_alarms() -> list[str]:
    """Tell what began to fire and what is over; returns what is firing."""
    from pipelines.audit import alarms

    return alarms.watch_alarms(settings(), announce=announce)


@task
@outcomes()
def archive_receipts() -> dict[str, int]:
    """Move old days out of the database; returns how many receipts of which day."""
    from pipelines.audit import upkeep

    return {f"{each.day}": each.receipts for each in upkeep.archive_receipts(settings())}


@task
@outcomes()
def thin_looks() -> int:
    """Let go of old figures of looks; returns of how many looks."""
    from pipelines.audit import upkeep

    return upkeep.thin_looks(settings())


with DAG(
    dag_id="housekeeping",
    description="Every ten minutes: receipts lost, stuck, or old enough for the archive; alerts that fire",
    doc_md=__doc__,
    schedule="*/10 * * * *",
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    tags=TAGS,
):
    chain(watch_receipts(), [archive_receipts(), thin_looks()])
    watch_alarms()
