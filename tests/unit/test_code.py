import subprocess

import pytest

from pipelines.code import COMMIT_FILE, code_version, label


@pytest.fixture
def checkout(tmp_path):
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


def test_an_image_without_git_is_told_its_commit(tmp_path):
    (tmp_path / COMMIT_FILE).write_text("f" * 40)
    assert code_version(tmp_path) == {"commit": "f" * 40, "dirty": False}
    (tmp_path / COMMIT_FILE).write_text("f" * 40 + "-dirty")
    assert label(code_version(tmp_path)) == "f" * 40 + "-dirty"


def test_an_image_that_was_not_told_its_commit_says_so(tmp_path):
    (tmp_path / COMMIT_FILE).write_text("")
    assert label(code_version(tmp_path)) == "unknown"


def test_a_folder_inside_a_foreign_checkout_is_not_that_checkout(checkout):
    (checkout / "inner").mkdir()
    assert code_version(checkout / "inner") == {"commit": "unknown", "dirty": False}


def test_without_git_the_code_is_unknown(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert label(code_version(checkout)) == "unknown"
