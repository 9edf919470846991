"""The whole loop on one machine, live: a version is bootstrapped, viewers come, Airflow retrains and
releases, and the terminal shows it.

The demo changes nothing but the canary's window (twelve hours become a minute, so that only coarse effects
can be seen in it, and no guard follows) and, by scenario, what is wrong with the world. Every limit is the
real one.
"""

import logging
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from pipelines import retrain
from pipelines.alerts import Alert
from pipelines.errors import StackError
from pipelines.fault import Fault
from pipelines.local import airflow, broker, catchers
from pipelines.local.airflow_api import FINISHED, AirflowApi
from pipelines.local.audience.history import history
from pipelines.local.show import Show, View
from pipelines.local.stack import TOOLS_DIR, Stack, answers, wait_for
from pipelines.release import steps
from pipelines.release.entries import Release
from pipelines.release.figures import Measurement
from pipelines.release.plan import Plan
from pipelines.release.world import World, world
from pipelines.settings import PROJECT_DIR, EventSource, Settings, read

WINDOW_S = 60.0
_SEEN_IN_A_MINUTE = {
    "look_every_s": 5.0,
    "see_error_share": 0.5,
    "see_slow_share": 0.5,
    "see_below_more": 0.9,
    "guard_s": 0.0,
}
"""What some 100 answers of a candidate can show. By default a watch must see errors rise from 1 % to 2 %."""
_SEED = 1
_VIEWERS_S = 30.0
_READY_S = 180.0
_STORY_S = 900.0
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_TASKS = (
    *("collect", "validate", "train", "gate", "version"),
    *("open_release", "preflight", "start_canary", "watch_canary", "steer", "ask", "decide"),
    *("promote", "abort", "guard", "keep_or_revert", "settle"),
    "step_failed",
)
"""The order in which they are shown."""
_DAGS = ("retrain", "release", "rollback")


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is wrong with the world, and how the story must end then."""

    name: str
    tells: str
    """One line for the terminal."""
    ends: str
    """``promoted``, ``aborted`` or ``refused``."""
    taste: str = "movielens"
    """How viewers rate; ``random`` ratings cannot be learnt."""
    settings: dict[str, Any] = field(default_factory=dict)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("good", "a sound candidate; it shall be promoted", "promoted"),
        Scenario(
            "slow",
            "a candidate that needs 700 ms for an answer; it shall be taken away",
            "aborted",
            settings={"canary_fault": Fault.SLOW},
        ),
        Scenario(
            "bad-rmse", "viewers rate by rolling dice; the gate shall refuse the model", "refused", "random"
        ),
    )
}


def run(scenario: Scenario, *, once: bool, console: Console) -> bool:
    """Play ``scenario`` and return whether it ended as it must.

    With ``once`` everything is stopped after the verdict, otherwise on Ctrl-C. Run-time state lies in
    ``var/demo`` and is made anew each time.
    """
    started = time.monotonic()
    # The terminal tells the story; what goes wrong is still said.
    logging.getLogger("pipelines").setLevel(logging.WARNING)
    console.print(
        f"[bold]Marquee on one machine[/bold] · scenario [bold]{scenario.name}[/bold]: {scenario.tells}"
    )
    ended_well = False
    with _interruptible():
        demo = _Demo(scenario, console)
        try:
            ended_well = demo.play()
            console.print(f"[dim]the story took {time.monotonic() - started:.0f} s[/dim]")
            demo.say_where_to_look()
            if not once:
                console.print("everything stays up until Ctrl-C …")
                signal.pause()
        except KeyboardInterrupt:
            console.print("\nstopping every process …")
        finally:
            _only_once()
            demo.stack.stop()
            console.print(f"every process is stopped; logs are in {_relative(demo.config.var_dir)}/logs")
    return ended_well


def config_of(scenario: Scenario, *, kafka: bool) -> Settings:
    """Return the user's own settings with the demo's folder, short window, local catchers and scenario."""
    base = read()
    var_dir = base.var_dir / "demo"
    source = EventSource.KAFKA if kafka else EventSource.FILE
    return read(
        var_dir=var_dir,
        canary_window_s=WINDOW_S,
        **_SEEN_IN_A_MINUTE,
        slack_webhook_url=f"http://127.0.0.1:{base.slack_catcher_port}/services/T000/B000/demo",
        smtp_host="127.0.0.1",
        smtp_port=base.smtp_catcher_port,
        smtp_tls=False,
        retrain_every_days=0,
        # Whatever the settings name for real work stays untouched by what is played here.
        kafka_topic=f"{base.kafka_topic}-demo",
        kafka_partitions=(),
        event_source=source,
        event_file=var_dir / "events.log",
        records_url="",
        registry_dir=None,
        registry_git_remote="",
        registry_dvc_remote="",
        prometheus_url="",
        **scenario.settings,
    )


class _Demo:
    """One run of the demo."""

    def __init__(self, scenario: Scenario, console: Console) -> None:
        self.scenario = scenario
        self.console = console
        home = self._kafka_home()
        self.has_kafka = isinstance(home, Path) or bool(read().kafka_servers)
        self.config = config_of(scenario, kafka=self.has_kafka)
        self.stack = Stack(self.config, kafka_home=home)

    def play(self) -> bool:
        """Tell the story from the empty folder to the verdict."""
        with self._step("ports are free, the folder is fresh"):
            self._clear()
        with self._step("the stack is up: NGINX, Prometheus, Airflow, recorder" + ", Kafka" * self.has_kafka):
            self._start()
        here = world(self.config)
        with self._step("version 1, trained on archived events, serves everybody"):
            self._bootstrap(here)
        with self._step(f"viewers come to {self.config.recommend_url}/<user>: 10 requests a second"):
            self.stack.add("audience", ["audience", "--taste", self.scenario.taste, "--seed", str(_SEED)])
            viewers_from = time.monotonic()
        api = self._api()
        with self._step("Airflow is ready"):
            api.wait_healthy(_READY_S, dag_ids=_DAGS)
        with self._step("viewers have watched and rated for a while"):
            time.sleep(max(0.0, _VIEWERS_S - (time.monotonic() - viewers_from)))
        self.console.print("  [cyan]▸[/cyan] triggering the DAG [bold]retrain[/bold] through Airflow")
        return self._tell(self._follow(here, api))

    def say_where_to_look(self) -> None:
        """Print the addresses of everything that is up."""
        config = self.config
        password = airflow.admin_password(config.var_dir / "airflow")
        python = _relative(Path(sys.executable))
        self.console.print(
            f"\n  Airflow UI  {config.airflow_url}  login: {airflow.USER}  password: {password}\n"
            f"  recommend   curl -i {config.recommend_url}/42\n"
            f"  receipts    http://127.0.0.1:{config.receipts_port}/receipt/<X-Request-Id of an answer>\n"
            f"  Prometheus  {config.prometheus}\n"
            f"  status      MARQUEE_VAR_DIR={_relative(config.var_dir)} {python} -m pipelines status\n",
            highlight=False,
        )

    def _kafka_home(self) -> Path | None:
        if named := read().kafka_servers:
            self.console.print(f"  events go through the Kafka at {named}")
            return None
        with self.console.status("looking for Kafka; the first time Maven fetches it"):
            found = broker.find_home(TOOLS_DIR)
        if isinstance(found, Path):
            return found
        self.console.print(f"  no Kafka here, events go through a file: {found.reason}")
        return None

    def _clear(self) -> None:
        """Stop what an earlier, killed demo left behind, then begin with an empty folder."""
        self.stack.stop()
        self.stack.check_ports()
        shutil.rmtree(self.config.var_dir, ignore_errors=True)

    def _start(self) -> None:
        self.stack.start()
        for catcher in ("smtp", "slack"):
            self.stack.add(f"catcher-{catcher}", ["catch", catcher])
        if self.has_kafka:
            broker.create_topic(self.config.kafka, self.config.kafka_topic, 1, timeout_s=60)
        wait_for("Prometheus", lambda: answers(f"{self.config.prometheus}/-/ready"))
        wait_for("NGINX", lambda: answers(f"http://{self.config.bind}:{self.config.nginx_port}/healthz"))

    def _bootstrap(self, here: World) -> None:
        """Train version 1 on an archived log, by the same steps as every other version."""
        archive = self.config.var_dir / "archive.log"
        history(archive, _SEED)
        archived = self.config.model_copy(update={"event_source": EventSource.FILE, "event_file": archive})
        retrain.run(archived, run_id="bootstrap", announce=self._say)
        release = steps.open_release(here, version=1, plan=Plan.of(self.config), requested_by="bootstrap")
        steps.preflight(here, release.release_id)
        steps.start_canary(here, release.release_id)
        steps.promote(here, release.release_id, announce=self._say)

    def _api(self) -> AirflowApi:
        password = airflow.admin_password(self.config.var_dir / "airflow")
        return AirflowApi(self.config.airflow_url, airflow.USER, password)

    def _follow(self, here: World, api: AirflowApi) -> Release | None:
        """Trigger a training and show what Airflow does until all is over; returns the release, if any."""
        runs = {"retrain": api.trigger("retrain")}
        for dag in _DAGS:
            api.unpause(dag)
        deadline = time.monotonic() + _STORY_S
        with Show(self.console) as show:
            while not self._over(api, runs):
                if time.monotonic() > deadline:
                    raise StackError(f"Airflow has not come to an end within {_STORY_S:.0f} s: {runs}")
                if "release" not in runs and (run := api.latest_run("release")):
                    runs["release"] = run
                show.update(self._view(here, api, runs))
                time.sleep(1)
            show.update(self._view(here, api, runs))
        return _candidate(here)

    def _over(self, api: AirflowApi, runs: dict[str, str]) -> bool:
        states = {dag: api.run_state(dag, run) for dag, run in runs.items()}
        if states["retrain"] == "success" and "release" not in states:
            return False
        return all(state in FINISHED for state in states.values())

    def _view(self, here: World, api: AirflowApi, runs: dict[str, str]) -> View:
        tasks = {dag: _in_order(api.task_states(dag, run)) for dag, run in runs.items()}
        release = _candidate(here)
        if release is None:
            return View(tasks)
        looks = here.ledger.looks(release.release_id, limit=1)
        if not looks:
            return View(tasks, here.router.current())
        seen = Measurement.from_row(looks[0].measurement)
        verdict = f"{looks[0].verdict}: {looks[0].reason}"
        return View(tasks, here.router.current(), seen.canary, seen.stable, verdict)

    def _tell(self, release: Release | None) -> bool:
        """Say how it ended and which alerts arrived; returns whether it ended as it must."""
        ended = str(release.state) if release else "refused"
        good = ended == self.scenario.ends
        mark = "[green]✓[/green]" if good else "[red]✗[/red]"
        reason = f": {release.reason}" if release else ""
        self.console.print(f"\n{mark} the candidate was [bold]{ended}[/bold]{reason}", highlight=False)
        mails = catchers.read_mails(self.config.var_dir / "mails")
        messages = catchers.read_slack(self.config.var_dir / "slack")
        self.console.print(f"  alerts that arrived: {len(mails)} e-mail(s), {len(messages)} Slack message(s)")
        for mail in mails:
            lines = (f"e-mail to {mail.to}: {mail.subject}", *mail.text.strip().splitlines()[1:])
            self.console.print(*(f"  │ {line}" for line in lines), sep="\n", style="dim", markup=False)
        return good and bool(mails) and bool(messages)

    def _say(self, alert: Alert) -> None:
        self.console.print(f"[dim]    {alert.title}[/dim]", highlight=False)

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        with self.console.status(what):
            yield
        self.console.print(
            f"  [green]✓[/green] {what} [dim]({time.monotonic() - started:.0f} s)[/dim]",
            highlight=False,
        )


def _candidate(here: World) -> Release | None:
    """Return the release that came after the bootstrap, if any."""
    newest = here.ledger.latest(limit=1)
    return newest[0] if newest and newest[0].requested_by != "bootstrap" else None


def _in_order(states: dict[str, str]) -> dict[str, str]:
    return {task: states[task] for task in _TASKS if task in states}


def _relative(path: Path) -> str:
    return str(path.relative_to(PROJECT_DIR)) if path.is_relative_to(PROJECT_DIR) else str(path)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make SIGTERM end the demo as Ctrl-C does, also where a shell in the background had Ctrl-C ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        _only_once()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _only_once() -> None:
    """From now on nothing interrupts: everything is stopped in order, however impatient somebody is."""
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
