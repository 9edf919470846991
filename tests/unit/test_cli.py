import gzip
import json
import sys
from pathlib import Path

import pytest

from pipelines.__main__ import Exit, main

LINES = """\
2022-11-14T12:23:12,596363,GET /data/m/snowpiercer+2013/16.mpg
2022-11-14T12:24,232596,GET /data/m/fight+club+1999/128.mpg
2023-09-28T20:20:23,65458,GET /rate/monty+python+and+the+holy+grail+1975=5
2023-09-28T20:20:24,65458,GET /rate/monty+python+and+the+holy+grail+1975=F
"""


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys):
    """`python -m pipelines` in a folder of its own: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARQUEE_VAR_DIR", str(tmp_path / "var"))

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["marquee", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def ratings_csv(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("csv") / "ratings.csv"
    rows = [
        f"{user},{movie},{1 + (user * movie) % 5},{1_000 + user * 50 + movie}"
        for user in range(40)
        for movie in range(user % 3, 30, 3)
    ]
    path.write_text("\n".join(["user_id,movie_id,rating,timestamp", *rows]) + "\n")
    return path


def test_collect_counts_every_line_once(shell, tmp_path):
    (tmp_path / "log").write_text(LINES)
    code, out, _ = shell("collect", "--file", tmp_path / "log", "--out", tmp_path / "batches")
    printed = json.loads(out)
    assert code == Exit.OK
    assert printed["counts"] == {"watch": 2, "rating": 1, "request": 0, "reject": 1}
    assert printed["rejects"] == {"bad-rating": 1}
    assert (printed["first_offset"], printed["last_offset"]) == (0, 3)


def test_collect_goes_on_where_it_stopped(shell, tmp_path):
    log = tmp_path / "log.gz"
    log.write_bytes(gzip.compress(LINES.encode()))
    shell("collect", "--file", log, "--out", tmp_path / "batches")
    code, out, _ = shell("collect", "--file", log, "--out", tmp_path / "batches")
    assert (code, json.loads(out)["lines"]) == (Exit.OK, 0)


def test_collect_from_a_missing_file_says_so(shell, tmp_path):
    code, out, err = shell("collect", "--file", tmp_path / "nowhere", "--out", tmp_path / "batches")
    assert code == Exit.FAILED
    assert out == ""
    assert "nowhere" in err
    assert "Traceback" not in err


def test_collect_wants_one_source(shell, tmp_path):
    code, _, err = shell("collect", "--file", "a", "--kafka", "b:1")
    assert code == Exit.USAGE
    assert "not both" in err


def test_train_recommend_and_evaluate_work_on_any_csv(shell, tmp_path, ratings_csv):
    code, out, err = shell("train", "--ratings", ratings_csv, "--out", tmp_path / "model")
    assert code == Exit.OK, err
    figures = json.loads(out)
    assert figures["ratings"] == ratings_csv.read_text().count("\n") - 1
    assert 0 < figures["rmse"] < 4

    (tmp_path / "users").write_text("3\r\nstranger\r\n\r\n")
    code, out, _ = shell(
        "recommend", "--model", tmp_path / "model", "--users", tmp_path / "users", "-k", 5, "--json"
    )
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["user_id"] for answer in answers] == ["3", "stranger"]
    assert all(len(set(answer["movie_ids"])) == 5 for answer in answers)
    rated = {line.split(",")[1] for line in ratings_csv.read_text().splitlines() if line.startswith("3,")}
    assert not rated & set(answers[0]["movie_ids"])

    code, out, _ = shell("evaluate", "--model", tmp_path / "model", "--ratings", ratings_csv)
    assert (code, json.loads(out)["n_ratings"]) == (Exit.OK, figures["ratings"])


def test_recommend_prints_one_plain_line_a_user(shell, tmp_path, ratings_csv):
    shell("train", "--ratings", ratings_csv, "--out", tmp_path / "model")
    _, out, _ = shell("recommend", "--model", tmp_path / "model", "--user", "x", "-k", 2)
    assert out.startswith("x: ")
    assert out.count(",") == 1


def test_broken_csv_is_named_with_its_line(shell, tmp_path):
    (tmp_path / "bad.csv").write_text("user_id,movie_id,rating,timestamp\n1,2,three,4\n")
    code, _, err = shell("train", "--ratings", tmp_path / "bad.csv", "--out", tmp_path / "model")
    assert code == Exit.FAILED
    assert "line 2" in err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("scale", ["5", "5:1", "a:b"])
def test_nonsense_scale_is_wrong_usage(shell, tmp_path, ratings_csv, scale):
    code, _, err = shell("train", "--ratings", ratings_csv, "--out", tmp_path / "model", "--scale", scale)
    assert code == Exit.USAGE
    assert "is no scale" in err


def test_validate_refuses_with_its_own_exit_code(shell, tmp_path):
    (tmp_path / "log").write_text(LINES.splitlines()[0] + "\n")
    shell("collect", "--file", tmp_path / "log", "--out", tmp_path / "batches")
    code, out, err = shell("validate", "--batches", tmp_path / "batches")
    assert code == Exit.REFUSED
    assert json.loads(out)["success"] is False
    assert "Refused" in err


def test_versions_of_an_empty_registry_are_none(shell):
    code, out, _ = shell("versions", "--json")
    assert (code, json.loads(out)) == (Exit.OK, [])


def test_release_without_a_version_says_what_to_do_first(shell):
    code, _, err = shell("release")
    assert code == Exit.FAILED
    assert "retrain" in err


def test_every_command_has_help(shell):
    _, out, _ = shell("--help")
    for command in (
        "collect",
        "validate",
        "train",
        "evaluate",
        "recommend",
        "versions",
        "release",
        "rollback",
        "status",
    ):
        assert command in out
        assert shell(command, "--help")[0] == Exit.OK


def test_wrong_setting_is_wrong_usage(shell, tmp_path):
    (tmp_path / ".env").write_text("MARQUEE_MAX_RMSE=-1\n")
    code, _, err = shell("versions")
    assert code == Exit.USAGE
    assert "MARQUEE_MAX_RMSE='-1'" in err
