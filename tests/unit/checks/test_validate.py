import json
import shutil
import socket
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from pipelines.checks import running
from pipelines.checks.profile import Reference, describe
from pipelines.checks.suites import load_suites
from pipelines.checks.validate import validate
from pipelines.data import quarantine
from pipelines.data.batches import list_batches
from pipelines.data.collect import collect
from pipelines.data.quarantine import Quarantined
from pipelines.errors import DataError, NothingNew
from pipelines.events.grammar import Rating, Request, Watch
from pipelines.events.sources import FileSource

SUITES_DIR = Path(__file__).resolve().parents[3] / "expectations"
SUITES = load_suites(SUITES_DIR)
NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)
MOVIES = ("fight+club+1999", "endeavour+", "girl_+interrupted+1999", "m*a*s*h+1970", "caf%C3%A9+2001")


NOTHING = "nothing serves"
DRIFT = ("rating_shift", "popularity_shift", "new_user_excess", "new_movie_excess")


def clean_lines():
    """An hour up to NOW: 40 users who watch, rate and are recommended to."""
    lines = []
    for number in range(120):
        time = NOW - timedelta(seconds=30 * (120 - number))
        user, movie = number % 40 + 1, MOVIES[(number + number // 40) % len(MOVIES)]
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


def report_on(folder, lines, now=NOW, reference=NOTHING):
    batches_dir, names = collected(folder, lines)
    return checked(batches_dir, names, folder, now, reference)


def checked(batches_dir, names, folder, now=NOW, reference=NOTHING):
    """Returns the report and what was written of it."""
    path = folder / "new" / "report.json"
    report = validate(batches_dir, names, SUITES_DIR, path, now=now, reference=reference)
    return report, json.loads(path.read_text())


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Folder, report and what was written of it, of clean lines."""
    folder = tmp_path_factory.mktemp("clean")
    return folder, *report_on(folder, clean_lines())


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Folder, report and what was written of it, of clean lines and 200 that are none."""
    folder = tmp_path_factory.mktemp("refused")
    return folder, *report_on(folder, [*clean_lines(), *(f"nonsense {number}" for number in range(200))])


def test_clean_batches_succeed_and_the_report_says_so(clean):
    folder, report, written = clean
    assert report.success
    assert report.failed_lines() == []
    viewings, users = 120, 40  # each watched three of the five movies
    assert report.rows == {
        **{"watches": viewings, "ratings": 120, "requests": 120, "movies": len(MOVIES), "users": users},
        **{"drift": 1, "stream": 1, "rejects": 0, "volume": 0},
    }
    assert written["success"] is True
    assert written["checked_at"] == "2026-03-03T12:00:00+00:00"
    assert written["batches"] == [path.name for path in (folder / "batches").glob("*.parquet")]
    assert len(written["checks"]) == sum(len(suite.entries) for suite in SUITES.values())
    assert [path.name for path in (folder / "new").iterdir()] == ["report.json"]


def test_warning_does_not_fail_the_report_nor_does_a_clock_that_was_never_set(tmp_path):
    unset = Watch(datetime(1, 1, 1, tzinfo=UTC), 5, MOVIES[0], 3).line()
    report, written = report_on(tmp_path, [*clean_lines(), unset], now=NOW + timedelta(days=30))
    assert report.success
    assert written["success"] is True
    assert report.failed_lines("critical") == []
    age, late = report.failed_lines()
    assert age.startswith("warning: stream.newest_age_s: ")
    assert late.startswith("warning: stream.latest_s: ")


def test_critical_failure_refuses_and_comes_before_the_warnings(refused):
    _, report, written = refused
    assert not report.success
    assert written["success"] is False
    assert [line.split(": ")[:2] for line in report.failed_lines()] == [
        ["critical", "stream.reject_share"],
        ["warning", "stream.reject_share"],
    ]
    assert report.failed_lines("warning") == report.failed_lines()[1:]


def test_nothing_new_is_an_error_and_no_success(tmp_path):
    with pytest.raises(NothingNew, match="nothing new"):
        checked(tmp_path, [], tmp_path)
    assert not (tmp_path / "new").exists()


def test_batch_that_is_not_there_is_an_error(tmp_path):
    missing = "movielog4~1-0-000000000000-000000000009.parquet"
    with pytest.raises(DataError, match="movielog4~1"):
        checked(tmp_path, [missing], tmp_path)


def test_report_says_what_was_not_looked_at_and_why(clean):
    _, report, written = clean
    assert report.silent_lines() == [
        f"not looked at: {', '.join(columns)}: {why}"
        for columns, why in (
            (["movies.minutes_share", "users.minutes_share"], "there are 120 minutes, wanted are 10000"),
            (["movies.ratings_share", "users.ratings_share"], "there are 120 ratings, wanted are 1000"),
            (["users.requests_share"], "there are 120 requests, wanted are 1000"),
            ([f"drift.{column}" for column in DRIFT], NOTHING),
            (["rejects.share", "rejects.times"], "there are 360 lines, wanted are 1000"),
            (["volume.ratio"], "no whole hour has the same hour of a day before to be compared with"),
        )
    ]
    outcomes = Counter(check["outcome"] for check in written["checks"])
    limits = {"movies": 4, "users": 5, "drift": 5, "rejects": 2, "volume": 1}  # some figures have two
    assert outcomes["not looked at"] == sum(limits.values())
    assert outcomes["failed"] == 0
    assert written["compared_with"] == NOTHING
    assert written["figures"]["drift"]["rating_shift"] is None


def test_new_data_are_compared_with_what_the_serving_model_was_trained_on(tmp_path):
    batches_dir, old = collected(tmp_path, clean_lines())
    profile = describe(batches_dir, old)
    later = [line.replace("T11:", "T14:").replace("=4", "=1").replace("=5", "=1") for line in clean_lines()]
    with (tmp_path / "movielog.log").open("a") as log:
        log.writelines(f"{line}\n" for line in later)
    collect(FileSource(tmp_path / "movielog.log"), batches_dir)
    new = [batch.name for batch in list_batches(batches_dir) if batch.name not in old]
    everybody = Reference(
        3, profile, lambda ids: np.full(len(ids), True), lambda ids: np.full(len(ids), False)
    )
    report, written = checked(batches_dir, new, tmp_path, NOW + timedelta(hours=3), everybody)
    assert written["compared_with"] == "the data of version 3"
    told = {line.split(": ")[1] for line in report.failed_lines()}
    assert {"drift.rating_shift", "drift.new_movie_excess"} <= told
    assert "drift.new_user_excess" not in told
    # Stars 4, 3, 4, 5 have become 1, 3, 1, 1: three quarters of the ratings have moved to the 1.
    assert 0.4 < written["figures"]["drift"]["rating_shift"] < 0.75


def test_what_is_in_quarantine_is_not_looked_at(refused, tmp_path):
    folder, before, _ = refused
    assert not before.success
    batches_dir = shutil.copytree(folder / "batches", tmp_path / "batches")
    (batch,) = list_batches(batches_dir)
    out = Quarantined(batch.topic, 1, 0, len(clean_lines()), batch.last, "a stuck client", "ann", NOW)
    quarantine.add(batches_dir, out)
    report, written = checked(batches_dir, before.batches, tmp_path)
    assert report.success
    assert (written["figures"]["stream"]["lines"], written["figures"]["stream"]["reject"]) == (360, 0)


def test_only_the_named_batches_are_looked_at(tmp_path):
    batches_dir, names = collected(tmp_path, clean_lines())
    with (tmp_path / "movielog.log").open("a") as log:
        log.write("nonsense\n" * 1000)
    collect(FileSource(tmp_path / "movielog.log"), batches_dir)
    assert len(list_batches(batches_dir)) == len(names) + 1
    assert checked(batches_dir, names, tmp_path)[0].success


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
    running._asset.cache_clear()
    batches_dir, names = collected(tmp_path, clean_lines())
    capfd.readouterr()
    caplog.clear()
    assert checked(batches_dir, names, tmp_path)[0].success  # a check that raised would only have failed
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


def test_progress_counts_checks_suite_by_suite_to_the_last(tmp_path):
    batches_dir, names = collected(tmp_path, clean_lines())
    told = []
    validate(
        batches_dir,
        names,
        SUITES_DIR,
        tmp_path / "report.json",
        now=NOW,
        reference=NOTHING,
        progress=lambda *how_far: told.append(how_far),
    )
    checks = sum(len(suite.entries) for suite in SUITES.values())
    assert told[0] == (0, checks)
    assert told[-1] == (checks, checks)
    assert len(told) == 1 + len(SUITES)


# --- hours that the new ones are compared with --------------------------------------------------------


def an_hour_of(begin, lines):
    return [
        Watch(begin + timedelta(seconds=30 * n), n % 40 + 1, MOVIES[n % 5], n).line() for n in range(lines)
    ]


def test_hours_are_compared_with_those_of_batches_before_them(tmp_path):
    days = [NOW - timedelta(days=day) for day in (9, 2, 1, 0)]
    lines = [
        line
        for day, number in zip(days, (100, 100, 100, 20), strict=True)
        for hour in (-2, -1, 0)
        for line in an_hour_of(day + timedelta(hours=hour), number)
    ]
    (tmp_path / "movielog.log").write_text("".join(f"{line}\n" for line in lines))
    batches_dir = tmp_path / "batches"
    collect(FileSource(tmp_path / "movielog.log"), batches_dir, batch_lines=300)
    *_, new = [batch.name for batch in list_batches(batches_dir)]
    report, _ = checked(batches_dir, [new], tmp_path, NOW + timedelta(hours=1))
    (check,) = [check for check in report.checks if check.suite == "volume"]
    # The hour of NOW is the newest one and not over; of the two before 20 lines came, usual are 100.
    assert (check.outcome, report.rows["volume"]) == ("failed", 2)
    assert check.examples == tuple(
        f"ratio=0.2 topic=movielog kind=watch hour=2026-03-03T{hour} lines=20 usual=100" for hour in (10, 11)
    )
