import json
import shutil
from pathlib import Path

import pytest

from pipelines.checks.suites import FIGURES, KINDS, load_suites
from pipelines.errors import DataError

SUITES_DIR = Path(__file__).resolve().parents[3] / "expectations"
HEAD = "| Column | Expectation | Severity | Why it exists | What to do when it fails |"
META = {"why": "Because.", "do": "Look."}
GOOD = {
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "rating", "min_value": 1},
    "severity": "critical",
    "meta": META,
}


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(SUITES_DIR, tmp_path / "expectations")


def documented(suite):
    """The table that the README has to show of a suite."""
    rows = [HEAD, "|---|---|---|---|---|"]
    for entry in suite.entries:
        column = ", ".join(f"`{name}`" for name in entry.columns) or "(table)"
        wanted = f"`{entry.wanted}`".replace("|", r"\|")
        rows.append(f"| {column} | {wanted} | {entry.severity} | {entry.meta.why} | {entry.meta.do} |")
    return "\n".join(rows)


@pytest.mark.parametrize("suite", load_suites(SUITES_DIR).values(), ids=lambda suite: suite.name)
def test_readme_explains_every_check(suite):
    readme = (SUITES_DIR / "README.md").read_text()
    table = documented(suite)
    assert table in readme, f"expectations/README.md has to show under {suite.name}:\n{table}"


def test_readme_explains_no_check_that_is_gone():
    rows = [line for line in (SUITES_DIR / "README.md").read_text().splitlines() if line.startswith("| ")]
    shown = [row for row in rows if row.endswith(" |") and ("critical" in row or "warning" in row)]
    assert len(shown) == sum(len(suite.entries) for suite in load_suites(SUITES_DIR).values())


def test_ratings_must_be_there_at_all():
    entries = load_suites(SUITES_DIR)["ratings"].entries
    (count,) = [entry for entry in entries if entry.type == "expect_table_row_count_to_be_between"]
    assert (count.severity, count.kwargs) == ("critical", {"min_value": 1})


def test_suite_that_is_missing_is_named(folder):
    (folder / "ratings.json").unlink()
    with pytest.raises(DataError, match=r"wanted are \['drift', 'movies', 'ratings', 'rejects'"):
        load_suites(folder)


def test_suite_that_nothing_would_run_is_refused(folder):
    shutil.copy(folder / "ratings.json", folder / "reviews.json")
    with pytest.raises(DataError, match="reviews"):
        load_suites(folder)


def test_suites_are_those_of_the_rows_and_of_the_figures():
    assert list(load_suites(SUITES_DIR)) == [*KINDS, *FIGURES]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{not json",
        "[]",
        "{}",
        '{"expectations": []}',
        json.dumps({"expectations": [GOOD], "more": 1}),
    ],
)
def test_file_that_is_no_suite_is_named(folder, text):
    (folder / "ratings.json").write_text(text)
    with pytest.raises(DataError, match=r"ratings\.json is malformed"):
        load_suites(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "expect_miracles"},
        {"kwargs": {"column": "rating"}},
        {"kwargs": {"column": "rating", "min_value": 1, "minimum": 1}},
        {"severity": "info"},
        {"meta": {"why": "Because."}},
        {"meta": META | {"do": ""}},
        {"seriousness": "high"},
    ],
)
def test_expectation_that_is_malformed_is_named(folder, changes):
    (folder / "ratings.json").write_text(json.dumps({"expectations": [GOOD, GOOD | changes]}))
    with pytest.raises(
        DataError, match=r"(?s)expectations\[1\].*ratings\.json|ratings\.json.*expectations\.1"
    ) as refusal:
        load_suites(folder)
    assert "README.md" in str(refusal.value)
