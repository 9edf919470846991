"""Secrets: drawn where they are missing, refused where anybody could guess them."""

import base64
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from pipelines.settings import PROJECT_DIR

MAKE_ENV = PROJECT_DIR / "docker" / "make-env"
SECRETS = re.findall(r"^(MARQUEE_\w+)=$", (PROJECT_DIR / "docker" / "env.example").read_text(), re.MULTILINE)
DRAWN = "3f9a0c7e51d2b846"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "docker").mkdir()
    for name in ("docker/make-env", "docker/env.example", ".env.example"):
        shutil.copy(PROJECT_DIR / name, tmp_path / name)
    return tmp_path


def run(project: Path, *arguments: str) -> str:
    command = ["sh", project / "docker" / "make-env", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def values(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_every_secret_is_drawn_and_none_is_shown(project):
    said = run(project)
    drawn = values(project / ".env")
    assert stat.S_IMODE((project / ".env").stat().st_mode) == 0o600
    assert len({drawn[name] for name in SECRETS}) == len(SECRETS) == 10
    assert all(len(drawn[name]) >= 24 * 2 for name in SECRETS if "FERNET" not in name)
    assert len(base64.urlsafe_b64decode(drawn["MARQUEE_AIRFLOW_FERNET_KEY"])) == 32
    assert said.count("drew MARQUEE_") == len(SECRETS)
    assert not any(drawn[name] in said for name in SECRETS)
    others = {name: value for name, value in drawn.items() if name not in SECRETS}
    assert others == {n: v for n, v in values(PROJECT_DIR / ".env.example").items() if n not in SECRETS}
    assert not list(project.glob(".env.??????"))


def test_what_has_a_value_stays(project):
    kept = f"# mine\nMARQUEE_SEED=7\nMARQUEE_REDIS_PASSWORD={DRAWN}\nMARQUEE_POSTGRES_PASSWORD=\n"
    (project / ".env").write_text(kept)
    assert "REDIS" not in run(project)
    assert (project / ".env").read_text().startswith(kept.removesuffix("\n"))
    assert values(project / ".env")["MARQUEE_POSTGRES_PASSWORD"]
    before = (project / ".env").read_text()
    assert "nothing was drawn" in run(project)
    assert (project / ".env").read_text() == before


def check(**secrets: str) -> subprocess.CompletedProcess[str]:
    environment = {f"MARQUEE_{name}": value for name, value in secrets.items()} | {"PATH": "/usr/bin:/bin"}
    command = ["sh", MAKE_ENV, "--check"]
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True)


def test_drawn_secrets_are_let_through(project):
    run(project)
    drawn = values(project / ".env")
    done = check(**{name.removeprefix("MARQUEE_"): drawn[name] for name in SECRETS})
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("", "0 characters; at least 16"),
        (DRAWN[:15], "15 characters; at least 16"),
        ("change-me-change-me", "tries first"),
        ("MyPassword0123456789", "tries first"),
        ("abcabcabcabcabcabc", "3 different characters; at least 8"),
        (f"{DRAWN}@host/x", "characters that an address cannot hold"),
        (f"{DRAWN}'; drop", "characters that an address cannot hold"),
    ],
)
def test_what_anybody_could_guess_is_refused_without_being_shown(secret, said):
    done = check(A_PASSWORD=secret, B_PASSWORD=DRAWN)
    assert done.returncode == 1
    assert re.search(f"MARQUEE_A_PASSWORD .*{said}", done.stdout)
    assert "run `make env`" in done.stdout
    assert "MARQUEE_B" not in done.stdout
    assert not secret or secret not in done.stdout


def test_every_secret_is_checked_before_anything_keeps_it():
    services = yaml.safe_load((PROJECT_DIR / "docker-compose.yaml").read_text())["services"]
    assert set(services["env-check"]["environment"]) == set(SECRETS)
    for keeper in ("mysql", "postgres"):
        assert services[keeper]["depends_on"]["env-check"] == {"condition": "service_completed_successfully"}


def test_nothing_starts_with_the_values_of_the_example():
    assert {values(PROJECT_DIR / ".env.example")[name] for name in SECRETS} == {""}
    compose = (PROJECT_DIR / "docker-compose.yaml").read_text()
    missing = [name for name in SECRETS if f"${{{name}:?" not in compose]
    assert missing == []
