"""Spool and recents on volumes that containers of one user share, on a real Docker engine."""

import os
import subprocess
import time
import uuid

import pytest

from pipelines.settings import PROJECT_DIR

IMAGE = "marquee-airflow"
USER = "10001:10001"
pytestmark = pytest.mark.timeout(1_500)
PATIENCE_S = 30.0

WRITER = """
import time
from serving.receipts import Spool
spool = Spool(Path("/shared"), "stable-1")
while True:
    spool.append({"request_id": "a"})
    time.sleep(0.05)
"""
SPOOL = """
from pipelines.records.spool import spool_files
from serving.receipts import seal
sealed = len(seal(Path("/shared"), "stable-1"))
print(sealed, [file.is_finished() for file in spool_files(Path("/shared"))])
"""
FOLLOWER = """
from datetime import UTC, datetime
from itertools import count
from pipelines.recents import RecentsWriter, Viewing
with RecentsWriter(Path("/shared"), keep_days=7.0) as recents:
    begin = recents.next_offsets().get(("stream", 0), 0)
    print("begins at", begin, flush=True)
    for offset in count(begin):
        # A second apart: the latest comes first.
        at = datetime.fromtimestamp(1_600_000_000 + offset, UTC)
        recents.add([Viewing("7", f"m{offset}", at)], {("stream", 0): offset + 1})
"""
REPLICA = """
import time
from pipelines.recents import Recents
recents = Recents(Path("/shared"))
first = recents.watched("7")[0]
time.sleep(1.0)
print(int(first[1:]), int(recents.watched("7")[0][1:]))
"""


def run(*arguments):
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


class Shared:
    """A volume, and containers that have it."""

    def __init__(self):
        self.name = f"marquee-tests-shared-{uuid.uuid4().hex[:8]}"
        self.containers = []
        run("volume", "create", self.name)
        # As the images make their folders.
        self.call("import os; os.chown('/shared', 10001, 10001)", user="0:0")

    def start(self, script):
        """Start a container that goes on; its process has the number 1 there, as everybody's has here."""
        self.containers.append(run("run", "--detach", *self._arguments(script)))
        return self.containers[-1]

    def call(self, script, *, user=USER, mode="rw"):
        """Return what a container says that ends by itself."""
        return run("run", "--rm", *self._arguments(script, user=user, mode=mode))

    def _arguments(self, script, *, user=USER, mode="rw"):
        code = [f"--volume={PROJECT_DIR / name}:/opt/marquee/{name}:ro" for name in ("pipelines", "serving")]
        script = f"from pathlib import Path\n{script}"
        hardened = [
            "--read-only",
            "--cap-drop=ALL",
            "--network=none",
            *([] if user == USER else ["--cap-add=CHOWN"]),
        ]
        return [
            *(f"--user={user}", f"--volume={self.name}:/shared:{mode}", *code, *hardened),
            *(IMAGE, "python", "-c", script),
        ]

    def remove(self):
        for container in self.containers:
            run("rm", "--force", container)
        run("volume", "rm", self.name)


@pytest.fixture(scope="module")
def image(docker_engine):
    """The image of everything but the replicas, of today's code; from nothing it takes a minute or two."""
    build = ["docker", "build", "--quiet", "--tag", IMAGE, "--file", "docker/airflow/Dockerfile", "."]
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    subprocess.run(build, cwd=PROJECT_DIR, env=environment, check=True, capture_output=True, timeout=1_200)


@pytest.fixture
def shared(image):
    volume = Shared()
    yield volume
    volume.remove()


def said(container, wanted):
    deadline = time.monotonic() + PATIENCE_S
    while wanted not in (text := run("logs", container)):
        assert time.monotonic() < deadline, f"{wanted!r} was not said: {text}"
        time.sleep(0.1)
    return text


def test_spool_file_of_a_replica_elsewhere_is_finished_when_its_container_dies_and_not_before(shared):
    """Process ids mean nothing: every process here is number 1 of its container."""
    replica = shared.start(WRITER)
    deadline = time.monotonic() + PATIENCE_S
    while (found := shared.call(SPOOL)) == "0 []":
        assert time.monotonic() < deadline, "nothing was written"
    assert found == "0 [False]"
    run("kill", replica)
    assert shared.call(SPOOL, mode="ro") == "0 [True]"
    assert shared.call(SPOOL) == "1 [True]"


def test_recents_written_in_one_container_are_read_in_others_and_go_on_after_a_kill(shared):
    follower = shared.start(FOLLOWER)
    said(follower, "begins at 0")
    time.sleep(1.0)
    before, after = map(int, shared.call(REPLICA, mode="ro").split())
    assert after > before
    run("kill", follower)
    nobody_writes, still = map(int, shared.call(REPLICA, mode="ro").split())
    assert nobody_writes == still
    following = shared.start(FOLLOWER)
    assert said(following, "begins at") == f"begins at {still + 1}"
    before, after = map(int, shared.call(REPLICA, mode="ro").split())
    assert still < before < after
