"""Airflow on one machine: its settings as environment variables, and its programs.

Airflow reads every setting from ``AIRFLOW__SECTION__KEY``, so nothing is kept in ``airflow.cfg``.
"""

import json
import os
import secrets
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

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


def airflow_environment(config: Settings, home: Path) -> dict[str, str]:
    """Return the variables that make ``PROGRAMS`` this project's Airflow, at home in ``home``.

    The same ``home`` gives the same variables: secrets and password are drawn on the first call and kept
    in files that only the owner can read. The values contain these secrets: do not log them.
    """
    home = home.absolute()
    return {
        "AIRFLOW_HOME": str(home),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(PROJECT_DIR),
        # Without cached bytecode each of the many processes spends 2 s more on its imports.
        "PYTHONDONTWRITEBYTECODE": "",
        **_section("core", {**_CORE, **_core(config, home)}),
        **_section("api", _api(config, home)),
        **_section("api_auth", {"jwt_secret": _drawn_once(home / "jwt.secret", _draw_secret)}),
        **_section("database", {"sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}?timeout={_BUSY_S}"}),
        **_section("scheduler", _SCHEDULER),
        **_section("triggerer", _TRIGGERER),
        **_section("dag_processor", _DAG_PROCESSOR),
        **_section("workers", _WORKERS),
        **_section("logging", {**_LOGGING, "base_log_folder": str(home / "logs")}),
    }


def admin_password(home: Path) -> str:
    """Return the password of ``USER``; drawn on the first call, kept in ``home/passwords.json``."""
    return str(json.loads(_drawn_once(home / "passwords.json", _draw_password))[USER])


_BUSY_S = 60
"""How long a writer of Airflow's SQLite waits for another. By default it is 5 s, which is too little while
all programs start on a small machine: the API then answers 500 ("Database error")."""

_CORE = {
    "dags_folder": str(PROJECT_DIR / "dags"),
    "plugins_folder": str(PROJECT_DIR / "plugins"),
    # The LocalExecutor, which one killed worker does not stop for good.
    "executor": "marquee_airflow.executor.SturdyLocalExecutor",
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
_TRIGGERER = {
    # After a crash: how soon the next triggerer takes over what the last one was waiting for. By default it
    # is 30 s, which is two looks of a watch.
    "triggerer_health_check_threshold": "8",
    "job_heartbeat_sec": "2",
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
        "execution_api_server_url": f"{config.airflow_url}/execution/",
    }


def _api(config: Settings, home: Path) -> dict[str, str]:
    return {
        "host": config.bind,
        "port": str(config.airflow_port),
        "base_url": config.airflow_url,
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
        mine = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        mine.touch(mode=0o600)
        mine.write_text(draw())
        with suppress(FileExistsError):
            path.hardlink_to(mine)
        mine.unlink()
    return path.read_text()
