import base64
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from pipelines.local.airflow import PROGRAMS, USER, admin_password, airflow_environment
from pipelines.settings import PROJECT_DIR, Settings, read


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    return read(_env_file=None, var_dir=tmp_path, airflow_port=8123)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "airflow"


def test_airflow_serves_this_project_and_nothing_else(config, home):
    found = airflow_environment(config, home)
    assert found["AIRFLOW_HOME"] == str(home)
    assert found["AIRFLOW__CORE__DAGS_FOLDER"] == str(PROJECT_DIR / "dags")
    assert found["AIRFLOW__CORE__PLUGINS_FOLDER"] == str(PROJECT_DIR / "plugins")
    assert found["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
    assert found["PYTHONPATH"] == str(PROJECT_DIR)


def test_tasks_find_the_api_where_it_listens(config, home):
    found = airflow_environment(config, home)
    assert (found["AIRFLOW__API__HOST"], found["AIRFLOW__API__PORT"]) == ("127.0.0.1", "8123")
    assert found["AIRFLOW__API__BASE_URL"] == "http://127.0.0.1:8123"
    assert found["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8123/execution/"


@pytest.mark.parametrize("bind", ["0.0.0.0", "::"])
def test_an_address_that_means_all_is_not_one_to_call(bind):
    assert read(_env_file=None, bind=bind, airflow_port=8123).airflow_url == "http://127.0.0.1:8123"


def test_the_programs_are_found_first_in_the_environment_of_this_python(config, home):
    first = Path(airflow_environment(config, home)["PATH"].split(os.pathsep)[0])
    assert all((first / program).exists() for program, *_ in PROGRAMS.values())


def test_a_home_keeps_its_secrets_and_two_homes_share_none(config, home, tmp_path):
    first = airflow_environment(config, home)
    other = airflow_environment(config, tmp_path / "other")
    assert airflow_environment(config, home) == first
    for name in ("API_AUTH__JWT_SECRET", "API__SECRET_KEY", "CORE__FERNET_KEY"):
        assert first[f"AIRFLOW__{name}"] != other[f"AIRFLOW__{name}"]
    assert admin_password(home) != admin_password(tmp_path / "other")


def test_secrets_are_for_the_owner_only(config, home):
    airflow_environment(config, home)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()}
    assert modes == dict.fromkeys(("jwt.secret", "fernet.secret", "session.secret", "passwords.json"), 0o600)


def test_the_keys_are_as_long_as_their_users_want_them(config, home):
    found = airflow_environment(config, home)
    assert len(base64.urlsafe_b64decode(found["AIRFLOW__CORE__FERNET_KEY"])) == 32
    # Airflow signs with SHA-512, which asks for as many bytes.
    assert len(found["AIRFLOW__API_AUTH__JWT_SECRET"]) >= 512 // 8


def test_the_password_stands_where_airflow_looks_for_it(config, home):
    path = Path(airflow_environment(config, home)["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    assert json.loads(path.read_text()) == {USER: admin_password(home)}


def test_processes_that_start_at_once_agree_on_the_secrets(config, home):
    found: list[dict[str, str]] = []
    start = threading.Barrier(8)

    def come() -> None:
        start.wait()
        found.append(airflow_environment(config, home))

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one == found[0] for one in found)
    assert len(found) == 8
