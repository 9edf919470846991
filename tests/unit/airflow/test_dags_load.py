"""Rules that every DAG keeps, and the order of their tasks."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from itertools import pairwise

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, TriggerRule
from airflow.sdk.exceptions import ParamValidationError

from marquee_airflow import training
from marquee_airflow.defaults import announce_failure
from marquee_airflow.timetables import ANCHOR
from pipelines.release.entries import State
from pipelines.settings import PROJECT_DIR, FleetKind, read

DAG_IDS = {"collect", "retrain", "release", "rollback", "steer", "housekeeping", "fire_drill"}
HEAVY = ["pandas", "numpy", "surprise", "great_expectations", "slack_sdk", "aiosmtplib", "alembic", "kafka"]
SPEAKS_FOR_OTHERS = {"step_failed"}
"""Tasks without a callback: what they report has been announced."""


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(PROJECT_DIR / "dags")


def order(dag: DAG) -> dict[str, set[str]]:
    return {task.task_id: set(task.downstream_task_ids) for task in dag.tasks}


def test_every_dag_loads(bag):
    assert bag.import_errors == {}


def test_every_dag_is_known_to_the_tests(bag):
    assert set(bag.dags) == DAG_IDS, "add the new DAG to DAG_IDS in this file, and its order below"


@pytest.mark.parametrize("dag_id", sorted(DAG_IDS))
def test_every_dag_has_a_manual_tags_and_one_run_at_a_time(bag, dag_id):
    dag = bag.dags[dag_id]
    assert "Red" in (dag.doc_md or ""), "the docstring is the manual: say what to do when the DAG is red"
    assert dag.description
    assert dag.tags == {"marquee"}
    assert dag.max_active_runs == 1
    assert not dag.catchup


@pytest.mark.parametrize("dag_id", sorted(DAG_IDS))
def test_every_task_is_retried_and_announces_its_failure(bag, dag_id):
    for task in bag.dags[dag_id].tasks:
        if task.task_id in SPEAKS_FOR_OTHERS:
            assert not task.on_failure_callback
            continue
        assert list(task.on_failure_callback) == [announce_failure], f"use DEFAULT_ARGS for {task.task_id}"
        assert task.retries == 2
        assert task.owner == "marquee"


@pytest.mark.parametrize("dag_id", sorted(DAG_IDS))
def test_the_manual_names_every_task(bag, dag_id):
    dag = bag.dags[dag_id]
    missing = [task_id for task_id in dag.task_ids if f"`{task_id}`" not in dag.doc_md]
    assert missing == [], f"say in the docstring of {dag_id} what these tasks do"


def test_retrain_goes_straight_from_events_to_a_version(bag):
    assert order(bag.dags["retrain"]) == {
        "collect": {"validate"},
        "validate": {"train"},
        "train": {"gate"},
        "gate": {"version"},
        "version": set(),
    }


def test_where_there_is_an_image_for_it_the_training_has_a_container_and_the_same_place(monkeypatch):
    config = read(
        _env_file=None, fleet=FleetKind.DOCKER, train_image="marquee-airflow", smtp_password="x-secret"
    )
    for where in ("pipelines.settings", training.__name__):
        monkeypatch.setattr(f"{where}.settings", lambda: config)
    inside = DagBag(PROJECT_DIR / "dags" / "retrain.py")
    assert inside.import_errors == {}
    train = inside.dags["retrain"].get_task("train")
    assert (train.task_type, train.upstream_task_ids, train.downstream_task_ids) == (
        "TrainOperator",
        {"validate"},
        {"gate"},
    )
    assert (train.retries, list(train.on_failure_callback)) == (2, [announce_failure])
    assert train.command == ["python", "-m", "pipelines", "train", "--run", "{{ run_id }}"]
    assert "x-secret" not in str(vars(train)), "what an operator holds is shown and stored"


def test_version_publishes_the_asset_that_release_waits_for(bag):
    (outlet,) = bag.dags["retrain"].get_task("version").outlets
    assert outlet.name == "model"
    assert outlet.uri in str(bag.dags["release"].timetable.asset_condition)


def test_release_watches_then_asks_then_decides_then_looks_after_what_it_promoted(bag):
    direct = order(bag.dags["release"])
    flow = [
        *("open_release", "preflight", "start_canary", "watch_canary", "ask"),
        *("decide", "promote", "guard", "settle"),
    ]
    for task, following in pairwise(flow):
        assert following in direct[task]
    assert direct["decide"] == {"promote", "abort"}


def test_a_person_may_steer_beside_the_watch_and_beside_the_guard(bag):
    release = bag.dags["release"]
    direct = order(release)
    for beside, steer in {"watch_canary": "steer", "guard": "keep_or_revert"}.items():
        assert release.get_task(steer).upstream_task_ids == release.get_task(beside).upstream_task_ids
        assert direct[steer] == {"step_failed"}, "nothing waits for a person who need not come"
        assert set(release.get_task(steer).answers.values()) == {"approve", "extend", "abort"}
    assert set(release.get_task("ask").answers.values()) == {"approve", "abort"}


def test_each_question_stands_in_a_state_that_the_ledger_knows(bag):
    release = bag.dags["release"]
    states = {task: State(release.get_task(task).state) for task in ("steer", "ask", "keep_or_revert")}
    assert states == {"steer": State.WATCHING, "ask": State.ASKING, "keep_or_revert": State.GUARDING}


def test_the_canary_is_decided_and_taken_down_whatever_happened(bag):
    release = bag.dags["release"]
    assert release.get_task("decide").trigger_rule == TriggerRule.ALL_DONE
    assert release.get_task("abort").trigger_rule == TriggerRule.ALL_DONE
    assert release.get_task("promote").trigger_rule == TriggerRule.ALL_SUCCESS


def test_what_was_promoted_is_settled_though_its_guard_broke(bag):
    settle = bag.dags["release"].get_task("settle")
    assert settle.trigger_rule == TriggerRule.ALL_DONE_MIN_ONE_SUCCESS
    assert settle.upstream_task_ids == {"promote", "guard"}, "success of another would count for the rule"


def test_a_failed_step_is_what_colours_the_run(bag):
    release = bag.dags["release"]
    last = [task.task_id for task in release.tasks if not task.downstream_task_ids]
    assert last == ["step_failed"]
    failed = release.get_task("step_failed")
    assert failed.trigger_rule == TriggerRule.ONE_FAILED
    # A branch skips what stands directly behind it: a run without a release would end green.
    assert "decide" not in failed.upstream_task_ids


def test_only_training_waits_to_be_switched_on(bag):
    paused = {dag_id: dag.is_paused_upon_creation for dag_id, dag in bag.dags.items()}
    assert paused == {dag_id: None if dag_id == "retrain" else False for dag_id in DAG_IDS}


def test_events_are_collected_every_hour_and_not_while_a_training_begins(bag):
    collect = bag.dags["collect"]
    assert order(collect) == {"collect": set()}
    minute, *others = collect.timetable.expression.split()
    assert (others, int(minute) != ANCHOR.minute) == (["*"] * 4, True)


def test_collect_publishes_the_asset_that_says_what_came(bag):
    (outlet,) = bag.dags["collect"].get_task("collect").outlets
    assert outlet.name == "events"


def test_a_fire_drill_waits_for_its_hour(bag):
    drill = bag.dags["fire_drill"]
    assert order(drill) == {"drill": set()}
    schedule = drill.timetable
    assert (schedule.expression, schedule.run_immediately) == ("0 20 * * SUN", timedelta(0))


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("fault", "all", True),
        ("fault", "none", True),
        ("fault", "wrong-ids", True),
        ("fault", "sloow", False),
        ("minutes", None, True),
        ("minutes", 0.5, True),
        ("minutes", 0, False),
    ],
)
def test_the_form_of_a_drill_takes_known_faults_and_minutes(bag, name, value, accepted):
    param = bag.dags["fire_drill"].params.get_param(name)
    if accepted:
        assert param.resolve(value) == value
    else:
        with pytest.raises(ValueError, match=r"is not one of|is less than or equal to the minimum"):
            param.resolve(value)


def test_housekeeping_looks_before_it_archives_every_ten_minutes(bag):
    housekeeping = bag.dags["housekeeping"]
    assert order(housekeeping) == {
        "watch_receipts": {"archive_receipts", "thin_looks"},
        "archive_receipts": set(),
        "thin_looks": set(),
        "watch_alarms": set(),
    }
    assert housekeeping.timetable.expression == "*/10 * * * *"


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("what", "approve", True),
        ("what", "extend", True),
        ("what", "abort", True),
        ("what", "promote", False),
        ("what", None, False),
        ("hours", 0.5, True),
        ("hours", 0, False),
        ("hours", 169, False),
        ("release_id", None, True),
        ("release_id", 3, True),
        ("release_id", 0, False),
        ("why", "x" * 501, False),
    ],
)
def test_the_form_to_steer_takes_what_the_ledger_does(bag, name, value, accepted):
    param = bag.dags["steer"].params.get_param(name)
    if accepted:
        assert param.resolve(value) == value
    else:
        with pytest.raises(ParamValidationError):
            param.resolve(value)


@pytest.mark.parametrize(
    ("dag_id", "version", "accepted"),
    [
        ("release", None, True),
        ("release", 1, True),
        ("release", 0, False),
        ("release", "1", False),
        ("rollback", 1, True),
        ("rollback", 0, False),
        ("rollback", None, False),
    ],
)
def test_the_form_takes_a_version_number(bag, dag_id, version, accepted):
    param = bag.dags[dag_id].params.get_param("version")
    if accepted:
        assert param.resolve(version) == version
    else:
        with pytest.raises(ValueError, match=r"is not of type|is less than the minimum"):
            param.resolve(version)


def test_parsing_imports_nothing_heavy():
    script = f"""
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag({str(PROJECT_DIR / "dags")!r})
print(json.dumps([len(bag.dags), [name for name in {HEAVY!r} if name in sys.modules]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": f"{PROJECT_DIR}:{PROJECT_DIR / 'plugins'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [len(DAG_IDS), []]
