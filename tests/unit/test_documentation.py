"""What the README promises is there."""

import re

from typer.main import get_command

from pipelines.__main__ import app
from pipelines.settings import PROJECT_DIR, Settings

README = (PROJECT_DIR / "README.md").read_text()


def test_every_command_is_in_the_readme():
    missing = [name for name in get_command(app).commands if not re.search(rf"`{name}\b", README)]
    assert missing == [], "add a row to the README's table of commands"


def test_every_setting_that_the_readme_names_exists():
    named = set(re.findall(r"MARQUEE_([A-Z0-9_]+[A-Z0-9])", README)) - {"SMTP"}
    compose = (PROJECT_DIR / "docker-compose.yaml").read_text()
    of_containers = set(re.findall(r"\$\{MARQUEE_([A-Z0-9_]+)", compose))
    assert named <= {name.upper() for name in Settings.model_fields} | of_containers


def test_every_word_of_make_that_the_readme_names_exists():
    targets = set(re.findall(r"^([a-z0-9-]+):", (PROJECT_DIR / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z0-9-]+)", README)) <= targets


def test_every_file_that_the_readme_names_exists():
    named = re.findall(r"`((?:pipelines|docker|expectations|tests)/[a-z0-9_./-]+)`", README)
    assert [path for path in named if not (PROJECT_DIR / path).exists()] == []
