import gzip
import json
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.__main__ import main
from pipelines.commands.shell import Exit, shown
from pipelines.records.database import connect, migrate
from pipelines.records.recorder import ship_once
from tests.fakes import tiny_artifact

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


def test_without_a_terminal_progress_is_logged_and_what_is_printed_stays_json(shell, tmp_path):
    (tmp_path / "log").write_text(LINES)
    _, out, err = shell("collect", "--file", tmp_path / "log", "--out", tmp_path / "batches")
    assert json.loads(out)["lines"] == 4
    assert "collect: 4 lines in " in err


def test_on_a_terminal_there_is_a_bar_with_rate_and_time_left(monkeypatch, caplog):
    caplog.set_level("INFO", logger="pipelines.progress")
    terminal = StringIO()
    monkeypatch.setattr(
        "pipelines.commands.shell.errors", Console(file=terminal, force_terminal=True, width=120)
    )
    with shown("collect", "lines") as progress:
        for done in (0, 1_000, 2_000):
            progress(done, 4_000)
    assert "collect" in terminal.getvalue()
    assert "2,000 of 4,000 lines (50 %), " in terminal.getvalue()
    assert " left" in terminal.getvalue()
    (last,) = caplog.messages
    assert last.startswith("collect: 2,000 of 4,000 lines (50 %)")


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


def test_train_does_the_step_of_a_run_of_the_dag(shell, monkeypatch):
    def step(config, *, run_id, show):
        return {"rmse": 0.9, "run": run_id}

    monkeypatch.setattr("pipelines.retrain.train", step)
    code, printed, _ = shell("train", "--run", "manual__1")
    assert (code, json.loads(printed)) == (Exit.OK, {"rmse": 0.9, "run": "manual__1"})


@pytest.mark.parametrize("given", [(), ("--out", "model"), ("--run", "manual__1", "--out", "model")])
def test_train_wants_either_ratings_or_a_run(shell, given):
    code, _, said = shell("train", *given)
    assert code == Exit.USAGE
    assert "--run" in said


def test_train_looks_before_it_trains_whether_it_may_replace_the_folder(shell, tmp_path, ratings_csv):
    (tmp_path / "thesis").touch()
    code, _, said = shell("train", "--ratings", ratings_csv, "--out", ".")
    assert code == Exit.FAILED
    assert "holds no model" in " ".join(said.split())
    assert "epochs" not in said


def test_recommend_reads_a_list_of_users_as_editors_write_it(shell, tmp_path):
    tiny_artifact(tmp_path / "model")
    (tmp_path / "users").write_bytes(b"\xef\xbb\xbf3\r\n5\r\n")
    _, printed, _ = shell("recommend", "--model", tmp_path / "model", "--users", tmp_path / "users")
    assert [line.partition(":")[0] for line in printed.splitlines()] == ["3", "5"]
    (tmp_path / "users").write_bytes(b"\xff\n")
    assert shell("recommend", "--model", tmp_path / "model", "--users", tmp_path / "users")[0] == Exit.USAGE


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


@pytest.mark.parametrize(
    "asked",
    [
        (),
        ("--user", "3", "--version", 7),
        ("--at", "yesterday"),
        ("--at", "0001-01-01"),
        ("--at", "9999-12-31T23:59-05:00"),
        ("--user", "\udcff"),
        ("--version", 2**63),
    ],
)
def test_served_wants_one_question_that_it_can_read(shell, asked):
    assert shell("served", *asked)[0] == Exit.USAGE


def test_a_request_id_that_is_no_text_is_wrong_usage(shell):
    assert shell("receipt", "\udcff")[0] == Exit.USAGE


def test_archive_says_what_left_the_database(shell, spooled, tmp_path):
    engine = connect(f"sqlite:///{tmp_path / 'var' / 'records.db'}")
    migrate(str(engine.url))
    ship_once(engine, tmp_path / "var" / "spool")
    engine.dispose()
    code, out, _ = shell("archive", "--keep-days", 1)
    assert code == Exit.OK
    assert [(day["day"], day["receipts"]) for day in json.loads(out)] == [("2022-11-14", 1)]
    assert json.loads(shell("receipt", "a" * 32, "--json")[1])["receipt"]["kept_in"] == "archive"


def test_migrate_says_from_what_to_what(shell):
    code, out, _ = shell("migrate")
    assert code == Exit.OK
    newest = out.removeprefix("the records are brought from nothing to ").strip()
    assert shell("migrate")[1] == f"the records are at {newest}, which is up to date\n"


@pytest.fixture
def collected(shell, tmp_path):
    """A folder of batches with `LINES` in it."""
    (tmp_path / "log").write_text(LINES)
    shell("collect", "--file", tmp_path / "log", "--out", tmp_path / "batches")
    return tmp_path / "batches"


def test_telemetry_is_told_as_a_table_as_json_and_as_csv(shell, collected):
    asked = ("telemetry", "watched", "--batches", collected)
    code, out, err = shell(*asked)
    assert code == Exit.OK, err
    assert "What was watched, by hour" in out
    told = json.loads(shell(*asked, "--by", "movie", "--json")[1])
    assert [row["movie"] for row in told["rows"]] == ["fight+club+1999", "snowpiercer+2013"]
    assert (told["total"]["viewings"], told["batches"], told["lines"]) == (2, 1, 4)
    _, out, _ = shell(*asked, "--csv")
    assert out.splitlines() == [
        "hour,viewings,minutes,minutes_each,users",
        "2022-11-14T12:00:00+00:00,2,2,1.0,2",
    ]


@pytest.mark.parametrize(
    ("times", "ratings"),
    [
        ((), 1),
        (("--since", "1h"), 1),
        (("--since", "1.5h", "--until", "0s"), 0),
        (("--since", "2022-11-14", "--until", "2023-09-28T22:20:23+02:00"), 0),
        (("--since", "2023-09-28 20:20:23"), 1),
    ],
)
def test_telemetry_takes_times_and_durations_before_the_newest_event(shell, collected, times, ratings):
    _, out, _ = shell("telemetry", "ratings", "--batches", collected, "--json", *times)
    assert json.loads(out)["total"]["ratings"] == ratings


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("rejects", "--by", "movie"), "--by reason or --by hour"),
        (("ratings", "--by", "reason"), "--by hour or --by movie"),
        (("ratings", "--since", "yesterday"), "'yesterday' is no time"),
        (("ratings", "--since", ""), "is no time"),
        (("ratings", "--since", "1h", "--until", "2h"), "is not before --until"),
        (("ratings", "--json", "--csv"), "not both"),
        (("viewers",), "viewers"),
    ],
)
def test_telemetry_wants_a_question_that_makes_sense(shell, collected, asked, said):
    code, out, err = shell("telemetry", *asked, "--batches", collected)
    assert (code, out) == (Exit.USAGE, "")
    assert said in " ".join(err.replace("│", " ").split())


def test_telemetry_without_batches_says_what_makes_some(shell, tmp_path):
    code, out, err = shell("telemetry", "rejects")
    assert (code, out) == (Exit.FAILED, "")
    assert "pipelines collect" in err


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
        "telemetry",
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


@pytest.fixture
def batches(shell, tmp_path):
    """Four lines of a log in the folder of the settings."""
    log = tmp_path / "movielog4.log"
    log.write_text(LINES)
    assert shell("collect", "--file", log)[0] == Exit.OK
    return tmp_path / "var" / "batches"


def test_a_range_is_taken_out_listed_and_taken_back(shell, batches):
    code, out, _ = shell("quarantine", "--offsets", "0:1-2", "--why", "a stuck client", "--who", "ann")
    assert code == Exit.OK
    assert out.startswith("out: movielog4, partition 0, offsets 1 to 2\n")
    assert "2 lines in 1 batch(es): 1 viewings, 1 ratings, 0 requests, 0 rejects" in out
    assert "A viewing with a line in the range is out with all its lines of that batch" in out
    (entry,) = json.loads(shell("quarantine", "--list", "--json")[1])
    assert (entry["first"], entry["last"], entry["who"], entry["why"]) == (1, 2, "ann", "a stuck client")
    assert entry["lifted"] is None
    listed = shell("quarantine", "--list")[1].split()
    assert [word for word in listed if word in {"ann", "stuck", "client"}] == ["ann", "stuck", "client"]
    assert shell("quarantine", "--offsets", "0:1-2", "--why", "again")[1].startswith("out already: ")
    code, out, _ = shell(
        "quarantine", "--offsets", "0:1-2", "--lift", "--why", "it was right", "--who", "bob"
    )
    assert (code, out.split(":")[0]) == (Exit.OK, "back in")
    (entry,) = json.loads(shell("quarantine", "--list", "--json")[1])
    assert (entry["lifted"]["who"], entry["lifted"]["why"]) == ("bob", "it was right")


def test_what_a_range_takes_out_is_said_to_programs(shell, batches):
    out = json.loads(shell("quarantine", "--offsets", "0:0-3", "--why", "all of it", "--json")[1])
    assert (out["batches"], out["lines"], out["out"], out["changed"]) == (1, 4, True, True)
    assert out["rows"] == {"watch": 2, "rating": 1, "request": 0, "reject": 1}


@pytest.mark.parametrize("offsets", ["5", "0:5", "0:9-5", "a:1-2", "0:1-2x", "-1:1-2"])
def test_a_malformed_range_is_wrong_usage(shell, batches, offsets):
    code, _, err = shell("quarantine", f"--offsets={offsets}", "--why", "x")
    assert code == Exit.USAGE
    assert "is no range" in " ".join(err.split())
    assert not (batches / "quarantine.json").exists()


@pytest.mark.parametrize("why", [[], ["--why", "  "]])
def test_nothing_is_taken_out_without_a_reason(shell, batches, why):
    assert shell("quarantine", "--offsets", "0:1-2", *why)[0] == Exit.USAGE
    assert not (batches / "quarantine.json").exists()


@pytest.mark.parametrize(
    "wanted", [["0:4-9"], ["0:2-4"], ["1:0-3"], ["0:0-3", "--topic", "other"], ["0:0-3", "--generation", "2"]]
)
def test_offsets_that_were_not_collected_are_refused(shell, batches, wanted):
    code, _, err = shell("quarantine", "--why", "x", "--offsets", *wanted)
    assert code == Exit.FAILED
    assert "not collected; of that partition there is" in " ".join(err.split())
    assert "movielog4 (generation 1)" in " ".join(err.split())


def test_what_is_not_out_cannot_be_taken_back(shell, batches):
    code, _, err = shell("quarantine", "--offsets", "0:1-2", "--lift", "--why", "x")
    assert code == Exit.FAILED
    assert "in quarantine is: nothing" in " ".join(err.split())


def test_an_empty_quarantine_says_so(shell):
    assert shell("quarantine", "--list")[:2] == (
        Exit.OK,
        "Nothing is in quarantine, and nothing ever was.\n",
    )


def test_the_blast_radius_of_a_range_names_its_batches(shell, batches):
    code, out, _ = shell("blast-radius", "--offsets", "0:1-2")
    assert code == Exit.OK
    assert "movielog4~1-0-000000000000-000000000003.parquet" in out
    assert "No version was trained on it." in out
    found = json.loads(shell("blast-radius", "--offsets", "0:1-2", "--json")[1])
    assert (found["versions"], found["answers"]) == ([], 0)
    assert shell("blast-radius", "--offsets", "1-2")[0] == Exit.USAGE


def test_several_logs_are_collected_in_their_order(shell, tmp_path):
    for name, user in (("monday", 1), ("tuesday", 2)):
        (tmp_path / f"{name}.log").write_text(f"2022-11-14T12:24,{user},GET /rate/heat+1995=4\n" * user)
    code, out, _ = shell("collect", "--file", tmp_path / "tuesday.log", "--file", tmp_path / "monday.log")
    assert code == Exit.OK
    found = [json.loads(line) for line in out.splitlines()]
    assert [(each["lines"], each["batches"][0].split("~")[0]) for each in found] == [
        (2, "tuesday"),
        (1, "monday"),
    ]


def test_drill_needs_a_version_that_serves_and_lists_what_earlier_ones_caught(shell):
    code, _, err = shell("drill", "slow")
    assert (code, "nothing serves yet" in err) == (Exit.NOTHING_NEW, True)
    code, out, _ = shell("drill", "--list", "--json")
    assert (code, json.loads(out)) == (Exit.OK, [])
    code, _, err = shell("drill", "sloow")
    assert (code, "wrong-ids" in err) == (Exit.USAGE, True)
