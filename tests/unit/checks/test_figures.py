from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from pipelines.checks import figures

NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)


def only(rows):
    (row,) = rows.frame.to_dict("records")
    return row


# --- stream -------------------------------------------------------------------------------------------


def test_stream_adds_up_what_the_batches_say(no_lines):
    one = replace(
        no_lines,
        lines=5,
        counts={"watch": 0, "rating": 3, "request": 0, "reject": 2},
        rejects={"bad-rating": 1, "empty": 1},
        duplicates=1,
        last_time=NOON - timedelta(hours=1),
        late=1,
        latest_s=70.0,
    )
    other = replace(
        no_lines, lines=3, counts={"watch": 3, "rating": 0, "request": 0, "reject": 0}, latest_s=20.0
    )
    assert only(figures.stream([one, other], NOON)) == {
        **{"lines": 8, "watch": 3, "rating": 3, "request": 0, "reject": 2, "duplicates": 1},
        "reject_share": 2 / 8,
        "rating_reject_share": 1 / (3 + 1),
        "duplicates_share": 1 / 8,
        "newest_age_s": 3_600,
        "late_share": 1 / 8,
        "latest_s": 70,
    }


def test_shares_of_nothing_and_the_age_of_nothing_are_not_known(no_lines):
    row = only(figures.stream([no_lines], NOON))
    assert {name for name, value in row.items() if np.isnan(value)} == {
        *("reject_share", "rating_reject_share", "duplicates_share", "late_share", "newest_age_s")
    }


# --- rejects ------------------------------------------------------------------------------------------


@pytest.fixture
def rejected(no_lines):
    """What a batch of so many lines says, some of them rejects."""

    def batch(lines, **rejects):
        named = {reason.replace("_", "-"): count for reason, count in rejects.items()}
        return replace(no_lines, lines=lines, rejects=named)

    return batch


def test_rejects_are_counted_by_reason_and_compared_with_their_share_before(rejected, profile):
    found = figures.rejects([rejected(6_000, bad_time=40), rejected(4_000, bad_time=10, empty=29)], profile)
    assert found.frame["reason"].tolist() == ["bad-time", "empty"]
    assert found.frame["share"].tolist() == [50 / 10_000, 29 / 10_000]
    # Before, 99 and a half of 100,000; of empty lines there are too few to compare.
    assert found.frame["times"].tolist() == pytest.approx(
        [(50 / 10_000) / (99.5 / 100_000), np.nan], nan_ok=True
    )


def test_reason_that_is_new_has_half_a_line_before(rejected, profile):
    found = figures.rejects([rejected(10_000, empty=30)], profile)
    assert found.frame["times"].tolist() == pytest.approx([(30 / 10_000) / (0.5 / 100_000)])


def test_rejects_of_few_lines_say_nothing(rejected, profile):
    found = figures.rejects([rejected(999, empty=900)], profile)
    assert (len(found.frame), found.unknown) == (0, {"": "there are 999 lines, wanted are 1000"})


def test_rejects_without_a_model_are_not_compared(rejected):
    found = figures.rejects([rejected(1_000, empty=900)], "nothing serves")
    assert found.frame["times"].isna().all()
    assert found.unknown["times"] == "nothing serves"


# --- movies and users ---------------------------------------------------------------------------------


def test_movies_have_shares_of_minutes_and_ratings(make_census):
    found = figures.movies(make_census(movies=[("a", 7_500, 9, 900), ("b", 2_500, 9, 100)]))
    assert found.frame.to_dict("list") == {
        "movie_id": ["a", "b"],
        "minutes_share": [0.75, 0.25],
        "ratings_share": [0.9, 0.1],
    }


def test_shares_of_little_are_not_known(make_census):
    found = figures.movies(make_census(movies=[("a", 9_999, 9, 1_000)]))
    assert found.frame["minutes_share"].isna().all()
    assert found.frame["ratings_share"].tolist() == [1]
    assert found.unknown["minutes_share"] == "there are 9999 minutes, wanted are 10000"


def test_users_have_shares_and_lines_a_day(make_census):
    found = figures.users(make_census(users=[(5, 9_000, 600, 10, 2, 3), (9, 1_000, 400, 990, 1, 1)], days=2))
    assert found.frame.to_dict("list") == {
        "user_id": [5, 9],
        "minutes_share": [0.9, 0.1],
        "ratings_share": [0.6, 0.4],
        "requests_share": [0.01, 0.99],
        "lines_a_day": [(9_000 + 600 + 10) / 2, (1_000 + 400 + 990) / 2],
        "repeats": [3, 1],
    }
