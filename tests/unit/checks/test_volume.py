from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pipelines.checks.volume import per_hour
from pipelines.data.batches import BatchInfo

NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)
EMPTY = BatchInfo(0, {}, {}, 0, "one", NOON, None, None)


def lines_of(begin, *lines, kind="watch"):
    """A batch with so many lines in each hour from ``begin`` on."""
    counted = {
        (begin + timedelta(hours=n)).isoformat()[:13]: {kind: each} for n, each in enumerate(lines) if each
    }
    end = begin + timedelta(hours=len(lines) - 1, minutes=59)
    return replace(EMPTY, lines=sum(lines), hours=counted, first_time=begin, last_time=end)


def ratios(new, *before):
    found = per_hour({"movielog": new}, {"movielog": before})
    return {(row["kind"], row["hour"][-5:]): row["ratio"] for row in found.frame.to_dict("records")}


def ago(days, hours=0):
    return NOON - timedelta(days=days, hours=hours)


def test_hour_is_compared_with_the_same_hour_of_the_day_before():
    assert ratios([lines_of(NOON, 80, 150, 10)], lines_of(ago(1, 1), 999, 100, 300, 100)) == {
        ("watch", "03T12"): 80 / 100,
        ("watch", "03T13"): 150 / 300,
    }


def test_usual_is_the_median_of_seven_days():
    week = [
        lines_of(ago(day, 1), 999, lines, 999) for day, lines in enumerate((100, 200, 300, 400, 0, 0, 900), 1)
    ]
    eighth = lines_of(ago(8, 2), 999, 10**6, 10**6, 10**6)
    assert ratios([lines_of(NOON, 100, 1)], *week, eighth)["watch", "03T12"] == 100 / 200


def test_first_and_last_hour_of_a_topic_are_only_begun():
    day_before = lines_of(ago(1), 100, 100, 100)
    assert ratios([lines_of(NOON, 5, 5, 5)], day_before) == {("watch", "03T13"): 5 / 100}
    assert ratios([lines_of(NOON, 5)], day_before) == {}


def test_hour_that_two_captures_share_adds_up():
    before, now = lines_of(ago(1, 1), *[100] * 25, 40), lines_of(NOON, 60, 1)
    assert (before.last_time.hour, now.first_time.hour) == (12, 12)
    assert ratios([now], before) == {("watch", "03T12"): (40 + 60) / 100}


def test_hour_without_any_line_is_looked_at():
    assert ratios([lines_of(NOON, 100, 0, 0, 100, 1)], lines_of(ago(1, 1), *[100] * 7)) == {
        ("watch", "03T12"): 1,
        ("watch", "03T13"): 0,
        ("watch", "03T14"): 0,
        ("watch", "03T15"): 1,
    }


def test_kinds_are_compared_each_by_itself():
    new = [lines_of(NOON, 100, 1), lines_of(NOON, 20, 1, kind="rating")]
    before = [lines_of(ago(1, 1), 9, 100, 9), lines_of(ago(1, 1), 9, 80, 9, kind="rating")]
    assert ratios(new, *before) == {("watch", "03T12"): 1, ("rating", "03T12"): 20 / 80}


def test_partitions_and_generations_add_up():
    assert ratios([lines_of(NOON, 30, 1), lines_of(NOON, 30, 1)], *[lines_of(ago(1, 1), 9, 60, 9)] * 2) == {
        ("watch", "03T12"): 60 / 120
    }


def test_new_batches_of_two_days_are_compared_with_each_other():
    assert ratios([lines_of(ago(1, 1), 9, 100, 9), lines_of(NOON, 50, 1)]) == {("watch", "03T12"): 50 / 100}


def test_few_usual_lines_are_not_compared():
    assert ratios([lines_of(NOON, 1, 1)], lines_of(ago(1, 1), 9, 49, 9)) == {}
    assert ratios([lines_of(NOON, 1, 1)], lines_of(ago(1, 1), 9, 50, 9)) == {("watch", "03T12"): 1 / 50}


def test_other_topic_is_no_reference():
    found = per_hour({"movielog": [lines_of(NOON, 1, 1)]}, {"archive": [lines_of(ago(1, 1), 9, 100, 9)]})
    assert (len(found.frame), "no whole hour" in found.unknown[""]) == (0, True)


def test_hours_of_batches_that_do_not_count_them_are_neither_looked_at_nor_a_reference():
    new, before = lines_of(NOON, 5, 100, 1), lines_of(ago(1, 1), 9, 100, 100, 9)
    uncounted = replace(EMPTY, lines=95, first_time=NOON, last_time=NOON + timedelta(minutes=50))
    assert ratios([new, uncounted], before) == {("watch", "03T13"): 1}
    long_ago = replace(uncounted, first_time=ago(1), last_time=ago(1))
    assert ratios([new], before, long_ago) == {("watch", "03T13"): 1}


def test_nothing_readable_has_no_hours():
    assert ratios([EMPTY], lines_of(ago(1), 100, 100)) == {}
