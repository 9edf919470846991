"""How the programs of the one-machine stack are run: what supervisord is told of each."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from pipelines.settings import PROJECT_DIR


def program(arguments: list[str], env: Mapping[str, str] | None = None, **options: str) -> dict[str, str]:
    """Return the section of a program that runs in the project; ``options`` are supervisord's own."""
    section = {"command": shlex.join(arguments), "directory": str(PROJECT_DIR), **options}
    if env:
        section["environment"] = ",".join(f'{key}="{value}"' for key, value in env.items())
    return section


def ours(*arguments: str, **options: str) -> dict[str, str]:
    """Return the section of ``python -m pipelines …``."""
    return program([sys.executable, "-m", "pipelines", *arguments], None, **options)


def receipts(port: int) -> dict[str, str]:
    """Return the section of what shows receipts to this machine: one process, few ask at a time."""
    gunicorn = [str(beside_python("gunicorn")), "--threads=4", "--no-control-socket"]
    return program([*gunicorn, f"--bind=127.0.0.1:{port}", "pipelines.audit.web:create_app_from_env()"])


def beside_python(name: str) -> Path:
    """Return the program ``name`` of this Python's environment."""
    return Path(sys.executable).with_name(name)
