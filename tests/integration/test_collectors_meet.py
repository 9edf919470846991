"""Collectors that meet and collectors that are killed, in processes of their own, on a real broker.

Whatever happens to whom: in the end each line of the topic is in exactly one batch, and no half file is left.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.commands.shell import Exit
from pipelines.data.batches import list_batches, read_kind
from pipelines.data.collect import collect
from pipelines.events.sources import KafkaSource
from pipelines.settings import PROJECT_DIR

PARTITIONS = 2
LINES = 30
"""Of each partition: three batches."""
WAIT_S = 60.0


@dataclass
class Scene:
    """A topic with two partitions, and a folder that collectors meet in."""

    servers: str
    topic: str
    out: Path
    stack: ExitStack

    def stalling(self, point: str, *, processes: int, client: str = "python") -> subprocess.Popen[str]:
        """Start a collect that stands still at ``point``; returns when it does."""
        self.signs.mkdir()
        arguments = [self.servers, self.topic, client, str(self.out), str(processes), point]
        process = self.start("-c", "from tests.integration.stalling import main; main()", *arguments)
        deadline = time.monotonic() + WAIT_S
        while len(list(self.signs.iterdir())) < processes:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "it never came to the point"
            time.sleep(0.02)
        return process

    def collect(self, client: str = "python") -> subprocess.Popen[str]:
        """Start ``python -m pipelines collect``."""
        to = ["--kafka", self.servers, "--topic", self.topic, "--out", str(self.out)]
        return self.start("-m", "pipelines", "collect", *to, MARQUEE_KAFKA_CLIENT=client)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=PROJECT_DIR,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stack.enter_context(process)
        self.stack.callback(process.kill)
        return process

    @property
    def signs(self) -> Path:
        return Path(f"{self.out}.stalled")

    def go_on(self) -> None:
        (self.signs / "go").touch()

    def assert_each_line_once(self) -> None:
        batches = list_batches(self.out)
        for partition in range(PARTITIONS):
            mine = [batch for batch in batches if batch.partition == partition]
            firsts = [0, *(batch.last + 1 for batch in mine)]
            assert [*(batch.first for batch in mine), LINES] == firsts
        assert sum(batch.info().lines for batch in batches) == PARTITIONS * LINES
        users = read_kind(self.out, "rating")["user_id"].tolist()
        assert sorted(users) == list(range(1, PARTITIONS * LINES + 1))
        assert list(self.out.glob(".*.tmp")) == []


@pytest.fixture
def scene(kafka: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    topic = re.sub(r"[^a-zA-Z0-9._-]", "-", request.node.name.removeprefix("test_"))[-200:]
    kafka.create_topic(topic, partitions=PARTITIONS)
    for partition in range(PARTITIONS):
        numbers = range(partition * LINES, (partition + 1) * LINES)
        lines = [f"2022-11-14T12:24,{n + 1},GET /rate/heat+1995={1 + n % 5}" for n in numbers]
        kafka.produce(topic, lines, partition=partition)
    with ExitStack() as stack:
        yield Scene(kafka.servers, topic, tmp_path / "batches", stack)


def collect_the_rest(scene: Scene) -> None:
    with closing(KafkaSource(scene.servers, scene.topic)) as source:
        collect(source, scene.out)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_second_collector_says_who_the_first_is_and_leaves(scene: Scene, processes: int) -> None:
    first = scene.stalling("before the rename", processes=processes)
    second = scene.collect()
    out, err = second.communicate(timeout=WAIT_S)
    assert (second.returncode, out) == (Exit.LOCKED, "")
    assert f"process {first.pid} is collecting into" in " ".join(err.split())
    scene.go_on()
    assert first.wait(WAIT_S) == 0, first.communicate()[1]
    scene.assert_each_line_once()


def test_collectors_that_start_at_the_same_moment_share_nothing_whoever_comes_first(scene: Scene) -> None:
    both = [scene.collect("python"), scene.collect("confluent")]
    ended = [process.communicate(timeout=WAIT_S) and process.returncode for process in both]
    assert Exit.OK in ended
    assert set(ended) <= {Exit.OK, Exit.LOCKED}
    scene.assert_each_line_once()


@pytest.mark.parametrize("client", ["python", "confluent"])
@pytest.mark.parametrize("point", ["reading", "writing rows", "before the rename", "after the rename"])
def test_when_the_collector_is_killed_its_processes_end_and_the_next_goes_on(
    scene: Scene, point: str, client: str
) -> None:
    killed = scene.stalling(point, processes=2, client=client)
    orphans = psutil.Process(killed.pid).children()
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    # At once: whoever comes next may meet processes that have not noticed yet.
    collect_the_rest(scene)
    scene.assert_each_line_once()
    _, alive = psutil.wait_procs(orphans, timeout=WAIT_S)
    assert alive == []


@pytest.mark.parametrize("client", ["python", "confluent"])
@pytest.mark.parametrize("point", ["reading", "writing rows", "before the rename", "after the rename"])
def test_when_one_of_its_processes_is_killed_the_collector_says_so_and_the_next_goes_on(
    scene: Scene, point: str, client: str
) -> None:
    collector = scene.stalling(point, processes=2, client=client)
    worker, other = sorted(int(sign.name) for sign in scene.signs.iterdir())
    os.kill(worker, signal.SIGKILL)
    _, err = collector.communicate(timeout=WAIT_S)
    assert collector.returncode == Exit.FAILED
    assert f"process {worker} ended with code -9" in err
    assert not psutil.pid_exists(other)
    collect_the_rest(scene)
    scene.assert_each_line_once()


def test_a_patient_collector_takes_over_from_one_that_is_killed(scene: Scene) -> None:
    killed = scene.stalling("writing rows", processes=1)
    patient = ThreadPoolExecutor(1)
    with patient, closing(KafkaSource(scene.servers, scene.topic)) as source:
        collected = patient.submit(collect, source, scene.out, patience_s=WAIT_S)
        killed.kill()
        assert collected.result().lines == PARTITIONS * LINES - 10
    scene.assert_each_line_once()
