"""The DAGs in a real Airflow: scheduler, triggerer, API and all, with stand-ins for the steps.

One Airflow serves all tests. Each sets a script, which says what the steps return or raise, and reads back
which steps were called with what (``airflow_standin/``).
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, sync_playwright

from pipelines.local import catchers
from pipelines.local.airflow import PROGRAMS, USER, admin_password, airflow_environment
from pipelines.local.airflow_api import FINISHED, AirflowApi
from pipelines.settings import PROJECT_DIR, Settings, read
from tests.ports import free_ports

START_S = 120.0
RUN_S = 90.0
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
    "outcome": "promote",
}


def raising(kind: str, text: str) -> dict[str, str]:
    return {"raise": kind, "text": text}


@dataclass
class Stage:
    """A running Airflow, the script of its stand-ins and what has arrived from it."""

    api: AirflowApi
    folder: Path
    url: str

    def play(self, **changes: Any) -> None:
        """Set the script: all goes well but for ``changes``; forgets what was called and announced."""
        (self.folder / "script.json").write_text(json.dumps(GOOD | changes))
        (self.folder / "calls.jsonl").unlink(missing_ok=True)
        for caught in [*self.folder.glob("slack/*"), *self.folder.glob("mails/*")]:
            caught.unlink()

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
        environment = os.environ | of_the_steps(folder, smtp_port, slack_port) | airflow(config, folder)
        stack.enter_context(running(environment, folder))
        api = AirflowApi(config.airflow_url, USER, admin_password(folder / "airflow"))
        stack.callback(api.close)
        api.wait_healthy(START_S, dag_ids=["collect", "retrain", "release", "rollback", "housekeeping"])
        yield Stage(api, folder, config.airflow_url)


def airflow(config: Settings, folder: Path) -> dict[str, str]:
    found = airflow_environment(config, folder / "airflow")
    return found | {"PYTHONPATH": f"{STANDIN}:{found['PYTHONPATH']}"}


def of_the_steps(folder: Path, smtp_port: int, slack_port: int) -> dict[str, str]:
    return {
        "MARQUEE_TEST_STAGE": str(folder),
        "MARQUEE_VAR_DIR": str(folder / "var"),
        "MARQUEE_LOOK_EVERY_S": "1",
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
def running(environment: dict[str, str], folder: Path) -> Iterator[None]:
    """Airflow's programs, each the head of a process group that is gone at the end."""
    migrate = ["airflow", "db", "migrate"]
    subprocess.run(migrate, env=environment, cwd=PROJECT_DIR, check=True, capture_output=True)
    with ExitStack() as stack:
        for name, command in PROGRAMS.items():
            log = stack.enter_context((folder / f"{name}.log").open("w"))
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=PROJECT_DIR,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(end, process)
        yield


def end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_airflow_waits_for_its_database_while_somebody_writes_for_long(stage):
    stage.play()
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
    assert stage.api.task_states("release", release) == {
        "open_release": "success",
        "preflight": "success",
        "start_canary": "success",
        "watch_canary": "success",
        "decide": "success",
        "ask": "skipped",
        "promote": "success",
        "abort": "skipped",
        "step_failed": "skipped",
    }
    (opened,) = stage.calls("open_release")
    assert opened == {"version": 7, "requested_by": release, "window_s": 43_200.0}
    steps = ("validate", "train", "gate", "version")
    assert {call["run_id"] for name in steps for call in stage.calls(name)} == {run}
    assert stage.called()[:5] == ["collect", "validate", "train", "gate", "version"]


def test_alerts_of_a_task_arrive_in_slack_and_by_mail(stage):
    stage.play()
    stage.release("success")
    assert stage.announced() == ["Marquee: promoted\n500 ms &lt; 600 ms &amp; decided by ''"]
    (mail,) = catchers.read_mails(stage.folder / "mails")
    assert (mail.subject, mail.text) == (
        "Marquee: promoted",
        "Marquee: promoted\n500 ms < 600 ms & decided by ''",
    )


def test_a_version_is_released_by_hand(stage):
    stage.play()
    run, _ = stage.release("success", version=3)
    (opened,) = stage.calls("open_release")
    assert (opened["version"], opened["requested_by"]) == (3, f"{run} by {USER}")


def test_a_failed_verdict_takes_the_canary_away_and_the_run_is_green(stage):
    stage.play(look=LOOK | {"verdict": "fail", "reason": "900 ms"}, outcome="abort")
    _, states = stage.release("success")
    assert (states["abort"], states["promote"], states["ask"]) == ("success", "skipped", "skipped")
    assert states["step_failed"] == "skipped"
    assert stage.announced() == ["Marquee: taken away\n{{ this is no template }}"]


@pytest.mark.parametrize(("answer", "other"), [("promote", "abort"), ("abort", "promote")])
def test_a_person_decides_what_could_not_be_measured(stage, answer, other):
    stage.play(look=LOOK | {"verdict": "no traffic", "reason": "no request"}, outcome="ask")
    run = stage.api.trigger("release")
    stage.api.wait_task("release", run, "ask", {"awaiting_input"}, RUN_S)
    assert stage.calls("ask") == [{"release_id": 1}]
    assert (stage.calls("promote"), stage.calls("abort")) == ([], [])
    answer_whenever_asked(stage, run, answer)
    assert stage.api.wait_run("release", run, RUN_S) == "success"
    assert stage.calls(answer) == [{"release_id": 1, "decided_by": USER}]
    assert stage.calls(other) == []
    assert stage.api.task_states("release", run)[other] == "skipped"


def answer_whenever_asked(stage: Stage, run: str, answer: str) -> None:
    """Answer as a person does who is asked again.

    Airflow 3.3.2 takes an answer that comes before its scheduler has noticed the end of the asking process
    (milliseconds: no person is that fast) for a task that was killed, and asks once more.
    """
    deadline = time.monotonic() + RUN_S
    while (state := stage.api.run_state("release", run)) not in FINISHED and time.monotonic() < deadline:
        if stage.api.task_states("release", run)["ask"] == "awaiting_input":
            stage.api.respond("release", run, "ask", answer)
        time.sleep(0.3)
    assert state in FINISHED


def test_a_broken_step_takes_the_canary_away_and_the_run_is_red(stage):
    stage.play(start_canary=raising("FleetError", "replica never became ready"), outcome="abort")
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
    stage.play(look=raising("MeasurementError", "the ledger is away"), outcome="abort")
    _, states = stage.release("failed")
    assert (states["watch_canary"], states["abort"]) == ("failed", "success")
    assert len(stage.calls("look")) == 3 * 5


def test_a_broken_decision_takes_the_canary_away(stage):
    stage.play(outcome=raising("MarqueeError", "no ledger"))
    _, states = stage.release("failed")
    assert (states["decide"], states["ask"], states["promote"]) == (
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
    assert call == {"version": 2, "why": "it was better", "requested_by": f"{run} by {USER}"}


@pytest.mark.parametrize(("answers", "archived"), [(True, "success"), (False, "skipped")])
def test_housekeeping_archives_when_the_database_answers(stage, answers, archived):
    stage.play(watch_receipts={"answers": answers, "alert": "Marquee: 7 receipt(s) lost"})
    run = stage.api.trigger("housekeeping")
    assert stage.api.wait_run("housekeeping", run, RUN_S) == "success"
    assert stage.api.task_states("housekeeping", run) == {
        "watch_receipts": "success",
        "archive_receipts": archived,
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
