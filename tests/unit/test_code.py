import subprocess

import pytest

from pipelines.code import COMMIT_VARIABLE, code_version, label


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.delenv(COMMIT_VARIABLE, raising=False)
    who = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "--quiet"], ["add", "file"], [*who, "commit", "--quiet", "-m", "first"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    return tmp_path


def test_a_clean_checkout_is_its_commit(checkout):
    code = code_version(checkout)
    assert len(code["commit"]) == 40
    assert not code["dirty"]
    assert label(code) == code["commit"]


def test_a_changed_file_shows(checkout):
    clean = code_version(checkout)
    (checkout / "file").write_text("2")
    assert label(code_version(checkout)) == f"{clean['commit']}-dirty"


def test_an_image_without_git_is_told_its_commit(checkout, monkeypatch):
    monkeypatch.setenv(COMMIT_VARIABLE, "f" * 40)
    assert code_version(checkout) == {"commit": "f" * 40, "dirty": False}


def test_a_folder_inside_a_foreign_checkout_is_not_that_checkout(checkout):
    (checkout / "inner").mkdir()
    assert code_version(checkout / "inner") == {"commit": "unknown", "dirty": False}


def test_without_git_the_code_is_unknown(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert label(code_version(checkout)) == "unknown"
