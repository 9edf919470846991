from datetime import date, datetime

import pyarrow as pa

from pipelines.records.days import SCHEMA
from pipelines.records.tallies import Tally, counted, single, tallied
from tests.receipts import row

EARLY, LATE = datetime(2026, 3, 2, 1), datetime(2026, 3, 2, 2)


def group(answers, first=EARLY, last=LATE, **more):
    return {"answers": answers, "first": first, "last": last, **more}


def test_counts_of_several_places_add_up():
    tally = Tally()
    tally.add(group(2, first=LATE, source="personal", day=date(2026, 3, 2)))
    tally.add(group(3, last=EARLY, source="personal", day="2026-03-02", user_id="7"))
    tally.add(single(row("a", user_id="7", source="popular", served_at="2026-03-03T01:00:00+00:00")))
    assert (tally.answers, tally.first, tally.last) == (2 + 3 + 1, EARLY, datetime(2026, 3, 3, 1))
    assert tally.users == {"7"}
    assert tally.by_source == {"personal": 2 + 3, "popular": 1}
    assert tally.by_day == {date(2026, 3, 2): 2 + 3, date(2026, 3, 3): 1}


def test_file_is_counted_by_group():
    rows = [
        row("a", user_id="1", served_at="2026-03-02T02:00:00+00:00"),
        row("b", user_id="1", served_at="2026-03-02T01:00:00+00:00"),
        row("c", user_id="2", served_at="2026-03-02T01:00:00+00:00", canary_percent=None),
    ]
    found = counted(pa.Table.from_pylist(rows, SCHEMA), ["user_id", "canary_percent"])
    assert sorted(found, key=lambda each: each["user_id"]) == [
        group(2, user_id="1", canary_percent=20),
        group(1, last=EARLY, user_id="2", canary_percent=None),
    ]


def test_groups_are_added_up_by_the_columns_asked_for():
    groups = [
        group(1, arm="stable", user_id="1"),
        group(2, arm="stable", user_id="2"),
        group(4, arm="canary"),
    ]
    tallies = tallied(groups, ["arm"])
    assert {arm: tally.answers for (arm,), tally in tallies.items()} == {"stable": 1 + 2, "canary": 4}
