"""Every check of every suite: quiet on clean data, and shown to fire on data made to break it."""

import weakref
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipelines.checks import census, drift, figures, running, volume
from pipelines.checks.figures import Figures
from pipelines.checks.profile import Profile, Reference
from pipelines.checks.running import run
from pipelines.checks.suites import KINDS, load_suites
from pipelines.data.batches import BatchInfo
from pipelines.events.grammar import Watch, parse
from pipelines.settings import PROJECT_DIR

SUITES = load_suites(PROJECT_DIR / "expectations")
NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)
BEGIN = NOW - timedelta(days=1)
MOVIES = ("fight+club+1999", "endeavour+", "girl_+interrupted+1999", "m*a*s*h+1970", "caf%C3%A9+2001")
USERS, ROWS = 600, 1_200
STARS = (4, 4, 3, 4, 5, 3, 4, 3, 5, 2)
HOURLY = {"watch": 600, "rating": 60, "request": 60}


@dataclass(frozen=True)
class World:
    """A day of data and what they are compared with."""

    watch: pd.DataFrame
    rating: pd.DataFrame
    request: pd.DataFrame
    info: BatchInfo
    before: BatchInfo
    reference: Reference

    def looked_at(self, suite):
        """What the suite is held against."""
        if suite in KINDS:
            return pa.Table.from_pandas(getattr(self, KINDS[suite]), preserve_index=False)
        hours = {"movielog": [self.info]}, {"movielog": [self.before]}
        return {
            "movies": lambda: figures.movies(self.census),
            "users": lambda: figures.users(self.census),
            "drift": lambda: drift.compare(self.census, self.reference),
            "stream": lambda: figures.stream([self.info], NOW),
            "rejects": lambda: figures.rejects([self.info], self.reference.profile),
            "volume": lambda: volume.per_hour(*hours),
        }[suite]()

    @property
    def census(self):
        tables = (
            pa.Table.from_pandas(getattr(self, kind)[list(columns)], preserve_index=False)
            for kind, columns in census.COLUMNS.items()
        )
        return census.take(*map(with_dictionary, tables))


def with_dictionary(table):
    if "movie_id" not in table.column_names:
        return table
    place = table.column_names.index("movie_id")
    return table.set_column(place, "movie_id", table["movie_id"].dictionary_encode())


def events(number):
    """``ROWS`` events of ``USERS`` users, half of them on each of two days; no (user, movie) twice."""
    n = np.arange(ROWS)
    times = pd.Timestamp(BEGIN) + pd.to_timedelta(n * 60 + number, unit="s")
    movies = np.array([*MOVIES, *(f"film+{k}+2001" for k in range(45))], dtype=object)
    return pd.DataFrame(
        {
            "time": times,
            "last_time": times,
            "user_id": n % USERS + 1,
            "movie_id": movies[(7 * n + n // USERS) % 50],
        }
    )


def hours(begin, n, each=HOURLY):
    return {(begin + timedelta(hours=k)).isoformat()[:13]: dict(each) for k in range(n)}


def batch_info(begin, n_hours, **more):
    end = begin + timedelta(hours=n_hours)
    counts = {kind: n_hours * lines for kind, lines in HOURLY.items()} | {"reject": 70}
    rejects = {"bad-time": 35, "bad-user": 35}
    return replace(
        BatchInfo(sum(counts.values()), counts, rejects, 10, "one", end, begin, end, hours(begin, n_hours)),
        **more,
    )


@pytest.fixture(scope="module")
def clean():
    world = World(
        watch=events(0).assign(minutes=10),
        rating=events(1).assign(rating=np.resize(STARS, ROWS)),
        request=events(2)[["user_id"]].assign(status=200, response_ms=40),
        info=batch_info(BEGIN, 24),
        before=batch_info(BEGIN - timedelta(hours=30), 30),
        reference=None,
    )
    profile = Profile.of(world.census, [world.before])
    known = world.census

    def among(index):
        return lambda ids: pd.Index(ids).isin(index.astype("str"))

    return replace(
        world, reference=Reference(7, profile, among(known.users.index), among(known.movies.index))
    )


def failed(suite, rows):
    """The checks of one suite that fail, as (expectation, columns, severity)."""
    return {
        (check.expectation, check.column, check.severity)
        for check in run(SUITES[suite], rows)
        if check.outcome == "failed"
    }


# --- ways to break a world ----------------------------------------------------------------------------


def put(kind, column, value, share=1 / ROWS):
    """Put ``value`` into a share of the rows of one kind, at least one."""

    def break_it(world):
        frame = getattr(world, kind)
        rows = max(1, round(share * len(frame)))
        values = pd.Series([value] * rows + frame[column].tolist()[rows:], index=frame.index)
        return replace(world, **{kind: frame.assign(**{column: values})})

    return break_it


def no_rows(kind):
    return lambda world: replace(world, **{kind: getattr(world, kind)[:0]})


def repeated(kind, share, **changes):
    """Add the first rows of one kind again, changed."""

    def break_it(world):
        frame = getattr(world, kind)
        again = frame[: round(share * len(frame))].assign(**changes)
        return replace(world, **{kind: pd.concat([frame, again], ignore_index=True)})

    return break_it


def more(kind, rows, **values):
    """Add one row again and again, with other values."""

    def break_it(world):
        frame = getattr(world, kind)
        again = frame.iloc[np.zeros(rows, dtype=int)].assign(**values)
        return replace(world, **{kind: pd.concat([frame, again], ignore_index=True)})

    return break_it


def told(**changes):
    """Let the batch say something else of itself."""
    return lambda world: replace(world, info=replace(world.info, **changes))


def rejected(reason, lines):
    counts = {"watch": 14_400, "rating": 1_440, "request": 1_440, "reject": lines}
    return told(rejects={reason: lines}, counts=counts, lines=sum(counts.values()))


def ended_before_it_began(world):
    return replace(world, watch=world.watch.assign(last_time=world.watch["time"] - pd.Timedelta(seconds=1)))


def one_hour_of(**counts):
    return lambda world: replace(
        world, info=replace(world.info, hours=world.info.hours | {"2026-03-03T02": HOURLY | counts})
    )


def movies_at_random(world):
    """What was watched by all alike is now watched by a few, and the other way round."""
    skewed = world.watch.assign(minutes=np.where(np.arange(ROWS) % 10 == 0, 91, 1))
    return replace(world, watch=skewed)


def users_renumbered(world):
    return replace(
        world,
        watch=world.watch.assign(user_id=world.watch["user_id"] + 300),
        rating=world.rating.assign(user_id=world.rating["user_id"] + 300),
    )


def movies_renamed(world):
    def renamed(frame):
        return frame.assign(movie_id=frame["movie_id"].str.replace("film+1", "movie+1"))

    return replace(world, watch=renamed(world.watch), rating=renamed(world.rating))


BETWEEN = "expect_column_values_to_be_between"
NOT_NULL = "expect_column_values_to_not_be_null"
ROW_COUNT = "expect_table_row_count_to_be_between"
REGEX = "expect_column_values_to_match_regex"
UNIQUE = "expect_compound_columns_to_be_unique"
PAIR = "expect_column_pair_values_a_to_be_greater_than_b"

# (suite, expectation, columns, severity): data made to break just that check.
BREAKS = {
    ("watches", ROW_COUNT, "", "warning"): no_rows("watch"),
    ("watches", NOT_NULL, "user_id", "critical"): put("watch", "user_id", None),
    ("watches", BETWEEN, "user_id", "critical"): put("watch", "user_id", 1_000_001),
    ("watches", NOT_NULL, "movie_id", "critical"): put("watch", "movie_id", None),
    ("watches", NOT_NULL, "time", "critical"): put("watch", "time", None),
    ("watches", BETWEEN, "minutes", "critical"): put("watch", "minutes", 10_001, share=0.02),
    ("watches", BETWEEN, "minutes", "warning"): put("watch", "minutes", 601, share=0.02),
    ("watches", PAIR, "last_time, time", "critical"): ended_before_it_began,
    ("ratings", ROW_COUNT, "", "critical"): no_rows("rating"),
    ("ratings", NOT_NULL, "user_id", "critical"): put("rating", "user_id", None),
    ("ratings", BETWEEN, "user_id", "critical"): put("rating", "user_id", 0),
    ("ratings", NOT_NULL, "movie_id", "critical"): put("rating", "movie_id", None),
    ("ratings", NOT_NULL, "time", "critical"): put("rating", "time", None),
    ("ratings", NOT_NULL, "rating", "critical"): put("rating", "rating", None),
    ("ratings", BETWEEN, "rating", "critical"): put("rating", "rating", 6),
    ("ratings", UNIQUE, "user_id, movie_id, time", "warning"): repeated("rating", 0.02),
    ("ratings", UNIQUE, "user_id, movie_id", "warning"): repeated("rating", 0.2, time=pd.Timestamp(NOW)),
    ("ratings", "expect_column_mean_to_be_between", "rating", "warning"): put(
        "rating", "rating", 1, share=0.9
    ),
    ("ratings", "expect_column_stdev_to_be_between", "rating", "warning"): put(
        "rating", "rating", 4, share=1
    ),
    ("requests", ROW_COUNT, "", "warning"): no_rows("request"),
    ("requests", BETWEEN, "user_id", "warning"): put("request", "user_id", -1),
    ("requests", NOT_NULL, "status", "warning"): put("request", "status", None),
    ("requests", "expect_column_values_to_be_in_set", "status", "warning"): put(
        "request", "status", 0, share=0.2
    ),
    ("requests", BETWEEN, "response_ms", "warning"): put("request", "response_ms", 60_001),
    ("movies", REGEX, "movie_id", "critical"): put("rating", "movie_id", "d ark+city+1998"),
    ("movies", BETWEEN, "minutes_share", "warning"): put("watch", "movie_id", "film+1+2001", share=0.3),
    ("movies", BETWEEN, "minutes_share", "critical"): put("watch", "movie_id", "film+1+2001", share=0.65),
    ("movies", BETWEEN, "ratings_share", "warning"): put("rating", "movie_id", "film+1+2001", share=0.3),
    ("movies", BETWEEN, "ratings_share", "critical"): put("rating", "movie_id", "film+1+2001", share=0.65),
    ("users", BETWEEN, "lines_a_day", "warning"): more("request", 20_000, user_id=5),
    ("users", BETWEEN, "repeats", "warning"): more("rating", 20),
    ("users", BETWEEN, "minutes_share", "warning"): put("watch", "user_id", 5, share=0.15),
    ("users", BETWEEN, "minutes_share", "critical"): put("watch", "user_id", 5, share=0.6),
    ("users", BETWEEN, "ratings_share", "warning"): put("rating", "user_id", 5, share=0.15),
    ("users", BETWEEN, "ratings_share", "critical"): put("rating", "user_id", 5, share=0.6),
    ("users", BETWEEN, "requests_share", "warning"): put("request", "user_id", 5, share=0.15),
    ("drift", BETWEEN, "rating_shift", "warning"): put("rating", "rating", 2, share=0.3),
    ("drift", BETWEEN, "rating_shift", "critical"): put("rating", "rating", 1, share=0.7),
    ("drift", BETWEEN, "popularity_shift", "warning"): movies_at_random,
    ("drift", BETWEEN, "new_user_excess", "warning"): users_renumbered,
    ("drift", BETWEEN, "new_movie_excess", "warning"): movies_renamed,
    ("stream", BETWEEN, "lines", "critical"): told(lines=0),
    ("stream", NOT_NULL, "newest_age_s", "critical"): told(last_time=None),
    ("stream", BETWEEN, "newest_age_s", "critical"): told(last_time=NOW + timedelta(days=1.01)),
    ("stream", BETWEEN, "newest_age_s", "warning"): told(last_time=NOW - timedelta(hours=6.01)),
    ("stream", BETWEEN, "reject_share", "warning"): rejected("bad-time", 400),
    ("stream", BETWEEN, "reject_share", "critical"): rejected("bad-time", 5_000),
    ("stream", BETWEEN, "rating_reject_share", "warning"): rejected("bad-rating", 100),
    ("stream", BETWEEN, "rating_reject_share", "critical"): rejected("bad-rating", 1_500),
    ("stream", BETWEEN, "duplicates_share", "warning"): told(duplicates=1_000),
    ("stream", BETWEEN, "late_share", "warning"): told(late=200),
    ("stream", BETWEEN, "latest_s", "warning"): told(latest_s=86_401.0),
    ("rejects", BETWEEN, "share", "warning"): rejected("bad-time", 100),
    ("rejects", BETWEEN, "times", "warning"): rejected("bad-movie", 40),
    ("volume", BETWEEN, "ratio", "warning"): one_hour_of(rating=14),
}
# Some faults break a neighbour, too: the warning limit below the refusing one, the mean of no rows.
ALSO = {
    ("watches", NOT_NULL, "time", "critical"): {(PAIR, "last_time, time", "critical")},
    ("watches", BETWEEN, "minutes", "critical"): {(BETWEEN, "minutes", "warning")},
    ("ratings", ROW_COUNT, "", "critical"): {
        ("expect_column_mean_to_be_between", "rating", "warning"),
        ("expect_column_stdev_to_be_between", "rating", "warning"),
    },
    ("movies", BETWEEN, "minutes_share", "critical"): {(BETWEEN, "minutes_share", "warning")},
    ("movies", BETWEEN, "ratings_share", "critical"): {(BETWEEN, "ratings_share", "warning")},
    ("users", BETWEEN, "minutes_share", "critical"): {(BETWEEN, "minutes_share", "warning")},
    ("users", BETWEEN, "ratings_share", "critical"): {(BETWEEN, "ratings_share", "warning")},
    ("users", BETWEEN, "lines_a_day", "warning"): {(BETWEEN, "requests_share", "warning")},
    ("drift", BETWEEN, "new_movie_excess", "warning"): {(BETWEEN, "popularity_shift", "warning")},
    ("drift", BETWEEN, "rating_shift", "critical"): {(BETWEEN, "rating_shift", "warning")},
    ("stream", BETWEEN, "reject_share", "critical"): {(BETWEEN, "reject_share", "warning")},
    ("stream", BETWEEN, "rating_reject_share", "critical"): {
        (BETWEEN, "rating_reject_share", "warning"),
        (BETWEEN, "reject_share", "warning"),
    },
}


@pytest.mark.parametrize("suite", SUITES)
def test_clean_data_pass_every_check_and_none_is_passed_over(suite, clean):
    assert {check.outcome for check in run(SUITES[suite], clean.looked_at(suite))} == {"passed"}


@pytest.mark.parametrize("broken", BREAKS, ids=lambda key: "-".join(filter(None, key)))
def test_check_fires_on_data_made_to_break_it_and_no_other_does(broken, clean):
    suite, *check = broken
    assert failed(suite, BREAKS[broken](clean).looked_at(suite)) == {tuple(check)} | ALSO.get(broken, set())


def test_every_check_is_shown_to_fire():
    there = [
        (suite.name, entry.type, ", ".join(entry.columns), entry.severity)
        for suite in SUITES.values()
        for entry in suite.entries
    ]
    assert sorted(there) == sorted(BREAKS)


@pytest.mark.parametrize("lines", [14, 241])
def test_hour_is_too_quiet_below_a_quarter_of_the_usual_lines_and_too_loud_above_four_times(lines, clean):
    (check,) = run(SUITES["volume"], one_hour_of(rating=lines)(clean).looked_at("volume"))
    assert check.examples == (
        f"ratio={lines / 60:.6g} topic=movielog kind=rating hour=2026-03-03T02 lines={lines} usual=60",
    )
    (check,) = run(SUITES["volume"], one_hour_of(rating=15, request=240)(clean).looked_at("volume"))
    assert check.outcome == "passed"


@pytest.mark.parametrize("movie", [*MOVIES, "dr.+strangelove+1964", "a++b+2000"])
def test_form_of_movie_ids_is_that_of_the_parser(movie, clean):
    assert isinstance(parse(f"2026-03-03T11:00,1,GET /data/m/{movie}/1.mpg".encode()), Watch)
    assert failed("movies", put("watch", "movie_id", movie)(clean).looked_at("movies")) == set()


# --- how a check is run -------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
def test_numbers_reach_great_expectations_in_64_bits(suite, clean):
    rows = clean.looked_at(suite)
    kinds = {
        str(kind)
        for entry in SUITES[suite].entries
        for kind in running._prepared(rows, tuple(entry.columns))[0].dtypes
    }
    assert kinds <= {"int64", "float64", "str", "category", "datetime64[us, UTC]"}


def test_of_rows_only_the_columns_that_a_check_looks_at_are_laid_out(clean):
    frame, _ = running._prepared(clean.looked_at("ratings"), ("rating",))
    assert list(frame) == ["rating"]
    assert len(running._prepared(clean.looked_at("ratings"), ())[0]) == ROWS


def the_failed(suite, rows):
    (check,) = [check for check in run(SUITES[suite], rows) if check.outcome == "failed"]
    return check


def test_failed_check_says_what_was_observed_wanted_and_to_be_done(clean):
    check = the_failed("ratings", put("rating", "rating", 6, share=2 / ROWS)(clean).looked_at("ratings"))
    assert check.observed == f"2 of 1200 rows ({2 / ROWS:.2%})"
    assert check.wanted == "column values to be between (min_value 1, max_value 5)"
    assert (check.unexpected, check.examples) == (2, ("6", "6"))
    assert check.line.startswith("critical: ratings.rating: 2 of 1200 rows (0.17%) (6; 6); wanted: ")
    assert check.why in check.line
    assert check.do in check.line


def test_repeats_are_shown_by_all_their_columns(clean):
    check = the_failed("ratings", repeated("rating", 0.02)(clean).looked_at("ratings"))
    assert check.unexpected == 2 * 24
    assert len(check.examples) == running.EXAMPLES
    assert "user_id=" in check.examples[0]
    assert "movie_id=" in check.examples[0]


def test_figure_of_one_row_is_told_as_it_is(clean):
    check = the_failed("stream", told(late=200)(clean).looked_at("stream"))
    lines = 24 * (600 + 60 + 60) + 70
    assert (check.observed, check.examples) == (f"{200 / lines:.6g}", ())


def test_figure_of_many_rows_is_told_with_what_it_is_of(clean):
    check = the_failed("users", put("rating", "user_id", 5, share=0.15)(clean).looked_at("users"))
    assert check.examples == (f"ratings_share={(180 + 1) / ROWS:.6g} user_id=5",)


def test_check_without_a_figure_is_neither_passed_nor_failed_and_says_why(clean):
    found = run(SUITES["drift"], drift.compare(clean.census, "nothing serves"))
    assert {(check.outcome, check.observed) for check in found} == {("not looked at", "nothing serves")}
    assert {check.outcome for check in run(SUITES["volume"], volume.per_hour({}, {}))} == {"not looked at"}


def test_one_figure_that_is_missing_leaves_the_others_looked_at(clean):
    rows = replace(clean, request=clean.request[:999]).looked_at("users")
    (check,) = [check for check in run(SUITES["users"], rows) if check.outcome == "not looked at"]
    assert (check.where, check.observed) == (
        "users.requests_share",
        "there are 999 requests, wanted are 1000",
    )


def test_missing_value_that_must_be_there_fails():
    rows = Figures(pd.DataFrame({"newest_age_s": [np.nan]}))
    found = {
        check.expectation: check.outcome
        for check in run(SUITES["stream"], rows)
        if check.column == "newest_age_s"
    }
    assert found == {NOT_NULL: "failed", BETWEEN: "not looked at"}


def test_check_that_could_not_run_has_failed_with_its_text(clean):
    rows = clean.looked_at("ratings").drop_columns("rating")
    assert {column for _, column, _ in failed("ratings", rows)} == {"rating"}
    check, *_ = [check for check in run(SUITES["ratings"], rows) if check.outcome == "failed"]
    assert check.observed.startswith("the check could not run: ")
    assert "rating" in check.observed


def test_of_all_frames_that_were_checked_only_the_last_is_kept():
    suite = SUITES["ratings"]
    (number, *_) = [n for n, entry in enumerate(suite.entries) if list(entry.columns) == ["rating"]]
    checked = []
    for stars in (1, 2, 3):
        frame = pd.DataFrame({"rating": [stars]})
        checked.append(weakref.ref(frame))
        assert running._results(suite, [number], frame, ())[number]["success"]
        del frame
    assert [kept() is not None for kept in checked] == [False, False, True]


@pytest.mark.parametrize("suite", ["ratings", "stream"])
def test_suite_that_breaks_down_as_a_whole_has_failed(suite, clean, monkeypatch):
    def breaks_down(**_):
        raise RuntimeError("out of order")

    running._asset.cache_clear()
    monkeypatch.setattr(running.gx, "get_context", breaks_down)
    found = run(SUITES[suite], clean.looked_at(suite))
    assert len(found) == len(SUITES[suite].entries)
    assert {(check.outcome, check.observed) for check in found} == {
        ("failed", "the check could not run: RuntimeError: out of order")
    }


def test_result_that_is_missing_has_failed(clean, monkeypatch):
    monkeypatch.setattr(running, "_results", lambda *_: {})
    assert {check.outcome for check in run(SUITES["ratings"], clean.looked_at("ratings"))} == {"failed"}
