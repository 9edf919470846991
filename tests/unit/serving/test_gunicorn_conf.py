import gc
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

CONFIGURATION = Path(__file__).parents[3] / "serving" / "gunicorn.conf.py"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Folders of the counters and of the spool."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "counters"))
    monkeypatch.setenv("MARQUEE_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("MARQUEE_REPLICA", "stable-1")
    # Set by the configuration itself: put back afterwards.
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    (tmp_path / "spool").mkdir()
    return tmp_path / "counters", tmp_path / "spool"


def configuration() -> dict[str, Any]:
    return runpy.run_path(str(CONFIGURATION))


def test_the_environment_says_where_to_listen_and_with_how_many(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARQUEE_BIND_ADDRESS", "0.0.0.0:8080")
    monkeypatch.setenv("MARQUEE_REPLICA_WORKERS", "3")

    settings = configuration()

    assert (settings["bind"], settings["workers"]) == ("0.0.0.0:8080", 3)


@pytest.mark.parametrize(
    ("environment", "app"),
    [
        ({}, "serving.wsgi:create_app_from_env()"),
        ({"MARQUEE_FAULT": "none"}, "serving.wsgi:create_app_from_env()"),
        ({"MARQUEE_FAULT": "slow"}, "pipelines.release.faults:create_app_from_env()"),
    ],
)
def test_a_fault_takes_another_application(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], app: str
) -> None:
    monkeypatch.delenv("MARQUEE_FAULT", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert configuration()["wsgi_app"] == app


def test_the_folder_of_the_counters_is_made(folders: tuple[Path, Path]) -> None:
    configuration()

    assert folders[0].is_dir()


def test_starting_empties_the_counters_of_an_earlier_start(folders: tuple[Path, Path]) -> None:
    settings = configuration()
    (folders[0] / "counter_1.db").touch()
    (folders[0] / "README").touch()

    settings["on_starting"](None)

    assert [path.name for path in folders[0].iterdir()] == ["README"]


@pytest.mark.parametrize("hook", [("on_starting", (None,)), ("child_exit", (None, None))])
def test_receipts_of_ended_workers_are_handed_over(
    folders: tuple[Path, Path], hook: tuple[str, tuple[None, ...]]
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    (folders[1] / f"stable-1-{ended.pid}-1.jsonl").touch()
    name, arguments = hook

    configuration()[name](*arguments)

    assert [path.suffix for path in folders[1].iterdir()] == [".done"]


def test_a_worker_that_ends_leaves_its_counters(folders: tuple[Path, Path]) -> None:
    settings = configuration()
    (folders[0] / "counter_1.db").touch()

    settings["child_exit"](None, None)

    assert [path.name for path in folders[0].iterdir()] == ["counter_1.db"]


def test_what_is_loaded_before_the_fork_is_never_looked_through_again(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(gc, "collect", lambda: told.append("collect"))
    monkeypatch.setattr(gc, "freeze", lambda: told.append("freeze"))

    configuration()["on_starting"](None)

    assert told == ["collect", "freeze"]
