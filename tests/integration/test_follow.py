"""What users watch reaches the recents from a real broker, whatever is killed meanwhile."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.recents import Recents
from pipelines.settings import PROJECT_DIR

WAIT_S = 30.0
FOLLOW = """
import sys
from pathlib import Path
from threading import Event
from pipelines.data.follow import run
from pipelines.events.sources import KafkaSource

servers, topic, folder, start = sys.argv[1:]
run(
    lambda: KafkaSource(servers, topic, timeout_s=5.0),
    Path(folder),
    start={0: int(start)},
    keep_days=7.0,
    stop=Event(),
    every_s=0.2,
)
"""


def watch(user: int, movie: str) -> str:
    return f"2026-01-10T12:00,{user},GET /data/m/{movie}/0.mpg"


@contextmanager
def following(kafka, topic: str, folder: Path, start: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """Follow in a process of its own, which is killed in the end."""
    command = [sys.executable, "-c", FOLLOW, kafka.servers, topic, str(folder), str(start)]
    with subprocess.Popen(command, cwd=PROJECT_DIR) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def eventually(condition: Callable[[], object]) -> None:
    """Wait, with a bound, until ``condition`` holds."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S} s"
        time.sleep(0.05)


@pytest.fixture
def topic(kafka, request: pytest.FixtureRequest) -> str:
    name = f"follow-{os.getpid()}-{request.node.name[:60]}"
    kafka.create_topic(name)
    return name


def test_what_is_watched_is_known_in_a_moment(kafka, topic: str, tmp_path: Path) -> None:
    kafka.produce(topic, [watch(1, "trained+on+2001"), watch(1, "new+2002")])
    reader = Recents(tmp_path / "recents")
    with following(kafka, topic, tmp_path / "recents", start=1):
        eventually(lambda: reader.watched("1") == ("new+2002",))
        kafka.produce(topic, [watch(2, "another+2003")])
        eventually(lambda: reader.watched("2") == ("another+2003",))


def test_killed_again_and_again_it_misses_nothing(kafka, topic: str, tmp_path: Path) -> None:
    reader = Recents(tmp_path / "recents")
    for turn in range(4):
        kafka.produce(topic, [watch(user, f"movie+{turn}+2000") for user in range(1, 2_001)])
        with following(kafka, topic, tmp_path / "recents"):
            # Killed at its start, in the middle, or when it has nothing to do.
            eventually(lambda turn=turn: turn == 0 or f"movie+{turn - 1}+2000" in reader.watched("2000"))
    with following(kafka, topic, tmp_path / "recents"):
        eventually(lambda: "movie+3+2000" in reader.watched("2000"))

    everything = {f"movie+{turn}+2000" for turn in range(4)}
    assert all(set(reader.watched(str(user))) == everything for user in range(1, 2_001))


def test_a_topic_that_is_created_again_is_followed_from_its_start(kafka, topic: str, tmp_path: Path) -> None:
    reader = Recents(tmp_path / "recents")
    with following(kafka, topic, tmp_path / "recents"):
        kafka.produce(topic, [watch(1, "before+2001"), watch(2, "before+2001")])
        eventually(lambda: reader.watched("2"))
        kafka.delete_topic(topic)
        kafka.create_topic(topic)
        kafka.produce(topic, [watch(1, "after+2002")])
        eventually(lambda: set(reader.watched("1")) == {"before+2001", "after+2002"})


def test_a_broker_that_goes_and_comes_is_waited_for(kafka, topic: str, tmp_path: Path) -> None:
    reader = Recents(tmp_path / "recents")
    kafka.produce(topic, [watch(1, "before+2001")])
    with following(kafka, topic, tmp_path / "recents") as process:
        eventually(lambda: reader.watched("1"))
        kafka.stop()
        kafka.start()
        kafka.produce(topic, [watch(1, "after+2002")])
        eventually(lambda: set(reader.watched("1")) == {"before+2001", "after+2002"})
        assert process.poll() is None
