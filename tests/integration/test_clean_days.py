"""Clean days, made by the audience: nobody is woken for them, and for a day on which dice are rolled, yes."""

from datetime import UTC, datetime

from pipelines.local.audience import tastes
from pipelines.local.audience.viewers import Taste
from tests.days import Days

DAYS = 8
"""As many as fit into some twenty seconds; `make bench ONLY=clean_days` has fifty."""


def test_clean_days_raise_no_alarm_and_a_day_of_dice_does(tmp_path):
    days = Days(tmp_path, tastes.load(), datetime(2026, 1, 5, tzinfo=UTC), lines_a_day=200_000)
    reports = [days.checked(days.pass_one()) for _ in range(DAYS)]
    assert [report.failed_lines() for report in reports] == [[]] * DAYS
    # The first day has nothing before it; from the second on, drift and volume are looked at.
    compared = [{check.suite for check in report.checks if check.outcome == "passed"} for report in reports]
    assert [{"drift", "volume"} & suites for suites in compared] == [set()] + [{"drift", "volume"}] * (
        DAYS - 1
    )

    days.audience.taste = Taste.RANDOM
    told = {line.split(": ")[1] for line in days.checked(days.pass_one()).failed_lines()}
    assert "drift.rating_shift" in told
