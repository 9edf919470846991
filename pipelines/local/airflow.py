"""Airflow on one machine: its settings as environment variables, its programs, its REST API.

Airflow reads every setting from ``AIRFLOW__SECTION__KEY``, so nothing is kept in ``airflow.cfg``.
"""

import json
import os
import secrets
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from pipelines.errors import StackError
from pipelines.settings import PROJECT_DIR, Settings

USER = "admin"
"""The one user of the local Airflow."""

PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "airflow-api": ("airflow", "api-server"),
    "airflow-scheduler": ("airflow", "scheduler", "--skip-serve-logs"),
    "airflow-triggerer": ("airflow", "triggerer", "--skip-serve-logs"),
    "airflow-dag-processor": ("airflow", "dag-processor"),
}
"""What makes up Airflow, once ``airflow db migrate`` has run.

``airflow standalone`` starts the same four, plus a fifth process to hold them and two log servers that
listen on every interface of the machine; here logs are read from the folder they are written to.
"""

FINISHED = frozenset({"success", "failed"})
"""States that a run does not leave by itself."""


def airflow_environment(config: Settings, home: Path) -> dict[str, str]:
    """Return the variables that make ``PROGRAMS`` this project's Airflow, at home in ``home``.

    The same ``home`` gives the same variables: secrets and password are drawn on the first call and kept
    in files that only the owner can read. The values contain these secrets: do not log them.
    """
    return {
        "AIRFLOW_HOME": str(home),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(PROJECT_DIR),
        # Without cached bytecode each of the many processes spends 2 s more on its imports.
        "PYTHONDONTWRITEBYTECODE": "",
        **_section("core", {**_CORE, **_core(config, home)}),
        **_section("api", _api(config, home)),
        **_section("api_auth", {"jwt_secret": _drawn_once(home / "jwt.secret", _draw_secret)}),
        **_section("database", {"sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}"}),
        **_section("scheduler", _SCHEDULER),
        **_section("dag_processor", _DAG_PROCESSOR),
        **_section("workers", _WORKERS),
        **_section("logging", {**_LOGGING, "base_log_folder": str(home / "logs")}),
    }


def base_url(config: Settings) -> str:
    """Return the address of UI and API as seen from this machine."""
    host = "127.0.0.1" if config.bind in {"0.0.0.0", "::"} else config.bind
    return f"http://{host}:{config.airflow_port}"


def admin_password(home: Path) -> str:
    """Return the password of ``USER``; drawn on the first call, kept in ``home/passwords.json``."""
    return str(json.loads(_drawn_once(home / "passwords.json", _draw_password))[USER])


_CORE = {
    "dags_folder": str(PROJECT_DIR / "dags"),
    "plugins_folder": str(PROJECT_DIR / "plugins"),
    "executor": "LocalExecutor",
    "load_examples": "False",
    # Each of them is a process of some 130 MB that waits for work.
    "parallelism": "4",
    "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
    "simple_auth_manager_users": f"{USER}:admin",
}
_SCHEDULER = {
    # The pause after a round that found nothing to do; every task of a DAG waits for such a round. With
    # 1 s five empty tasks take 6.5 s, with 0.2 s 2.5 s, and the scheduler 4 % more of a core.
    "scheduler_idle_sleep_time": "0.2",
    # After a crash: how soon running tasks that nobody holds any more are found and started again.
    "task_instance_heartbeat_timeout": "60",
    "orphaned_tasks_check_interval": "30",
}
_DAG_PROCESSOR = {
    "refresh_interval": "30",
    "min_file_process_interval": "30",
    "print_stats_interval": "0",
}
_LOGGING = {"colored_console_log": "False", "namespace_levels": "http.access=WARNING"}
_WORKERS = {
    # Also how long a worker may stay with a task that has ended: it waits on sockets that are closed already.
    "min_heartbeat_interval": "1",
    # The server builds the API of the tasks on the first call, which takes longer than the 5 s of a task.
    "execution_api_timeout": "30",
}


def _core(config: Settings, home: Path) -> dict[str, str]:
    admin_password(home)
    return {
        "fernet_key": _drawn_once(home / "fernet.secret", _draw_fernet_key),
        "simple_auth_manager_passwords_file": str(home / "passwords.json"),
        "execution_api_server_url": f"{base_url(config)}/execution/",
    }


def _api(config: Settings, home: Path) -> dict[str, str]:
    return {
        "host": config.bind,
        "port": str(config.airflow_port),
        "base_url": base_url(config),
        "secret_key": _drawn_once(home / "session.secret", _draw_secret),
    }


def _section(name: str, options: Mapping[str, str]) -> dict[str, str]:
    return {f"AIRFLOW__{name.upper()}__{key.upper()}": value for key, value in options.items()}


def _draw_secret() -> str:
    return secrets.token_urlsafe(64)


def _draw_fernet_key() -> str:
    return urlsafe_b64encode(secrets.token_bytes(32)).decode()


def _draw_password() -> str:
    return json.dumps({USER: secrets.token_urlsafe(12)})


def _drawn_once(path: Path, draw: Callable[[], str]) -> str:
    """Read ``path``, first filling it when it is not there; whoever comes first fills it for all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = path.with_name(f".{path.name}.{os.getpid()}")
        mine.touch(mode=0o600)
        mine.write_text(draw())
        with suppress(FileExistsError):
            path.hardlink_to(mine)
        mine.unlink()
    return path.read_text()


class AirflowApi:
    """A small client of Airflow's REST API (``/api/v2``).

    It logs in with ``POST /auth/token`` (user and password as JSON, answered by 201 and an
    ``access_token`` of one day) and sends ``Authorization: Bearer``; a 401 or 403 makes it log in once more.

    Every method raises ``StackError`` when Airflow cannot be reached or refuses.
    """

    def __init__(self, base_url: str, user: str, password: str, *, timeout_s: float = 30.0) -> None:
        login = _Login(f"{base_url}/auth/token", user, password)
        self._client = httpx.Client(base_url=f"{base_url}/api/v2", auth=login, timeout=timeout_s)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def wait_healthy(self, timeout_s: float, *, dag_ids: Collection[str] = ()) -> None:
        """Wait until all parts of Airflow report and the DAGs ``dag_ids`` are known."""
        _wait(
            lambda: not self._missing(dag_ids),
            timeout_s,
            lambda: f"Airflow is not ready, this is missing: {self._missing(dag_ids)}",
        )

    def unpause(self, dag_id: str) -> None:
        """Let the DAG run; a DAG with a time schedule that has never run starts at once."""
        self._call("PATCH", f"/dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, params: Mapping[str, Any] | None = None) -> str:
        """Start a run by hand with ``params``; returns its run id."""
        body = {"logical_date": None, "conf": dict(params or {})}
        return str(self._call("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def latest_run(self, dag_id: str) -> str | None:
        """Return the id of the run that was queued last, or None when there was none."""
        runs = self._call("GET", f"/dags/{dag_id}/dagRuns?order_by=-run_after&limit=1")["dag_runs"]
        return str(runs[0]["dag_run_id"]) if runs else None

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return ``queued``, ``running``, ``success`` or ``failed``."""
        return str(self._call("GET", _run(dag_id, run_id))["state"])

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Return the state of every task of the run; ``none`` for one that has not been looked at."""
        tasks = self._call("GET", f"{_run(dag_id, run_id)}/taskInstances")["task_instances"]
        return {task["task_id"]: task["state"] or "none" for task in tasks}

    def wait_run(self, dag_id: str, run_id: str, timeout_s: float) -> str:
        """Wait until the run has finished; returns ``success`` or ``failed``."""
        _wait(
            lambda: self.run_state(dag_id, run_id) in FINISHED,
            timeout_s,
            lambda: f"run {run_id} of {dag_id} has not finished: {self.task_states(dag_id, run_id)}",
        )
        return self.run_state(dag_id, run_id)

    def wait_task(
        self, dag_id: str, run_id: str, task_id: str, states: Collection[str], timeout_s: float
    ) -> str:
        """Wait until the task is in one of ``states``; returns the one it is in."""
        _wait(
            lambda: self.task_states(dag_id, run_id).get(task_id) in states,
            timeout_s,
            lambda: f"{task_id} is not {' or '.join(states)}: {self.task_states(dag_id, run_id)}",
        )
        return self.task_states(dag_id, run_id)[task_id]

    def respond(self, dag_id: str, run_id: str, task_id: str, option: str) -> None:
        """Answer a task that waits for a person, as the user this client is logged in as."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/-1/hitlDetails"
        self._call("PATCH", path, {"chosen_options": [option], "params_input": {}})

    def log(self, dag_id: str, run_id: str, task_id: str, *, attempt: int = 1) -> str:
        """Return what the task wrote in one attempt, one line per record."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/logs/{attempt}?full_content=true"
        return "\n".join(_line(record) for record in self._call("GET", path)["content"])

    def _missing(self, dag_ids: Collection[str]) -> str:
        """Name what keeps Airflow from being ready, or nothing."""
        try:
            health = self._call("GET", "/monitor/health")
            # The first call builds the API of the tasks: better now than while a task waits for it.
            self._call("GET", str(self._client.base_url.join("/execution/health")))
            sick = [part for part, report in health.items() if report and report.get("status") != "healthy"]
            known = {dag["dag_id"] for dag in self._call("GET", "/dags?limit=100")["dags"]}
        except StackError as error:
            return str(error)
        return ", ".join([*sick, *(f"DAG {dag_id}" for dag_id in dag_ids if dag_id not in known)])

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            answer = self._client.request(method, path, json=body)
            answer.raise_for_status()
            return answer.json()
        except httpx.HTTPStatusError as error:
            said = error.response.text[:500]
            raise StackError(
                f"Airflow refused {method} {path}: {error.response.status_code} {said}"
            ) from error
        except (httpx.HTTPError, ValueError) as error:
            raise StackError(f"Airflow did not answer {method} {path}: {error!r}; is it up?") from error


class _Login(httpx.Auth):
    requires_response_body = True

    def __init__(self, url: str, user: str, password: str) -> None:
        self._login = httpx.Request("POST", url, json={"username": user, "password": password})
        self._token = ""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._token:
            answer = yield self._signed(request)
            # Airflow says 403 to a token that has expired, and to one that it did not sign.
            if answer.status_code not in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                return
        answer = yield self._login
        answer.read()
        answer.raise_for_status()
        self._token = answer.json()["access_token"]
        yield self._signed(request)

    def _signed(self, request: httpx.Request) -> httpx.Request:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"


def _line(record: Any) -> str:
    return str(record.get("event", record)) if isinstance(record, Mapping) else str(record)


def _wait(done: Callable[[], bool], timeout_s: float, trouble: Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() >= deadline:
            raise StackError(f"{trouble()} (waited {timeout_s:g} s)")
        time.sleep(0.3)
