"""The DAGs in a real Airflow: scheduler, triggerer, API and all, with stand-ins for the steps.

One Airflow serves all tests. Each sets a script, which says what the steps return or raise, and reads back
which steps were called with what (``airflow_standin/``).
"""

import json
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from playwright.sync_api import Page, sync_playwright

from marquee_airflow.triggers import MAX_FAILURES
from pipelines.local import catchers
from pipelines.local.airflow import PROGRAMS, USER, admin_password, airflow_environment
from pipelines.local.airflow_api import FINISHED, AirflowApi
from pipelines.settings import PROJECT_DIR, Settings, read
from tests.ports import free_ports
from tests.stage import Program, wait_until

START_S = 120.0
RUN_S = 180.0
READING_S = 2.0
DAG_IDS = ("collect", "retrain", "release", "rollback", "steer", "housekeeping")
LONGER_THAN_SQLITE_WAITS_S = 8.0
STANDIN = Path(__file__).parent / "airflow_standin"

LOOK = {"verdict": "pass", "reason": "120 ms", "final": True}
GOOD: dict[str, Any] = {
    "collect_new": {
        "batches": ["one"],
        "lines": 4,
        "partitions": {"0": {"first_offset": 3, "last_offset": 6, "lines": 4}},
    },
    "collect": {"batches": ["one"], "lines": 1},
    "validate": {},
    "train": {"rmse": 0.9},
    "gate": "RMSE 0.9 is below 1",
    "version": 7,
    "look": LOOK,
    "guard": LOOK,
}


HOLD = LOOK | {"verdict": "undecided", "reason": "12 of 500 answers", "final": False}
NO_TRAFFIC = LOOK | {"verdict": "no traffic", "reason": "no request"}

PROMOTED = {
    "open_release": "success",
    "preflight": "success",
    "start_canary": "success",
    "watch_canary": "success",
    "steer": "skipped",
    "ask": "skipped",
    "decide": "success",
    "promote": "success",
    "abort": "skipped",
    "guard": "success",
    "keep_or_revert": "skipped",
    "settle": "success",
    "step_failed": "skipped",
}
"""What becomes of the tasks when all goes well and nobody comes by."""
ANSWERED = {"success", "skipped"}
"""How a question ends that was answered within milliseconds; see `answer_whenever_asked`."""


def raising(kind: str, text: str) -> dict[str, str]:
    return {"raise": kind, "text": text}


@dataclass
class Stage:
    """A running Airflow, the script of its stand-ins and what has arrived from it."""

    api: AirflowApi
    folder: Path
    url: str
    programs: dict[str, Program] = field(repr=False)

    def play(self, **changes: Any) -> None:
        """Set the script: all goes well but for ``changes``; forgets what was called and announced."""
        self.go_on(**changes)
        (self.folder / "calls.jsonl").write_text("")
        for caught in [*self.folder.glob("slack/*"), *self.folder.glob("mails/*")]:
            caught.unlink()

    def go_on(self, **changes: Any) -> None:
        """Set the script in the middle of a run; what was called and announced is kept."""
        (self.folder / "script.json").write_text(json.dumps(GOOD | changes))

    def calls(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [call for line in lines if (call := json.loads(line)).pop("call") == name]

    def called(self) -> list[str]:
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [json.loads(line)["call"] for line in lines]

    def announced(self) -> list[str]:
        return [message.text for message in catchers.read_slack(self.folder / "slack")]

    def release(self, state: str, **params: Any) -> tuple[str, dict[str, str]]:
        """Run a release by hand to its end in ``state``; returns run id and task states."""
        run = self.api.trigger("release", params)
        assert self.api.wait_run("release", run, RUN_S) == state
        return run, self.api.task_states("release", run)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    airflow_port, smtp_port, slack_port = free_ports(3)
    config = read(_env_file=None, var_dir=folder / "var", airflow_port=airflow_port)
    with ExitStack() as stack:
        stack.enter_context(catching(catchers.run_smtp, smtp_port, folder / "mails"))
        stack.enter_context(catching(catchers.run_slack, slack_port, folder / "slack"))
        steps = of_the_steps(folder, airflow_port, smtp_port, slack_port)
        environment = os.environ | steps | airflow(config, folder)
        programs = stack.enter_context(running(environment, folder))
        api = AirflowApi(config.airflow_url, USER, admin_password(folder / "airflow"))
        stack.callback(api.close)
        api.wait_healthy(START_S, dag_ids=DAG_IDS)
        yield Stage(api, folder, config.airflow_url, programs)


def airflow(config: Settings, folder: Path) -> dict[str, str]:
    found = airflow_environment(config, folder / "airflow")
    return found | {"PYTHONPATH": f"{STANDIN}:{found['PYTHONPATH']}"}


def of_the_steps(folder: Path, airflow_port: int, smtp_port: int, slack_port: int) -> dict[str, str]:
    return {
        "MARQUEE_TEST_STAGE": str(folder),
        "MARQUEE_VAR_DIR": str(folder / "var"),
        "MARQUEE_AIRFLOW_PORT": str(airflow_port),
        "MARQUEE_LOOK_EVERY_S": "1",
        # Runs are those that a test starts.
        "MARQUEE_RETRAIN_AT_ONCE": "false",
        "MARQUEE_SLACK_WEBHOOK_URL": f"http://127.0.0.1:{slack_port}/services/T0/B0/x",
        "MARQUEE_SMTP_HOST": "127.0.0.1",
        "MARQUEE_SMTP_PORT": str(smtp_port),
        "MARQUEE_SMTP_TLS": "false",
    }


@contextmanager
def catching(run: Any, port: int, folder: Path) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(port, folder, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def running(environment: dict[str, str], folder: Path) -> Iterator[dict[str, Program]]:
    """Airflow's programs, each the head of a process group that is gone at the end."""
    migrate = ["airflow", "db", "migrate"]
    subprocess.run(migrate, env=environment, cwd=PROJECT_DIR, check=True, capture_output=True)
    programs = {
        name: Program(list(command), folder / f"{name}.log", environment)
        for name, command in PROGRAMS.items()
    }
    try:
        for program in programs.values():
            program.start()
        yield programs
    finally:
        for program in programs.values():
            program.kill()


def test_airflow_waits_for_its_database_while_somebody_writes_for_long(stage):
    stage.play()
    for dag_id in ("collect", "housekeeping"):
        wait_until(lambda: set(runs(stage, dag_id).values()) <= FINISHED, "what was due has run")  # noqa: B023
    database = sqlite3.connect(stage.folder / "airflow" / "airflow.db", timeout=30, check_same_thread=False)
    database.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(LONGER_THAN_SQLITE_WAITS_S, database.rollback)
    release.start()
    run = stage.api.trigger("rollback", {"version": 1})
    release.join()
    database.close()
    assert stage.api.wait_run("rollback", run, RUN_S) == "success"


def test_a_training_releases_its_version_without_anybody(stage):
    stage.play()
    stage.api.unpause("retrain")
    assert stage.api.latest_run("retrain") is None, "switching the DAG on must not start it"
    run = stage.api.trigger("retrain")
    assert stage.api.wait_run("retrain", run, RUN_S) == "success"
    release = wait_for_release(stage, None)
    assert stage.api.wait_run("release", release, RUN_S) == "success"
    assert stage.api.task_states("release", release) == PROMOTED
    (opened,) = stage.calls("open_release")
    assert opened == {
        "version": None,
        "requested_by": release,
        "window_s": 43_200.0,
        "run_url": f"{stage.url}/dags/release/runs/{quote(release)}",
        "automatic": True,
    }
    steps = ("validate", "train", "gate", "version")
    assert {call["run_id"] for name in steps for call in stage.calls(name)} == {run}
    assert stage.called()[:5] == ["collect", "validate", "train", "gate", "version"]


def test_alerts_of_a_task_arrive_in_slack_and_by_mail(stage):
    stage.play()
    stage.release("success")
    assert stage.announced() == ["Marquee: promoted\n500 ms &lt; 600 ms &amp; all is well"]
    (mail,) = catchers.read_mails(stage.folder / "mails")
    assert (mail.subject, mail.text) == (
        "Marquee: promoted",
        "Marquee: promoted\n500 ms < 600 ms & all is well",
    )


def test_an_alert_of_a_look_arrives_from_the_triggerer(stage):
    stage.play(look=[HOLD | {"alert": "Marquee: an instrument is broken"}, LOOK])
    stage.release("success")
    assert stage.announced()[0] == "Marquee: an instrument is broken\na test"


def test_a_version_is_released_by_hand(stage):
    stage.play()
    run, _ = stage.release("success", version=3)
    (opened,) = stage.calls("open_release")
    assert (opened["version"], opened["requested_by"]) == (3, f"{run} by {USER}")
    assert not opened["automatic"]


def test_a_failed_verdict_takes_the_canary_away_and_the_run_is_green(stage):
    stage.play(look=LOOK | {"verdict": "fail", "reason": "900 ms"})
    _, states = stage.release("success")
    assert (states["abort"], states["promote"], states["ask"]) == ("success", "skipped", "skipped")
    assert states["step_failed"] == "skipped"
    assert stage.announced() == ["Marquee: taken away\n{{ this is no template }}"]


def test_a_person_decides_what_could_not_be_measured(stage):
    stage.play(look=NO_TRAFFIC)
    run = stage.api.trigger("release")
    answer_whenever_asked(stage, run, "ask", "promote", why="it looks good")
    assert stage.calls("ask")[0] == {"release_id": 1}
    assert stage.calls("intervene") == [by_person("approve", why="it looks good")]
    assert stage.api.wait_run("release", run, RUN_S) == "success"
    states = stage.api.task_states("release", run)
    assert (states["promote"], states["abort"]) == ("success", "skipped")
    assert states["ask"] in ANSWERED


def test_a_question_that_is_answered_elsewhere_is_not_asked_any_more(stage):
    stage.play(look=NO_TRAFFIC)
    run = stage.api.trigger("release")
    stage.api.wait_task("release", run, "ask", {"deferred"}, RUN_S)
    steered = stage.api.trigger("steer", {"what": "abort", "why": "no need to wait"})
    assert stage.api.wait_run("steer", steered, RUN_S) == "success"
    assert stage.calls("intervene") == [
        by_person("abort", why="no need to wait", seconds=3_600) | {"release_id": None}
    ]
    assert stage.api.wait_run("release", run, RUN_S) == "success"
    states = stage.api.task_states("release", run)
    assert (states["ask"], states["abort"]) == ("skipped", "success")


def test_a_person_takes_away_what_is_being_watched(stage):
    stage.play(look=HOLD)
    run = stage.api.trigger("release")
    answer_whenever_asked(stage, run, "steer", "take away", why="I know it", hours=2)
    assert stage.calls("intervene") == [by_person("abort", why="I know it", seconds=7_200)]
    assert stage.api.wait_run("release", run, RUN_S) == "success"
    states = stage.api.task_states("release", run)
    assert (states["ask"], states["abort"]) == ("skipped", "success")
    assert states["steer"] in ANSWERED


def test_an_extended_watch_goes_on_and_its_question_is_put_again(stage):
    stage.play(look=HOLD)
    run = stage.api.trigger("release")
    answer_whenever_asked(stage, run, "steer", "extend", why="too few yet", hours=1.5)
    wait_until(lambda: waits_for_answer(stage, run, "steer"), "the question is put again")
    before = len(stage.calls("look"))
    wait_until(lambda: len(stage.calls("look")) > before, "the watch goes on")
    answer_whenever_asked(stage, run, "steer", "promote now")
    assert stage.calls("intervene") == [
        by_person("extend", why="too few yet", seconds=5_400),
        by_person("approve", why="", seconds=3_600),
    ]
    assert stage.api.wait_run("release", run, RUN_S) == "success"


def test_a_person_reverts_what_is_being_guarded(stage):
    stage.play(guard=HOLD)
    run = stage.api.trigger("release")
    answer_whenever_asked(stage, run, "keep_or_revert", "revert")
    assert stage.calls("intervene") == [by_person("abort", why="", seconds=3_600)]
    assert stage.api.wait_run("release", run, RUN_S) == "success"
    states = stage.api.task_states("release", run)
    assert (states["steer"], states["settle"]) == ("skipped", "success")
    assert states["keep_or_revert"] in ANSWERED


def test_a_promotion_that_breaks_is_neither_guarded_nor_settled(stage):
    stage.play(promote=raising("FleetError", "replica never became ready"))
    _, states = stage.release("failed")
    assert (states["promote"], states["abort"]) == ("failed", "skipped")
    assert {states[task] for task in ("guard", "keep_or_revert", "settle")} == {"upstream_failed"}
    assert stage.calls("settle") == []


def test_a_guard_that_finds_the_version_bad_is_settled_and_green(stage):
    stage.play(guard=LOOK | {"verdict": "fail", "reason": "p99 900 ms"})
    _, states = stage.release("success")
    assert (states["guard"], states["keep_or_revert"], states["settle"]) == ("success", "skipped", "success")
    assert stage.called()[-1] == "settle"


def test_a_guard_that_breaks_is_settled_and_the_run_is_red(stage):
    stage.play(guard=raising("MeasurementError", "the ledger is away"))
    _, states = stage.release("failed")
    assert (states["guard"], states["settle"], states["abort"]) == ("failed", "success", "skipped")
    assert states["step_failed"] == "failed"


def test_of_the_versions_that_come_during_a_watch_the_newest_is_released_and_all_runs_are_green(stage):
    stage.play(look=HOLD, version=11)
    before = runs(stage, "release")
    train(stage)
    wait_until(lambda: stage.calls("look"), "version 11 is watched")
    for version in (12, 13):
        stage.go_on(look=HOLD, version=version)
        train(stage)
    stage.go_on(version=13)
    wait_until(lambda: {"version": 13} in stage.calls("opened"), "version 13 is released")
    wait_until(lambda: set(runs(stage, "release").values()) <= FINISHED, "every release has ended")
    ended = {run: state for run, state in runs(stage, "release").items() if run not in before}
    assert set(ended.values()) == {"success"}
    assert stage.calls("opened") == [{"version": 11}, {"version": 13}]
    assert len(stage.calls("promote")) == 2


def test_a_release_with_nothing_left_to_release_is_skipped_and_green(stage):
    stage.play(open_release=raising("NothingNew", "version 7, the newest, had its release already"))
    run, states = stage.release("success")
    assert states.pop("decide") == "success", "it looks whether there is a canary to take away"
    assert set(states.values()) == {"skipped"}
    assert "the newest, had its release already" in stage.api.log("release", run, "open_release")
    assert stage.announced() == []


def train(stage: Stage) -> None:
    assert stage.api.wait_run("retrain", stage.api.trigger("retrain"), RUN_S) == "success"


def runs(stage: Stage, dag_id: str) -> dict[str, str]:
    """The state of every run of the DAG."""
    found = stage.api._call("GET", f"/dags/{dag_id}/dagRuns?limit=100")["dag_runs"]
    return {run["dag_run_id"]: run["state"] for run in found}


def test_a_watch_survives_whatever_of_airflow_is_killed(stage):
    looks = [HOLD] * 8 + [LOOK]
    stage.play(look=looks, look_takes_s=1)
    run = stage.api.trigger("release")
    orphans = []
    for kill in (kill_triggerer, kill_scheduler, kill_worker):
        wait_until(lambda: len(stage.calls("look begins")) > len(stage.calls("look")), "a look is on")
        seen = len(stage.calls("look"))
        orphans += kill(stage)
        wait_until(lambda: len(stage.calls("look")) > seen + 1, "looks go on")  # noqa: B023
    assert stage.api.wait_run("release", run, RUN_S) == "success"
    assert stage.api.task_states("release", run) == PROMOTED
    assert len(stage.calls("look begins")) - len(stage.calls("look")) <= 1, "more than one look was lost"
    assert len(stage.calls("look")) - len(looks) <= 1, "more than one look was doubled"
    assert [len(stage.calls(step)) for step in ("start_canary", "promote", "settle")] == [1, 1, 1]
    assert stage.announced() == ["Marquee: promoted\n500 ms &lt; 600 ms &amp; all is well"]
    assert psutil.wait_procs(orphans, RUN_S)[1] == [], "workers outlive their scheduler"


def kill_triggerer(stage: Stage) -> list[psutil.Process]:
    return restart(stage.programs["airflow-triggerer"])


def kill_scheduler(stage: Stage) -> list[psutil.Process]:
    return restart(stage.programs["airflow-scheduler"])


def kill_worker(stage: Stage) -> list[psutil.Process]:
    """Kill the first worker of the scheduler: with Airflow's own queue it is the one that holds the lock."""
    scheduler = stage.programs["airflow-scheduler"].process
    assert scheduler is not None
    workers: list[psutil.Process] = []

    def there() -> bool:
        # Not what the scheduler runs for a moment while it starts.
        children = psutil.Process(scheduler.pid).children()
        workers[:] = [each for each in children if time.time() - each.create_time() > 1.0]
        return bool(workers)

    wait_until(there, "the new scheduler has workers")
    workers[0].kill()
    return []


def restart(program: Program) -> list[psutil.Process]:
    """Kill the program with -9 and start it again as supervisord does; return the children it had."""
    assert program.process is not None
    children = psutil.Process(program.process.pid).children()
    program.process.kill()
    program.process.wait()
    program.start()
    return children


def test_nothing_to_steer_is_red_and_changes_nothing(stage):
    stage.play()
    (stage.folder / "state").write_text("promoted")
    run = stage.api.trigger("steer", {"what": "extend", "hours": 2})
    assert stage.api.wait_run("steer", run, RUN_S) == "failed"
    assert "release 1 is promoted: too late to extend" in stage.api.log("steer", run, "intervene")
    assert {call["what"] for call in stage.calls("intervene")} == {"extend"}


def by_person(what: str, *, why: str, seconds: float = 0.0) -> dict[str, Any]:
    return {"release_id": 1, "what": what, "who": USER, "why": why, "seconds": seconds}


def waits_for_answer(stage: Stage, run: str, task: str) -> bool:
    path = f"/dags/release/dagRuns/{quote(run, safe='')}/hitlDetails?task_id={task}&response_received=false"
    waiting = stage.api._call("GET", path)["total_entries"]
    return bool(waiting) and stage.api.task_states("release", run)[task] == "deferred"


def answer_whenever_asked(stage: Stage, run: str, task: str, answer: str, **form: Any) -> None:
    """Answer as a person does, who reads first, and answers again when asked again.

    Airflow 3.3.2 takes an answer that comes before its scheduler has noticed the end of the asking process
    (milliseconds: no person is that fast) for a task that was killed, and runs it once more: that asks again,
    or is skipped when the answer had reached the ledger.
    """
    answered = len(stage.calls("intervene")) + 1
    deadline = time.monotonic() + RUN_S
    while len(stage.calls("intervene")) < answered and time.monotonic() < deadline:
        if waits_for_answer(stage, run, task):
            time.sleep(READING_S)
            defaults = {"why": ""} if task == "ask" else {"why": "", "hours": 1}
            stage.api.respond("release", run, task, answer, params=defaults | form)
        time.sleep(0.3)
    assert len(stage.calls("intervene")) == answered


def test_a_broken_step_takes_the_canary_away_and_the_run_is_red(stage):
    stage.play(start_canary=raising("FleetError", "replica never became ready"))
    _, states = stage.release("failed")
    assert len(stage.calls("start_canary")) == 3
    assert (states["start_canary"], states["watch_canary"]) == ("failed", "upstream_failed")
    assert (states["decide"], states["abort"], states["promote"]) == ("success", "success", "skipped")
    assert states["step_failed"] == "failed"
    first, second = stage.announced()
    assert first.startswith("Marquee: task start_canary of release failed")
    assert "FleetError: replica never became ready" in first
    assert second.startswith("Marquee: taken away")


def test_a_watch_that_breaks_takes_the_canary_away(stage):
    stage.play(look=raising("MeasurementError", "the ledger is away"))
    _, states = stage.release("failed")
    assert (states["watch_canary"], states["abort"]) == ("failed", "success")
    assert len(stage.calls("look begins")) == 3 * MAX_FAILURES


def test_a_broken_decision_takes_the_canary_away(stage):
    stage.play(outcome=raising("MarqueeError", "no ledger"))
    _, states = stage.release("failed")
    assert (states["decide"], states["promote"], states["settle"]) == (
        "failed",
        "upstream_failed",
        "upstream_failed",
    )
    assert states["abort"] == "success"


def test_a_release_that_never_opened_has_nothing_to_take_away(stage):
    stage.play(open_release=raising("ReleaseError", "no such version"))
    _, states = stage.release("failed", version=99)
    assert (states["decide"], states["abort"], states["promote"]) == ("success", "skipped", "skipped")
    assert stage.calls("abort") == []


def test_nothing_new_is_skipped_and_nothing_is_released(stage):
    stage.play(collect=raising("NothingNew", "no event has come"))
    before = stage.api.latest_run("release")
    run = stage.api.trigger("retrain")
    assert stage.api.wait_run("retrain", run, RUN_S) == "success"
    assert set(stage.api.task_states("retrain", run).values()) == {"skipped"}
    assert "no event has come" in stage.api.log("retrain", run, "collect")
    assert stage.api.latest_run("release") == before
    assert stage.announced() == []


def test_new_events_are_published_with_what_came(stage):
    stage.play()
    run = stage.api.trigger("collect")
    assert stage.api.wait_run("collect", run, RUN_S) == "success"
    (event,) = published(stage, run)
    assert event["extra"] == {"lines": 4, "batches": ["one"], "newest_offsets": {"0": 6}}


@pytest.mark.parametrize(
    "answer",
    [
        raising("NothingNew", "no event has come"),
        raising("Locked", "process 4711 is collecting into var/batches and only one may"),
    ],
)
def test_without_new_events_or_beside_another_collector_the_hour_is_skipped(stage, answer):
    stage.play(collect_new=answer)
    run = stage.api.trigger("collect")
    assert stage.api.wait_run("collect", run, RUN_S) == "success"
    assert stage.api.task_states("collect", run) == {"collect": "skipped"}
    assert answer["text"] in stage.api.log("collect", run, "collect")
    assert (published(stage, run), stage.announced()) == ([], [])


def published(stage: Stage, run: str) -> list[dict[str, Any]]:
    """The events of assets that a run of the DAG ``collect`` published."""
    path = f"/assets/events?source_dag_id=collect&source_run_id={quote(run, safe='')}"
    return stage.api._call("GET", path)["asset_events"]


def test_a_refused_model_fails_at_once_and_nothing_is_released(stage):
    stage.play(gate=raising("Refused", "RMSE 1.2 is above the limit 1"))
    before = stage.api.latest_run("release")
    run = stage.api.trigger("retrain")
    assert stage.api.wait_run("retrain", run, RUN_S) == "failed"
    states = stage.api.task_states("retrain", run)
    assert (states["gate"], states["version"]) == ("failed", "upstream_failed")
    assert len(stage.calls("gate")) == 1
    assert "RMSE 1.2 is above the limit 1" in stage.api.log("retrain", run, "gate")
    assert stage.api.latest_run("release") == before
    assert stage.announced() == [], "a refusal has announced itself"


def test_a_version_is_put_back_by_hand(stage):
    stage.play()
    run = stage.api.trigger("rollback", {"version": 2, "why": "it was better"})
    assert stage.api.wait_run("rollback", run, RUN_S) == "success"
    (call,) = stage.calls("rollback")
    assert call == {
        "version": 2,
        "why": "it was better",
        "requested_by": f"{run} by {USER}",
        "run_url": f"{stage.url}/dags/rollback/runs/{quote(run)}",
    }


@pytest.mark.parametrize(("answers", "archived"), [(True, "success"), (False, "skipped")])
def test_housekeeping_archives_when_the_database_answers(stage, answers, archived):
    stage.play(watch_receipts={"answers": answers, "alert": "Marquee: 7 receipt(s) lost"})
    run = stage.api.trigger("housekeeping")
    assert stage.api.wait_run("housekeeping", run, RUN_S) == "success"
    assert stage.api.task_states("housekeeping", run) == {
        "watch_receipts": "success",
        "archive_receipts": archived,
        "thin_looks": archived,
        "watch_alarms": "success",
    }
    assert "Marquee: 7 receipt(s) lost\na test" in stage.announced()


def wait_for_release(stage: Stage, before: str | None) -> str:
    for _ in range(200):
        if (run := stage.api.latest_run("release")) != before and run is not None:
            return run
        threading.Event().wait(0.3)
    raise AssertionError("no release was started")


def test_a_person_releases_a_version_by_hand_in_the_browser(stage: Stage) -> None:
    stage.play()
    url = stage.url
    with browser() as page:
        page.goto(f"{url}/auth/login")
        page.fill("input[name=username]", USER)
        page.fill("input[name=password]", admin_password(stage.folder / "airflow"))
        page.click("button[type=submit]")
        page.wait_for_url(f"{url}/")
        page.goto(f"{url}/dags/release")
        page.get_by_role("button", name="Trigger").first.click()
        form = page.get_by_role("dialog")
        form.get_by_text("Version to release; empty: the newest").wait_for()
        form.locator("input[type=number], input[inputmode=decimal]").first.fill("7")
        before = stage.api.latest_run("release")
        form.get_by_role("button", name="Trigger").click()
        form.wait_for(state="hidden")
    run = stage.api.latest_run("release")
    assert run != before
    assert stage.api.wait_run("release", run, RUN_S) == "success"
    assert stage.calls("open_release")[0]["version"] == 7


@contextmanager
def browser() -> Iterator[Page]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no browser on this machine: apt-get install chromium")
    quiet = ["background-networking", "component-update", "sync", "quic", "gpu"]
    options = ["--no-sandbox", "--no-first-run", *(f"--disable-{what}" for what in quiet)]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=options)
        try:
            yield started.new_page()
        finally:
            started.close()
