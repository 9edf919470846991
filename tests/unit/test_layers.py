"""Who may import whom is written in pyproject.toml; this test holds it."""

import os
import subprocess
import sys
from pathlib import Path

from pipelines.settings import PROJECT_DIR


def test_imports_go_in_one_direction():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=PROJECT_DIR,
        env=os.environ | {"PYTHONPATH": f"{PROJECT_DIR}:{PROJECT_DIR / 'plugins'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_packages_that_serving_passes_through_import_nothing():
    for package in ("pipelines", "pipelines/model"):
        lines = (PROJECT_DIR / package / "__init__.py").read_text().splitlines()
        assert not [line for line in lines if line.startswith(("import ", "from "))], package
