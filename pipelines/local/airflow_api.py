"""Airflow's REST API, as much of it as Marquee needs: start runs, watch them, answer questions."""

import time
from collections.abc import Callable, Collection, Generator, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from pipelines.errors import StackError

FINISHED = frozenset({"success", "failed"})
"""States that a run does not leave by itself."""

_PAUSE_S = 0.3


class AirflowApi:
    """A small client of Airflow's REST API (``/api/v2``).

    It logs in with ``POST /auth/token`` (user and password as JSON, answered by 201 and an
    ``access_token`` of one day) and sends ``Authorization: Bearer``; a 401 or 403 makes it log in once more.

    Every method raises ``StackError`` when Airflow cannot be reached or refuses.
    """

    def __init__(
        self,
        base_url: str,
        user: str,
        password: str,
        *,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        login = _Login(f"{base_url}/auth/token", user, password)
        self._client = httpx.Client(
            base_url=f"{base_url}/api/v2", auth=login, timeout=timeout_s, transport=transport
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def wait_healthy(self, timeout_s: float, *, dag_ids: Collection[str] = ()) -> None:
        """Wait until all parts of Airflow report and the DAGs ``dag_ids`` are known."""
        _wait(lambda: self._missing(dag_ids), lambda missing: not missing, timeout_s, "missing of Airflow")

    def unpause(self, dag_id: str) -> None:
        """Switch the DAG on: what is queued starts, and its schedule counts from now on."""
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
        return {task["task_id"]: task["state"] or "none" for task in self.tasks(dag_id, run_id)}

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return what Airflow knows of every task of the run, by the names of its API."""
        return list(self._call("GET", f"{_run(dag_id, run_id)}/taskInstances")["task_instances"])

    def wait_run(self, dag_id: str, run_id: str, timeout_s: float) -> str:
        """Wait until the run has finished; returns ``success`` or ``failed``."""
        what = f"the state of run {run_id} of {dag_id}"
        return _wait(lambda: self.run_state(dag_id, run_id), FINISHED.__contains__, timeout_s, what)

    def wait_task(
        self, dag_id: str, run_id: str, task_id: str, states: Collection[str], timeout_s: float
    ) -> str:
        """Wait until the task is in one of ``states``; returns the one it is in."""
        what = f"the state of task {task_id} of run {run_id} of {dag_id}"
        return _wait(
            lambda: self.task_states(dag_id, run_id).get(task_id, "none"),
            lambda state: state in states,
            timeout_s,
            what,
        )

    def respond(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        option: str,
        *,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        """Answer a task that waits for a person, as the user this client is logged in as."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/-1/hitlDetails"
        self._call("PATCH", path, {"chosen_options": [option], "params_input": dict(params or {})})

    def log(self, dag_id: str, run_id: str, task_id: str, *, attempt: int = 1) -> str:
        """Return what the task wrote in one attempt: a line for each record, with the errors it carries."""
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
            # 401: the token has expired; 403: it was signed before Airflow got another secret.
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
    if not isinstance(record, Mapping):
        return str(record)
    errors = [f"{error['exc_type']}: {error['exc_value']}" for error in record.get("error_detail") or ()]
    return " ".join([str(record.get("event", "")), *filter(None, [record.get("reason")]), *errors])


def _wait(look: Callable[[], str], enough: Callable[[str], bool], timeout_s: float, what: str) -> str:
    deadline = time.monotonic() + timeout_s
    while not enough(seen := look()):
        if time.monotonic() >= deadline:
            raise StackError(f"{what}: still {seen!r} after {timeout_s:g} s; see Airflow's UI and its logs")
        time.sleep(_PAUSE_S)
    return seen
