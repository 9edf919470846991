"""The demo as a stranger runs it: `make demo ONCE=1`, every part real, on ports of its own."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from pipelines.settings import PROJECT_DIR
from tests.ports import free_ports

PORTS = (
    "nginx_port",
    "stable_1_port",
    "stable_2_port",
    "canary_port",
    "shadow_port",
    "airflow_port",
    "prometheus_port",
    "receipts_port",
    "kafka_port",
    "kafka_controller_port",
    "smtp_catcher_port",
    "slack_catcher_port",
)
ANCESTORS_QUERY = """
select A.version_number, A.user_id, B.data_creation, B.trained_on, B.model_rmse
from reccom A, tracking B where A.version_number = B.version_number order by A.version_number desc limit 2;
"""
STORY_S = 900


@dataclass
class Played:
    """What is left after the demo has ended."""

    returncode: int
    output: str
    var_dir: Path
    ports: dict[str, int]

    def rows(self, query: str) -> list[tuple]:
        with sqlite3.connect(self.var_dir / "records.db") as connection:
            return connection.execute(query).fetchall()

    def mails(self) -> list[str]:
        paths = sorted((self.var_dir / "mails").glob("*.eml"))
        return [
            str(message_from_bytes(path.read_bytes(), policy=policy.default)["Subject"]) for path in paths
        ]

    def notes(self) -> str:
        log = ["git", "-C", self.var_dir / "registry", "log", "--format=%D %s %N"]
        return subprocess.run(log, capture_output=True, text=True, check=True).stdout

    def explain(self, request_id: str) -> dict:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", "receipt", request_id, "--replay", "--json"],
            cwd=PROJECT_DIR,
            env=os.environ | {"MARQUEE_VAR_DIR": str(self.var_dir)},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    def survivors(self) -> list[str]:
        """Command lines of processes that still know the demo's folder."""
        found = subprocess.run(
            ["pgrep", "-af", str(self.var_dir)], capture_output=True, text=True, check=False
        )
        return found.stdout.splitlines()


def surroundings(folder: Path) -> tuple[dict[str, str], dict[str, int]]:
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    env = os.environ | {f"MARQUEE_{name.upper()}": str(port) for name, port in ports.items()}
    return env | {"MARQUEE_VAR_DIR": str(folder)}, ports


DEMO = ("make", "--no-print-directory", "demo")


def play(scenario: str, folder: Path) -> Played:
    return play_in(*surroundings(folder), scenario, folder)


def play_in(env: dict[str, str], ports: dict[str, int], scenario: str, folder: Path) -> Played:
    done = subprocess.run(
        [*DEMO, "ONCE=1", f"SCENARIO={scenario}"],
        cwd=PROJECT_DIR,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=STORY_S,
        check=False,
    )
    print(done.stdout)
    return Played(done.returncode, done.stdout, folder / "demo", ports)


def begin(env: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """Start the demo as a person would and return when its programs are starting."""
    demo = subprocess.Popen(DEMO, cwd=PROJECT_DIR, env=env, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (folder / "demo" / "supervisor" / "supervisord.pid").exists():
        assert time.monotonic() < deadline
        assert demo.poll() is None
        time.sleep(0.5)
    return demo


@pytest.mark.timeout(STORY_S)
def test_good_candidate_is_promoted(tmp_path):
    played = play("good", tmp_path)
    assert played.returncode == 0, played.output[-3_000:]
    releases = played.rows("select version, state, verdict from releases order by release_id")
    assert releases == [(1, "promoted", "first version"), (2, "promoted", "pass")]
    assert "Marquee: version 2 promoted" in played.mails()
    assert "tag: v2" in played.notes()
    assert "Data and model version update: [2]" in played.notes()
    assert "promoted" in played.notes()
    # Every answer is on record, and the ancestor's query tells version 2's data, training and RMSE.
    assert played.rows("select count(*) from reccom where status = 200")[0][0] > 500
    latest = played.rows(ANCESTORS_QUERY)
    assert [row[0] for row in latest] == [2, 2]
    assert 0 < latest[0][4] < 1
    # Both arms answered while the canary was watched.
    arms = dict(played.rows("select arm, count(*) from reccom where canary_percent = 20 group by arm"))
    assert set(arms) == {"canary", "stable"}
    assert 0.1 < arms["canary"] / sum(arms.values()) < 0.3
    # One answer of every kind is explained, and computed again to the same byte, with everything stopped.
    one_of_each = "select max(request_id) from reccom group by version_number, arm, source"
    explained = [played.explain(row[0]) for row in played.rows(one_of_each)]
    assert {"personal", "trending"} <= {found["receipt"]["source"] for found in explained}
    assert {found["receipt"]["version_number"] for found in explained} == {1, 2}
    assert all(found["replay"]["same"] for found in explained)
    assert all(found["release"]["state"] == "promoted" for found in explained)
    assert all(set(found["registry"]["dvc"]) == {"batches", "model"} for found in explained)
    assert played.survivors() == []


@pytest.mark.timeout(STORY_S)
def test_slow_candidate_is_taken_away_and_stable_keeps_serving(tmp_path):
    played = play("slow", tmp_path)
    assert played.returncode == 0, played.output[-3_000:]
    releases = played.rows("select version, state, verdict from releases order by release_id")
    assert releases == [(1, "promoted", "first version"), (2, "aborted", "fail")]
    assert "Marquee: version 2 taken away" in played.mails()
    assert list((played.var_dir / "slack").glob("*.json"))
    assert "the limit is 500 ms" in played.output
    assert "aborted: mean response time" in played.notes()
    last = played.rows("select version_number from reccom order by served_at desc limit 1")
    assert last == [(1,)]
    assert played.survivors() == []


@pytest.mark.timeout(STORY_S)
def test_model_with_a_bad_rmse_is_refused_and_nothing_is_released_even_after_a_killed_demo(tmp_path):
    env, ports = surroundings(tmp_path)
    killed = begin(env, tmp_path)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    played = play_in(env, ports, "bad-rmse", tmp_path)
    assert played.returncode == 0, played.output[-3_000:]
    assert played.rows("select version, state from releases") == [(1, "promoted")]
    assert played.rows("select distinct version_number from reccom") == [(1,)]
    refused = [subject for subject in played.mails() if "model refused, RMSE" in subject]
    assert len(refused) == 1
    assert float(refused[0].split("RMSE ")[1].split()[0]) >= 1.0
    assert "tag: v2" not in played.notes()
    assert played.survivors() == []


def test_taken_port_is_named_before_anything_starts(tmp_path):
    env, _ = surroundings(tmp_path)
    taken = free_ports(1)[0]
    with _listening(taken):
        env["MARQUEE_PROMETHEUS_PORT"] = str(taken)
        done = subprocess.run(
            ["make", "--no-print-directory", "demo", "ONCE=1"],
            cwd=PROJECT_DIR, env=env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode != 0
    assert f"{taken} (MARQUEE_PROMETHEUS_PORT)" in done.stderr
    assert not (tmp_path / "demo" / "supervisor").exists()


@pytest.mark.timeout(STORY_S)
def test_ctrl_c_stops_every_process(tmp_path):
    env, ports = surroundings(tmp_path)
    demo = begin(env, tmp_path)
    os.killpg(demo.pid, signal.SIGINT)
    demo.wait(120)
    assert Played(demo.returncode, "", tmp_path / "demo", ports).survivors() == []


def _listening(port: int) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    return server
