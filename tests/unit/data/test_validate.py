import json
import socket
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.data import validate as room
from pipelines.data.batches import list_batches, read_kind
from pipelines.data.collect import collect
from pipelines.data.suites import KINDS, load_suites
from pipelines.data.validate import Report, validate
from pipelines.errors import DataError, NothingNew
from pipelines.events.grammar import Rating, Request, Watch, parse
from pipelines.events.sources import FileSource

SUITES_DIR = Path(__file__).resolve().parents[3] / "expectations"
SUITES = load_suites(SUITES_DIR)
NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)
MOVIES = ("fight+club+1999", "endeavour+", "girl_+interrupted+1999", "m*a*s*h+1970", "caf%C3%A9+2001")


def clean_lines():
    """An hour up to NOW: 40 users who watch, rate and are recommended to."""
    lines = []
    for number in range(120):
        time = NOW - timedelta(seconds=30 * (120 - number))
        user, movie = number % 40 + 1, MOVIES[number % len(MOVIES)]
        lines.append(Watch(time, user, movie, number).line())
        lines.append(Rating(time, user, movie, (4, 3, 4, 5)[number % 4]).line())
        lines.append(Request(time, user, "host", 8082, 200, MOVIES, "", 40 + number).line())
    return lines


def collected(folder, lines):
    """Collect lines into batches below ``folder``; returns the folder and the names."""
    folder.mkdir(exist_ok=True)
    (folder / "movielog.log").write_text("".join(f"{line}\n" for line in lines))
    collect(FileSource(folder / "movielog.log"), folder / "batches")
    return folder / "batches", [batch.name for batch in list_batches(folder / "batches")]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The frames that the suites see on clean data."""
    batches_dir, names = collected(tmp_path_factory.mktemp("clean"), clean_lines())
    frames = {suite: read_kind(batches_dir, kind, names) for suite, kind in KINDS.items()}
    return frames | {"stream": room._stream(list_batches(batches_dir), NOW)}


def failed(suite, frame):
    """The checks of one suite that fail on ``frame``, as (expectation, columns, severity)."""
    checks = room._run(SUITES[suite], frame)
    return {(check.expectation, check.column, check.severity) for check in checks if not check.success}


def with_value(column, value, share=1 / 120):
    """Put ``value`` into a share of the rows, at least one."""

    def break_it(frame):
        rows = max(1, round(share * len(frame)))
        values = [value] * rows + frame[column].tolist()[rows:]
        return frame.assign(**{column: pd.Series(values, index=frame.index)})

    return break_it


def without_rows(frame):
    return frame.iloc[:0]


def half_repeated(frame):
    return pd.concat([frame, frame.iloc[: len(frame) // 2]], ignore_index=True)


def ended_before_it_began(frame):
    return frame.assign(last_time=frame["time"] - pd.Timedelta(seconds=1))


BETWEEN = "expect_column_values_to_be_between"
NOT_NULL = "expect_column_values_to_not_be_null"
ROW_COUNT = "expect_table_row_count_to_be_between"
REGEX = "expect_column_values_to_match_regex"

# (suite, expectation, columns, severity): data made to break just that check.
BREAKS = {
    ("watches", ROW_COUNT, "", "warning"): without_rows,
    ("watches", NOT_NULL, "user_id", "critical"): with_value("user_id", None),
    ("watches", BETWEEN, "user_id", "critical"): with_value("user_id", 1_000_001),
    ("watches", NOT_NULL, "movie_id", "critical"): with_value("movie_id", None),
    ("watches", REGEX, "movie_id", "critical"): with_value("movie_id", "sOtar+trek+2009"),
    ("watches", NOT_NULL, "time", "critical"): with_value("time", None),
    ("watches", BETWEEN, "minutes", "critical"): with_value("minutes", 0, share=0.0),
    ("watches", BETWEEN, "minutes", "warning"): with_value("minutes", 601, share=0.02),
    (
        "watches",
        "expect_column_pair_values_a_to_be_greater_than_b",
        "last_time, time",
        "critical",
    ): ended_before_it_began,
    ("ratings", ROW_COUNT, "", "critical"): without_rows,
    ("ratings", NOT_NULL, "user_id", "critical"): with_value("user_id", None),
    ("ratings", BETWEEN, "user_id", "critical"): with_value("user_id", 0),
    ("ratings", NOT_NULL, "movie_id", "critical"): with_value("movie_id", None),
    ("ratings", REGEX, "movie_id", "critical"): with_value("movie_id", "d ark+city+1998"),
    ("ratings", NOT_NULL, "time", "critical"): with_value("time", None),
    ("ratings", NOT_NULL, "rating", "critical"): with_value("rating", None),
    ("ratings", BETWEEN, "rating", "critical"): with_value("rating", 6),
    (
        "ratings",
        "expect_compound_columns_to_be_unique",
        "user_id, movie_id, time",
        "warning",
    ): half_repeated,
    ("ratings", "expect_column_mean_to_be_between", "rating", "warning"): with_value("rating", 1, share=0.9),
    ("ratings", "expect_column_stdev_to_be_between", "rating", "warning"): with_value("rating", 4, share=1.0),
    ("requests", ROW_COUNT, "", "warning"): without_rows,
    ("requests", BETWEEN, "user_id", "warning"): with_value("user_id", -1),
    ("requests", NOT_NULL, "status", "warning"): with_value("status", None),
    ("requests", "expect_column_values_to_be_in_set", "status", "warning"): with_value(
        "status", 0, share=0.2
    ),
    ("requests", BETWEEN, "response_ms", "warning"): with_value("response_ms", 60_001),
    ("stream", BETWEEN, "lines", "critical"): with_value("lines", 0),
    ("stream", NOT_NULL, "newest_age_s", "critical"): with_value("newest_age_s", None),
    ("stream", BETWEEN, "newest_age_s", "critical"): with_value("newest_age_s", -1.01 * 86_400),
    ("stream", BETWEEN, "newest_age_s", "warning"): with_value("newest_age_s", 6.01 * 3_600),
    ("stream", BETWEEN, "reject_share", "warning"): with_value("reject_share", 0.021),
    ("stream", BETWEEN, "reject_share", "critical"): with_value("reject_share", 0.201),
    ("stream", BETWEEN, "rating_reject_share", "warning"): with_value("rating_reject_share", 0.051),
    ("stream", BETWEEN, "rating_reject_share", "critical"): with_value("rating_reject_share", 0.501),
    ("stream", BETWEEN, "duplicates_share", "warning"): with_value("duplicates_share", 0.051),
}
# Some faults break a neighbour, too: the warning limit below the refusing one, the mean of no rows.
ALSO = {
    ("watches", NOT_NULL, "time", "critical"): {
        ("expect_column_pair_values_a_to_be_greater_than_b", "last_time, time", "critical")
    },
    ("watches", BETWEEN, "minutes", "critical"): {(BETWEEN, "minutes", "warning")},
    ("stream", BETWEEN, "reject_share", "critical"): {(BETWEEN, "reject_share", "warning")},
    ("stream", BETWEEN, "rating_reject_share", "critical"): {(BETWEEN, "rating_reject_share", "warning")},
    ("ratings", ROW_COUNT, "", "critical"): {
        ("expect_column_mean_to_be_between", "rating", "warning"),
        ("expect_column_stdev_to_be_between", "rating", "warning"),
    },
}


@pytest.mark.parametrize("suite", SUITES)
def test_clean_data_pass_every_check(suite, clean):
    assert failed(suite, clean[suite]) == set()


@pytest.mark.parametrize("broken", BREAKS, ids=lambda key: "-".join(filter(None, key)))
def test_check_fires_on_data_made_to_break_it_and_no_other_does(broken, clean):
    suite, *check = broken
    assert failed(suite, BREAKS[broken](clean[suite])) == {tuple(check)} | ALSO.get(broken, set())


def test_every_check_is_shown_to_fire():
    there = [
        (suite.name, entry.type, ", ".join(entry.columns), entry.severity)
        for suite in SUITES.values()
        for entry in suite.entries
    ]
    assert sorted(there) == sorted(BREAKS)


@pytest.mark.parametrize("movie", [*MOVIES, "dr.+strangelove+1964", "a++b+2000"])
def test_form_of_movie_ids_is_that_of_the_parser(movie, clean):
    assert isinstance(parse(f"2026-03-03T11:00,1,GET /data/m/{movie}/1.mpg".encode()), Watch)
    assert failed("watches", clean["watches"].assign(movie_id=movie)) == set()


@pytest.mark.parametrize("suite", SUITES)
def test_numbers_reach_great_expectations_in_64_bits(suite, clean):
    kinds = {str(kind) for kind in room._prepared(clean[suite], SUITES[suite]).dtypes}
    assert kinds <= {"int64", "float64", "str", "datetime64[us, UTC]"}


# --- the stream's one row -----------------------------------------------------------------------------


def stream_of(folder, lines, now=NOW):
    batches_dir, _ = collected(folder, lines)
    return room._stream(list_batches(batches_dir), now).iloc[0]


def test_stream_counts_what_arrived(tmp_path):
    rate = "2026-03-03T11:00:00,1,GET /rate/fight+club+1999="
    row = stream_of(tmp_path, [f"{rate}4", f"{rate}4", f"{rate}5", f"{rate}F", "nonsense"])
    assert row["lines"] == 5
    assert (row["rating"], row["reject"], row["duplicates"]) == (3, 2, 1)
    assert row["reject_share"] == 2 / 5
    assert row["rating_reject_share"] == 1 / (3 + 1)
    assert row["duplicates_share"] == 1 / 5
    assert row["newest_age_s"] == 3600


def test_unreadable_stream_has_no_age_and_is_refused(tmp_path):
    row = stream_of(tmp_path, ["nonsense"])
    assert np.isnan(row["newest_age_s"])
    assert (NOT_NULL, "newest_age_s", "critical") in failed("stream", row.to_frame().T)


# --- the report ---------------------------------------------------------------------------------------


def report_on(folder, lines, now=NOW):
    batches_dir, names = collected(folder, lines)
    report = validate(batches_dir, names, SUITES_DIR, folder / "new" / "report.json", now=now)
    return report, json.loads((folder / "new" / "report.json").read_text())


def test_clean_batches_succeed_and_the_report_says_so(tmp_path):
    report, written = report_on(tmp_path, clean_lines())
    assert report.success
    assert report.failed_lines() == []
    users = 40  # each watched one movie, over and over
    assert report.rows == {"watches": users, "ratings": 120, "requests": 120, "stream": 1}
    assert written["success"] is True
    assert written["checked_at"] == "2026-03-03T12:00:00+00:00"
    assert written["batches"] == [path.name for path in (tmp_path / "batches").glob("*.parquet")]
    assert len(written["checks"]) == sum(len(suite.entries) for suite in SUITES.values())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.json"]


def test_warning_does_not_fail_the_report(tmp_path):
    report, written = report_on(tmp_path, clean_lines(), now=NOW + timedelta(days=30))
    assert report.success
    assert written["success"] is True
    assert report.failed_lines("critical") == []
    (line,) = report.failed_lines()
    assert line.startswith("warning: stream.newest_age_s: ")


def test_critical_failure_refuses_and_comes_before_the_warnings(tmp_path):
    faults = ["nonsense"] * 200
    report, written = report_on(tmp_path, [*clean_lines(), *faults])
    assert not report.success
    assert written["success"] is False
    assert [line.split(":")[0] for line in report.failed_lines()] == ["critical", "warning", "warning"]
    assert len(report.failed_lines("warning")) == 2


def test_failed_check_says_what_was_observed_wanted_and_to_be_done(clean):
    frame = with_value("rating", 6, share=2 / 120)(clean["ratings"])
    (check,) = [check for check in room._run(SUITES["ratings"], frame) if not check.success]
    assert check.observed == f"2 of 120 rows ({2 / 120:.2%})"
    assert check.wanted == "column values to be between (min_value 1, max_value 5)"
    assert (check.unexpected, check.examples) == (2, ("6", "6"))
    assert check.line.startswith("critical: ratings.rating: 2 of 120 rows (1.67%) (6, 6); wanted: ")
    assert check.why in check.line
    assert check.do in check.line


def test_repeats_are_shown_by_all_their_columns(clean):
    (check,) = [c for c in room._run(SUITES["ratings"], half_repeated(clean["ratings"])) if not c.success]
    assert check.unexpected == 2 * 60
    assert len(check.examples) == room.EXAMPLES
    assert "user_id=" in check.examples[0]
    assert "movie_id=" in check.examples[0]


def test_check_that_could_not_run_has_failed_with_its_text(clean):
    broken = failed("ratings", clean["ratings"].drop(columns="rating"))
    assert {column for _, column, _ in broken} == {"rating"}
    checks = room._run(SUITES["ratings"], clean["ratings"].drop(columns="rating"))
    (check, *_) = [check for check in checks if not check.success]
    assert check.observed.startswith("the check could not run: ")
    assert "rating" in check.observed


def test_suite_that_breaks_down_as_a_whole_has_failed(clean, monkeypatch):
    def breaks_down(**_):
        raise RuntimeError("out of order")

    monkeypatch.setattr(room.gx, "get_context", breaks_down)
    checks = room._run(SUITES["ratings"], clean["ratings"])
    assert len(checks) == len(SUITES["ratings"].entries)
    assert {check.observed for check in checks} == {"the check could not run: RuntimeError: out of order"}
    assert not Report(NOW, ("a",), {}, tuple(checks)).success


def test_result_that_is_missing_has_failed(clean, monkeypatch):
    monkeypatch.setattr(room, "_results", lambda *_: {})
    assert len(failed("ratings", clean["ratings"])) > 0
    assert all(not check.success for check in room._run(SUITES["ratings"], clean["ratings"]))


def test_nothing_new_is_an_error_and_no_success(tmp_path):
    with pytest.raises(NothingNew, match="nothing new"):
        validate(tmp_path, [], SUITES_DIR, tmp_path / "report.json", now=NOW)
    assert not (tmp_path / "report.json").exists()


def test_batch_that_is_not_there_is_an_error(tmp_path):
    missing = "movielog4~1-0-000000000000-000000000009.parquet"
    with pytest.raises(DataError, match="movielog4~1"):
        validate(tmp_path, [missing], SUITES_DIR, tmp_path / "report.json", now=NOW)


def test_only_the_named_batches_are_looked_at(tmp_path):
    batches_dir, names = collected(tmp_path, clean_lines())
    with (tmp_path / "movielog.log").open("a") as log:
        log.write("nonsense\n" * 1000)
    collect(FileSource(tmp_path / "movielog.log"), batches_dir)
    assert len(list_batches(batches_dir)) == len(names) + 1
    assert validate(batches_dir, names, SUITES_DIR, tmp_path / "report.json", now=NOW).success


def test_old_report_is_replaced(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "report.json").write_text("{}")
    assert report_on(tmp_path, clean_lines())[1]["success"] is True


def test_validating_is_silent_writes_nothing_else_and_talks_to_nobody(tmp_path, capfd, caplog, monkeypatch):
    def no_network(*_):
        raise AssertionError("validating opened a connection")

    def no_temporary_folder(*_, **__):
        raise AssertionError("validating made a temporary folder")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(tempfile, "mkdtemp", no_temporary_folder)
    batches_dir, names = collected(tmp_path, clean_lines())
    capfd.readouterr()
    caplog.clear()
    validate(batches_dir, names, SUITES_DIR, tmp_path / "new" / "report.json", now=NOW)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []
