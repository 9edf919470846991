"""The health checks of Airflow's containers, before a real Postgres and a server that answers."""

import os
import runpy
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import docker
import psycopg2
import pytest

from pipelines.settings import PROJECT_DIR
from tests.stage import wait_until

HEALTHY = PROJECT_DIR / "docker" / "airflow" / "healthy.py"
ME = socket.gethostname()
JOBS = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}


def is_healthy(part: str, url: str = "") -> bool:
    done = subprocess.run(
        [sys.executable, "-I", HEALTHY, part],
        env=os.environ | {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url},
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@pytest.fixture(scope="module")
def database(docker_engine: docker.APIClient) -> Iterator[str]:
    """SQLAlchemy address of a Postgres with Airflow's table of jobs, as far as the checks read it."""
    password = secrets.token_hex(16)
    made = docker_engine.create_container(
        "postgres:17",
        environment={"POSTGRES_PASSWORD": password, "POSTGRES_USER": "airflow"},
        host_config=docker_engine.create_host_config(tmpfs={"/var/lib/postgresql/data": ""}),
    )
    try:
        docker_engine.start(made["Id"])
        host = docker_engine.inspect_container(made["Id"])["NetworkSettings"]["IPAddress"]
        url = f"postgresql://airflow:{password}@{host}/airflow"
        wait_until(lambda: answers(url), "Postgres answers")
        run(
            url,
            "create table job (state varchar(20), job_type varchar(30), hostname varchar(500),"
            " latest_heartbeat timestamptz)",
        )
        yield url.replace("postgresql", "postgresql+psycopg2", 1)
    finally:
        docker_engine.remove_container(made["Id"], force=True, v=True)


def answers(url: str) -> bool:
    try:
        run(url, "select 1")
    except psycopg2.OperationalError:
        return False
    return True


def run(url: str, statement: str, values: tuple[Any, ...] = ()) -> None:
    connection = psycopg2.connect(url.replace("+psycopg2", ""), connect_timeout=5)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
    finally:
        connection.close()


@pytest.mark.parametrize("part", JOBS)
@pytest.mark.parametrize(
    ("state", "hostname", "age_s", "healthy"),
    [
        ("running", ME, 5, True),
        ("running", ME, 300, False),
        ("running", "another", 5, False),
        ("success", ME, 5, False),
    ],
)
def test_a_part_is_healthy_as_long_as_this_container_writes_heartbeats(
    database, part, state, hostname, age_s, healthy
):
    run(database, "truncate job")
    run(
        database,
        "insert into job values (%s, %s, %s, now() - %s * interval '1 second')",
        (state, JOBS[part], hostname, age_s),
    )
    assert is_healthy(part, database) == healthy


def test_a_part_is_not_healthy_while_its_database_is_away():
    assert not is_healthy("scheduler", "postgresql+psycopg2://airflow:x@127.0.0.1:1/airflow")


@pytest.mark.parametrize(
    ("status", "database_is", "healthy"),
    [(200, "healthy", True), (200, "unhealthy", False), (500, "", False)],
)
def test_the_api_is_healthy_when_it_says_so_of_its_database(monkeypatch, status, database_is, healthy):
    answer = f'{{"metadatabase": {{"status": "{database_is}"}}}}'.encode()

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    checks = runpy.run_path(str(HEALTHY))
    with HTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setitem(checks["apiserver"].__globals__, "PORT", server.server_port)
        assert checks["apiserver"]() == healthy
        thread.join()
