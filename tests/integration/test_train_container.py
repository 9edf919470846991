"""The training in a container of its own, on a real engine.

A small image stands in for the real one: in the place of ``pipelines`` it has a program that does what the
name of the run says.
"""

import io
import json
import os
import re
import signal
import tarfile
import threading
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import docker
import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from marquee_airflow import connections, training
from marquee_airflow.training import RUN, TASK, TrainOperator
from pipelines.errors import ModelError, NothingNew, Refused
from pipelines.model.artifact import write_meta
from pipelines.retrain import run_dir
from pipelines.settings import FleetKind, Settings, read
from tests.stage import wait_until

IMAGE = f"marquee-test-train:{os.getpid()}"
SECRET = "not-for-logs"
METRICS = {"rmse": 0.9}
PROGRAM = """
import json, os, pathlib, sys, time
what, _, number = sys.argv[sys.argv.index("--run") + 1].partition("-")
if what == "exit":
    print("out of the training", flush=True)
    sys.exit("too few" if number == "1" else int(number))
if what == "eat":
    bytearray(int(number) * 2**20)
if what == "sleep":
    print("asleep", flush=True)
    time.sleep(int(number))
if what == "look":
    def writable(folder):
        try:
            pathlib.Path(folder, "mine").touch()
        except OSError:
            return False
        return True
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(json.dumps({
        "user": [os.getuid(), os.getgid()],
        "writable": list(filter(writable, ["/opt/marquee", os.environ["MARQUEE_VAR_DIR"], "/tmp"])),
        "capabilities": int(status["CapBnd"], 16),
        "new privileges": status["NoNewPrivs"].strip() == "0",
        "password": os.environ["MARQUEE_SMTP_PASSWORD"],
    }).replace(os.environ["MARQUEE_SMTP_PASSWORD"], "as it was given"))
"""
DOCKERFILE = """
FROM python:3.13-slim-trixie
RUN install --directory --owner 10001 --group 10001 {var_dir} /opt/marquee
COPY __main__.py /opt/marquee/pipelines/__main__.py
WORKDIR /opt/marquee
# As an image has that compose has built.
LABEL com.docker.compose.service=airflow-init
"""


@pytest.fixture(scope="module")
def var_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state") / "var"


@pytest.fixture(scope="module")
def image(docker_engine: docker.APIClient, var_dir: Path) -> Iterator[str]:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        dockerfile = DOCKERFILE.format(var_dir=var_dir)
        for name, text in {"Dockerfile": dockerfile, "__main__.py": PROGRAM}.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text.encode()), 0o644
            tar.addfile(member, io.BytesIO(text.encode()))
    context.seek(0)
    said = list(docker_engine.build(fileobj=context, custom_context=True, tag=IMAGE, rm=True, decode=True))
    assert docker_engine.images(IMAGE), said
    yield IMAGE
    docker_engine.remove_image(IMAGE, force=True)


@pytest.fixture
def config(
    docker_engine: docker.APIClient, image: str, var_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """Settings of a project that has nothing but the network and the volume of a training."""
    project = f"marquee-test-train-{os.getpid()}"
    config = read(
        _env_file=None,
        fleet=FleetKind.DOCKER,
        docker_host=docker_engine.base_url.replace("http+docker://localhost", "unix:///var/run/docker.sock"),
        compose_project=project,
        train_image=image,
        train_memory_mb=256,
        var_dir=var_dir,
        smtp_password=SECRET,
    )
    for module in (connections, training):
        monkeypatch.setattr(module, "settings", lambda: config)
    monkeypatch.delenv("AIRFLOW_CONN_MARQUEE_DOCKER", raising=False)
    docker_engine.create_network(f"{project}_marquee", internal=True)
    docker_engine.create_volume(f"{project}_state")
    try:
        yield config
    finally:
        for left in trainings(docker_engine, config):
            docker_engine.remove_container(left["Id"], force=True)
        docker_engine.remove_network(f"{project}_marquee")
        docker_engine.remove_volume(f"{project}_state")
        os.environ.pop("AIRFLOW_CONN_MARQUEE_DOCKER", None)


def trainings(engine: docker.APIClient, config: Settings) -> list[dict[str, Any]]:
    labels = [f"com.docker.compose.project={config.compose_project}", f"{TASK}=train"]
    return engine.containers(all=True, filters={"label": labels})


def train(config: Settings, run: str) -> Any:
    """Run the task as Airflow does, with its template rendered, and the model of the run in its place."""
    folder = run_dir(config, run) / "model"
    folder.mkdir(parents=True, exist_ok=True)
    write_meta(
        folder, {"format": 1, "version": 0, "scale": [1, 5], "mean": 3, "files": {}, "metrics": METRICS}
    )
    return operator(run).execute({"run_id": run})


def operator(run: str) -> TrainOperator:
    made = TrainOperator(task_id="train")
    made.command = [word.replace("{{ run_id }}", run) for word in made.command]
    return made


def in_background(config: Settings, run: str) -> BaseProcess:
    process = get_context("fork").Process(target=train, args=(config, run))
    process.start()
    return process


def is_asleep(engine: docker.APIClient, config: Settings) -> bool:
    running = [each for each in trainings(engine, config) if each["State"] == "running"]
    return any(b"asleep" in engine.logs(each["Id"]) for each in running)


def test_a_training_ends_with_the_metrics_of_its_model_and_leaves_no_container(docker_engine, config):
    assert train(config, "exit-0") == METRICS
    assert trainings(docker_engine, config) == []


def test_a_training_may_write_its_state_and_nothing_else(config, capsys):
    train(config, "look")
    (said,) = re.findall(r"{.*}", capsys.readouterr().out)
    found = json.loads(said)
    assert found == {
        "user": [10001, 10001],
        "writable": [str(config.var_dir), "/tmp"],
        "capabilities": 0,
        "new privileges": False,
        "password": "as it was given",
    }


def test_a_training_has_the_limits_of_the_settings_and_no_secret_that_people_see(
    docker_engine, config, capfd
):
    task = in_background(config, "sleep-60")
    wait_until(lambda: is_asleep(docker_engine, config), "the training runs")
    (found,) = trainings(docker_engine, config)
    limits = docker_engine.inspect_container(found["Id"])["HostConfig"]
    task.kill()
    task.join()
    assert limits["Memory"] == limits["MemorySwap"] == config.train_memory_mb * 2**20
    assert limits["CpuQuota"] == config.train_cpus * limits["CpuPeriod"]
    assert found["Labels"][RUN] == "sleep-60"
    assert found["Labels"]["com.docker.compose.service"] == "", "the gate goes by it"
    task_shown = operator("sleep-60")
    shown = json.dumps([str(getattr(task_shown, name)) for name in task_shown.template_fields])
    assert SECRET not in shown + capfd.readouterr().out


def test_a_training_that_takes_too_much_memory_names_the_setting_and_is_not_tried_again(
    docker_engine, config
):
    with pytest.raises(AirflowFailException, match="MARQUEE_TRAIN_MEMORY_MB=256"):
        train(config, "eat-512")
    assert trainings(docker_engine, config) == []


@pytest.mark.parametrize(
    ("run", "raised", "cause"),
    [
        ("exit-3", AirflowFailException, Refused),
        ("exit-4", AirflowSkipException, NothingNew),
        ("exit-1", ModelError, type(None)),
    ],
)
def test_the_end_of_the_container_means_what_the_end_of_the_step_does(
    docker_engine, config, run, raised, cause
):
    with pytest.raises(raised, match="out of the training") as ended:
        train(config, run)
    assert isinstance(ended.value.__cause__, cause)
    assert trainings(docker_engine, config) == []


def test_what_a_killed_task_leaves_behind_is_removed_by_the_next_attempt(docker_engine, config, capsys):
    task = in_background(config, "sleep-60")
    wait_until(lambda: is_asleep(docker_engine, config), "the training runs")
    task.kill()
    task.join()
    assert task.exitcode == -signal.SIGKILL
    (left,) = trainings(docker_engine, config)
    assert left["State"] == "running"
    assert train(config, "exit-0") == METRICS
    assert trainings(docker_engine, config) == []
    assert re.search(f"removing container {left['Id'][:12]}.*of run sleep-60", capsys.readouterr().out)


def test_a_task_that_is_cancelled_takes_its_container_with_it(docker_engine, config):
    task = operator("sleep-60")

    def cancel() -> None:
        wait_until(lambda: is_asleep(docker_engine, config), "the training runs")
        task.on_kill()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(ModelError, match="exit status 143"):
        task.execute({"run_id": "sleep-60"})
    canceller.join()
    assert trainings(docker_engine, config) == []
