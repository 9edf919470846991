import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.errors import ModelError, SettingsError
from pipelines.recents import RecentsWriter, Viewing
from serving.wsgi import create_app_from_env
from tests.fakes import tiny_artifact


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    return {
        "MARQUEE_MODEL_DIR": str(tiny_artifact(tmp_path / "v7", version=7)),
        "MARQUEE_ARM": "stable",
        "MARQUEE_REPLICA": "stable-1",
        "MARQUEE_SPOOL_DIR": str(tmp_path / "spool"),
    }


def test_the_environment_makes_a_replica(environ: dict[str, str]) -> None:
    client = create_app_from_env(environ).test_client()

    assert client.get("/readyz").json == {
        "version": 7,
        "arm": "stable",
        "replica": "stable-1",
        "ready": True,
    }
    assert client.get("/recommend/1").text == ",".join([*(f"m{row:02}" for row in range(2, 40, 2)), "m01"])


def test_receipts_go_to_the_spool_folder(environ: dict[str, str]) -> None:
    create_app_from_env(environ).test_client().get("/recommend/1")

    (spool,) = Path(environ["MARQUEE_SPOOL_DIR"]).iterdir()
    assert spool.name.startswith("stable-1-")


def test_what_users_watched_comes_from_the_recents_folder(environ: dict[str, str], tmp_path: Path) -> None:
    with RecentsWriter(tmp_path / "recents", keep_days=7.0) as recents:
        recents.add([Viewing("99", "m01", datetime.now(UTC))], {})
    environ["MARQUEE_RECENTS_DIR"] = str(tmp_path / "recents")

    answer = create_app_from_env(environ).test_client().get("/recommend/99")

    assert answer.headers["X-Marquee-Source"] == "folded-in"
    assert "m01" not in answer.text.split(",")


def test_a_model_without_a_number_is_served_as_version_0(environ: dict[str, str], tmp_path: Path) -> None:
    environ["MARQUEE_MODEL_DIR"] = str(tiny_artifact(tmp_path / "fresh", version=None))

    answer = create_app_from_env(environ).test_client().get("/readyz")

    assert answer.json is not None
    assert answer.json["version"] == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MARQUEE_ARM", "blue"),
        ("MARQUEE_REPLICA", "a/b"),
        ("MARQUEE_REPLICA", "x" * 65),
        ("MARQUEE_SPOOL_DIR", ""),
        ("MARQUEE_MODEL_DIR", ""),
    ],
)
def test_a_wrong_variable_is_named(environ: dict[str, str], name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}='{value}'"):
        create_app_from_env(environ | {name: value})


def test_a_missing_model_is_said_at_once(environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        create_app_from_env(environ | {"MARQUEE_MODEL_DIR": str(tmp_path / "nowhere")})


def test_serving_needs_none_of_the_heavy_libraries() -> None:
    heavy = {"pandas", "surprise", "scipy", "pydantic", "sqlalchemy", "airflow", "pyarrow", "kafka"}
    code = "import sys, serving.wsgi, serving.worker; print(*{name.split('.')[0] for name in sys.modules})"

    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert heavy & set(loaded.split()) == set()
