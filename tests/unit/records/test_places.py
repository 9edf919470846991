from datetime import date, datetime, timedelta

import pytest

from pipelines.records import days, places
from pipelines.records.archive import archive
from pipelines.records.places import Places, Span
from pipelines.records.recorder import ship_once
from tests.receipts import row

DAY = Span.of_day(date(2026, 3, 2))


def anything(_):
    return True


def kept_in(kept):
    return [one.kept_in for one in kept.receipts().find("a")]


def test_span_of_a_day_ends_before_the_next_begins():
    assert datetime(2026, 3, 2) in DAY
    assert datetime(2026, 3, 2, 23, 59, 59, 999_999) in DAY
    assert datetime(2026, 3, 3) not in DAY


def test_days_of_the_archive_are_those_that_touch_the_span(kept):
    for offset in range(3):
        kept.archive(row(str(offset), served_at=DAY.since + timedelta(days=offset)))
    archived = Places(kept.engine, kept.archive_dir, kept.spool_dir)
    assert archived.days() == [date(2026, 3, 2), date(2026, 3, 3), date(2026, 3, 4)]
    assert archived.days(Span(DAY.since + timedelta(hours=23), DAY.until)) == [
        date(2026, 3, 2),
        date(2026, 3, 3),
    ]


def test_shipped_part_of_a_live_file_is_left_to_the_database(kept):
    kept.spool(row("a"))
    with kept.written():
        ship_once(kept.engine, kept.spool_dir)
    kept.spool(row("b"))
    assert Places(kept.engine, kept.archive_dir, kept.spool_dir).spooled(anything) == [row("b")]


def test_receipt_that_is_shipped_between_two_looks_is_found(kept, monkeypatch):
    """The recorder empties the spool right after it was looked at."""

    def unshipped_then_shipped(*arguments, really=places.unshipped, **options):
        seen = list(really(*arguments, **options))
        ship_once(kept.engine, kept.spool_dir)
        return seen

    monkeypatch.setattr(places, "unshipped", unshipped_then_shipped)
    kept.spool(row("a"))
    assert kept_in(kept) == ["database"]
    kept.spool(row("b"))
    assert kept.receipts().of_version(3).answers == 2


def test_receipt_that_is_archived_between_two_looks_is_found(kept, monkeypatch):
    """The archiver empties the database right after it was looked at."""

    def listed_after_archiving(folder, *, really=days.days):
        archive(kept.engine, kept.archive_dir, before=DAY.until)
        return really(folder)

    kept.store(row("a"))
    monkeypatch.setattr(days, "days", listed_after_archiving)
    assert kept_in(kept) == ["database"]
    assert kept_in(kept) == ["archive"]


@pytest.mark.parametrize("left", ["a", "b"])
def test_what_a_killed_archiver_left_in_the_database_counts_once(kept, left):
    kept.archive(row("a"), row("b", user_id="7"))
    kept.store(row(left))
    (share,) = kept.receipts().versions_between(DAY.since, DAY.until)
    assert share.answers == 2
    assert kept.receipts().of_version(3).by_source == {"personal": 2}


def test_backlog_is_not_asked_about_while_the_database_is_away(kept, away, monkeypatch, caplog):
    monkeypatch.setattr(places, "_PORTION", 1)
    kept.spool(*(row(name) for name in "abcde"))
    away()
    assert kept.receipts().of_version(3).answers == 5
    assert len(caplog.records) == 3, "sources and days, users, the oldest"
