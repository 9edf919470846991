"""The compose stack as a team runs it, in a project of its own, for tests."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from email import message_from_string, policy
from pathlib import Path
from typing import Any

from pipelines.local.airflow import USER
from pipelines.local.airflow_api import AirflowApi
from pipelines.settings import PROJECT_DIR, Settings, read
from tests.ports import free_ports

PATIENCE_S = 180.0
# What a watch of a minute can see; every limit is the real one.
QUICK = {
    "MARQUEE_CANARY_WINDOW_S": "60",
    "MARQUEE_LOOK_EVERY_S": "5",
    "MARQUEE_SEE_ERROR_SHARE": "0.5",
    "MARQUEE_SEE_SLOW_SHARE": "0.5",
    "MARQUEE_SEE_BELOW_MORE": "0.9",
    "MARQUEE_GUARD_S": "0",
}
CATCHERS = {
    "MARQUEE_SLACK_WEBHOOK_URL": "http://slack-catcher:8026/services/T000/B000/e2e",
    "MARQUEE_SMTP_HOST": "mail-catcher",
    "MARQUEE_SMTP_PORT": "8025",
    "MARQUEE_SMTP_TLS": "false",
}


def wait_until(condition: Callable[[], object], what: str, *, within_s: float = PATIENCE_S) -> float:
    """Wait with a bound; returns how long it took, in seconds."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < within_s, f"waited {within_s:g} s in vain until {what}"
        time.sleep(0.5)
    return time.monotonic() - began_s


class Compose:
    """One project of ``docker-compose.yaml`` with secrets and ports of its own."""

    def __init__(self, project: str, folder: Path, **settings: str) -> None:
        self.project = project
        self.env_file = folder / ".env"
        nginx_port, airflow_port = free_ports(2)
        self.viewers: Settings = read(nginx_port=nginx_port)
        self.airflow_url = f"http://127.0.0.1:{airflow_port}"
        subprocess.run([PROJECT_DIR / "docker" / "make-env", self.env_file], check=True, cwd=PROJECT_DIR)
        ports = {"MARQUEE_NGINX_PORT": str(nginx_port), "MARQUEE_AIRFLOW_PORT": str(airflow_port)}
        self.set(**QUICK, **CATCHERS, **ports, **settings)

    def set(self, **values: str) -> None:
        """Change lines of the ``.env``; the next `up` follows them."""
        kept = [
            line for line in self.env_file.read_text().splitlines() if line.partition("=")[0] not in values
        ]
        lines = [*kept, *(f"{name}={value}" for name, value in values.items())]
        self.env_file.write_text("\n".join(lines) + "\n")

    def secret(self, name: str) -> str:
        """Return a value of the ``.env``."""
        lines = dict(line.partition("=")[::2] for line in self.env_file.read_text().splitlines())
        return lines[name]

    def run(self, *arguments: str, check: bool = True, timeout_s: float = 900.0) -> str:
        """Run ``docker compose``; returns what it printed."""
        profiles = ("--profile", "audience", "--profile", "catchers")
        command = ["docker", "compose", "-p", self.project, "--env-file", str(self.env_file), *profiles]
        # What is exported in the shell would win over the file.
        env = {name: value for name, value in os.environ.items() if not name.startswith("MARQUEE_")}
        done = subprocess.run(
            [*command, *arguments],
            cwd=PROJECT_DIR,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout[-3_000:]}{done.stderr[-3_000:]}"
        return done.stdout

    def one_by_one(self) -> str:
        """Run what `make up` runs first; returns what it printed."""
        told = {"COMPOSE_PROJECT_NAME": self.project, "COMPOSE_ENV_FILES": str(self.env_file)}
        env = {name: value for name, value in os.environ.items() if not name.startswith("MARQUEE_")} | told
        command = [PROJECT_DIR / "docker" / "one-by-one"]
        done = subprocess.run(
            command, cwd=PROJECT_DIR, env=env, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ours(self, *arguments: str, check: bool = True) -> str:
        """Run ``python -m pipelines`` where Airflow's tasks run."""
        return self.run(
            "exec", "-T", "airflow-scheduler", "python", "-m", "pipelines", *arguments, check=check
        )

    def status(self) -> dict[str, Any]:
        """Return who serves what, and the latest releases, newest first."""
        return dict(json.loads(self.ours("status", "--json")))

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return what Docker says of each container, by service."""
        ids = self.run("ps", "--all", "--quiet").split()
        if not ids:
            return {}
        told = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True, check=True).stdout
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in json.loads(told)}

    def kill(self, service: str) -> None:
        """Kill a container as a failing machine would."""
        subprocess.run(["docker", "kill", self.containers()[service]["Id"]], check=True, capture_output=True)

    def is_well(self, service: str) -> bool:
        """Return whether the container runs and, where it has a check, is healthy."""
        state = self.containers().get(service, {}).get("State", {})
        return bool(state.get("Running")) and state.get("Health", {}).get("Status", "healthy") == "healthy"

    def api(self) -> AirflowApi:
        """Return Airflow's API, logged in."""
        return AirflowApi(self.airflow_url, USER, self.secret("MARQUEE_AIRFLOW_PASSWORD"))

    def mails(self) -> list[str]:
        """Return the subjects of the caught mails."""
        folder = "/var/lib/marquee/mails"
        script = f"for f in {folder}/*.eml; do [ -f $f ] && cat $f && printf '\\0'; done; true"
        caught = self.run("exec", "-T", "mail-catcher", "sh", "-c", script)
        mails = [
            message_from_string(text, policy=policy.default) for text in caught.split("\0") if text.strip()
        ]
        return [str(mail["Subject"]) for mail in mails]

    def slack(self) -> list[str]:
        """Return the texts of the caught Slack messages."""
        script = "cat /var/lib/marquee/slack/*.json 2>/dev/null; true"
        caught = self.run("exec", "-T", "slack-catcher", "sh", "-c", script)
        decoder, texts, at = json.JSONDecoder(), [], 0
        while at < len(caught.rstrip()):
            message, at = decoder.raw_decode(caught, at)
            texts.append(str(message.get("text", "")))
        return texts

    def sql(self, query: str) -> list[list[str]]:
        """Ask the records as root; returns rows of texts."""
        script = f'MYSQL_PWD="$MYSQL_ROOT_PASSWORD" mysql -uroot records -N -B -e "{query}"'
        return [line.split("\t") for line in self.run("exec", "-T", "mysql", "sh", "-c", script).splitlines()]

    def remove(self) -> None:
        """Take everything away, what it keeps included."""
        self.run("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)
