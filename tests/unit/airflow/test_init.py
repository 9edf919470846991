import json
import os
import runpy
import stat
from pathlib import Path

from pipelines.settings import PROJECT_DIR

keep_password = runpy.run_path(str(PROJECT_DIR / "docker" / "airflow" / "init.py"))["keep_password"]


def test_the_password_is_where_airflow_reads_it_and_for_nobody_else(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "admin:admin")
    path = tmp_path / "passwords.json"
    before = os.umask(0)
    try:
        for password in ("first", "second"):
            monkeypatch.setenv("MARQUEE_AIRFLOW_PASSWORD", password)
            keep_password(path)
            assert json.loads(path.read_text()) == {"admin": password}
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == [path]
