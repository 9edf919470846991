import gzip
import json
import sys
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.commands.shell import Exit
from pipelines.records.database import connect, migrate
from pipelines.records.recorder import ship_once

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


def test_what_was_watched_since_changes_the_list_and_leaves_it(shell, tmp_path, ratings_csv):
    shell("train", "--ratings", ratings_csv, "--out", tmp_path / "model")
    asked = ("recommend", "--model", tmp_path / "model", "--user", "x", "-k", 30, "--json")
    before = json.loads(shell(*asked)[1])["movie_ids"]
    after = json.loads(shell(*asked, "--watched", before[0], "--watched", before[1])[1])["movie_ids"]
    assert sorted(after) == sorted(before[2:])


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


@pytest.fixture
def spooled(tmp_path):
    """An answer that has not been shipped yet."""
    line = {
        "request_id": "a" * 32,
        "version_number": 7,
        "user_id": "3",
        "served_at": "2022-11-14T12:00:00+00:00",
        "arm": "stable",
        "replica": "stable-1",
        "source": "personal",
        "movie_ids": "m1,m2",
        "watched": "",
        "latency_ms": 0.5,
        "status": 200,
        "canary_percent": 0,
    }
    spool = tmp_path / "var" / "spool"
    spool.mkdir(parents=True)
    (spool / "stable-1-999999999-1.jsonl").write_text(json.dumps(line) + "\n")


def test_a_receipt_is_explained_in_words_and_as_json(shell, spooled):
    code, out, _ = shell("receipt", "a" * 32)
    assert code == Exit.OK
    assert "User 3 got 2 movies from version 7 (stable)" in out
    code, out, _ = shell("receipt", "a" * 32, "--replay", "--json")
    told = json.loads(out)
    assert (code, told["receipt"]["movie_ids"]) == (Exit.OK, ["m1", "m2"])
    assert "there is no version 7" in told["replay"]["reason"]


def test_an_unknown_receipt_is_a_failure_that_says_where_it_looked(shell):
    code, out, err = shell("receipt", "b" * 32)
    assert (code, out) == (Exit.FAILED, "")
    assert "there is no receipt" in err
    assert "Looked for in" in err


def test_what_was_served_is_told_by_moment_user_and_version(shell, spooled):
    for asked, key in (
        (("--at", "2022-11-14 12:00:10", "--window-s", 30), "served"),
        (("--user", "3", "--days", 36_500), 0),
        (("--version", 7), "answers"),
    ):
        code, out, err = shell("served", *asked, "--json")
        assert code == Exit.OK, err
        assert json.loads(out)[key]
        assert shell("served", *asked)[0] == Exit.OK


def test_a_moment_with_a_zone_is_that_moment(shell, spooled):
    _, out, _ = shell("served", "--at", "2022-11-14T14:00:10+02:00", "--json")
    assert json.loads(out)["at"] == "2022-11-14T12:00:10+00:00"
    assert json.loads(out)["served"][0]["answers"] == 1


@pytest.mark.parametrize("asked", [(), ("--user", "3", "--version", 7), ("--at", "yesterday")])
def test_served_wants_one_question_that_it_can_read(shell, asked):
    assert shell("served", *asked)[0] == Exit.USAGE


def test_archive_says_what_left_the_database(shell, spooled, tmp_path):
    engine = connect(f"sqlite:///{tmp_path / 'var' / 'records.db'}")
    migrate(str(engine.url))
    ship_once(engine, tmp_path / "var" / "spool")
    engine.dispose()
    code, out, _ = shell("archive", "--keep-days", 1)
    assert code == Exit.OK
    assert [(day["day"], day["receipts"]) for day in json.loads(out)] == [("2022-11-14", 1)]
    assert json.loads(shell("receipt", "a" * 32, "--json")[1])["receipt"]["kept_in"] == "archive"


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
        "receipt",
        "served",
        "archive",
        "recorder",
        "follow",
    ):
        assert command in out
        assert shell(command, "--help")[0] == Exit.OK


def test_wrong_setting_is_wrong_usage(shell, tmp_path):
    (tmp_path / ".env").write_text("MARQUEE_MAX_RMSE=-1\n")
    code, _, err = shell("versions")
    assert code == Exit.USAGE
    assert "MARQUEE_MAX_RMSE='-1'" in err
