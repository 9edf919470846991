import json
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import insert

from pipelines.records.lookup import Lost, Reach, Receipt, VersionShare, VersionUse
from pipelines.records.recorder import ship_once
from pipelines.records.tables import lost_receipts
from tests.receipts import receipt, row

FIRST = datetime(2026, 3, 1, tzinfo=UTC)
SECOND, THIRD = FIRST + timedelta(days=1), FIRST + timedelta(days=2)
HOUR = timedelta(hours=1)


def served(request_id, moment, **changes):
    return row(request_id, served_at=moment.isoformat(), **changes)


def found(receipts):
    return [(each.request_id, each.kept_in) for each in receipts]


def test_receipt_of_the_database_says_everything(kept):
    kept.store(row("a", canary_percent=None))
    assert kept.receipts().find("a") == [
        Receipt(
            request_id="a",
            version_number=3,
            user_id="596363",
            served_at=datetime(2026, 3, 2, 10, 0, 0, 250_000, UTC),
            arm="stable",
            replica="stable-1",
            source="personal",
            movie_ids=("fight+club+1999", "inception+2010"),
            watched=("endeavour+", "brazil+1985"),
            latency_ms=1.5,
            status=200,
            canary_percent=None,
            kept_in="database",
        )
    ]


def test_receipt_is_the_same_wherever_it_is_kept(kept):
    kept.archive(row("a"))
    kept.store(row("b"))
    kept.spool(row("c"))
    for name, place in (("a", "archive"), ("b", "database"), ("c", "spool")):
        (one,) = kept.receipts().find(name)
        assert one.kept_in == place
        assert json.loads(json.dumps(one.as_json())) == receipt(name) | {
            "movie_ids": ["fight+club+1999", "inception+2010"],
            "watched": ["endeavour+", "brazil+1985"],
            "kept_in": place,
        }


def test_answer_without_movies_has_none(kept):
    kept.store(row("a", movie_ids="", watched="", status=503))
    (one,) = kept.receipts().find("a")
    assert one.movie_ids == one.watched == ()


def test_attempts_come_oldest_first_from_all_places(kept):
    kept.spool(served("a", THIRD, replica="stable-1"))
    kept.archive(served("a", FIRST, replica="canary"))
    kept.store(served("a", SECOND, replica="stable-2"), row("b"))
    places = [(one.replica, one.kept_in) for one in kept.receipts().find("a")]
    assert places == [("canary", "archive"), ("stable-2", "database"), ("stable-1", "spool")]


def test_receipt_that_is_met_in_several_places_counts_once(kept):
    kept.archive(row("a"))
    kept.store(row("a"))
    kept.spool(row("a"))
    assert found(kept.receipts().find("a")) == [("a", "database")]
    assert kept.receipts().of_version(3).answers == 1
    assert [share.answers for share in kept.receipts().versions_between(FIRST, THIRD)] == [1]


def test_unknown_request_has_no_receipt(kept):
    kept.store(row("a"))
    assert kept.receipts().find("A") == kept.receipts().find("") == []


def test_id_is_found_whatever_it_is_made_of(kept):
    kept.spool(row('"\\é'))
    assert found(kept.receipts().find('"\\é')) == [('"\\é', "spool")]


def test_id_that_stands_in_another_receipt_is_looked_for_elsewhere(kept):
    kept.archive(served("needle", FIRST - timedelta(days=9)))
    kept.spool(served("a", FIRST, user_id="needle"))
    assert found(kept.receipts().find("needle")) == [("needle", "archive")]
    assert kept.receipts().find("596363") == []


def test_a_request_that_was_found_is_looked_for_on_the_days_around_only(kept):
    kept.archive(served("a", FIRST - timedelta(days=9)))
    kept.store(served("a", FIRST))
    assert found(kept.receipts().find("a")) == [("a", "database")]


def test_database_that_is_away_is_a_warning_and_the_rest_is_found(kept, away, caplog):
    kept.archive(row("a"))
    kept.spool(row("b"))
    with kept.written():
        ship_once(kept.engine, kept.spool_dir)
    kept.spool(row("c"))
    away()
    receipts = kept.receipts()
    assert [found(receipts.find(name)) for name in "abc"] == [
        [("a", "archive")],
        [("b", "spool")],
        [("c", "spool")],
    ]
    assert "were not looked at: unable to open database file" in caplog.text
    assert receipts.of_version(3).answers == 3
    assert receipts.lost_between(FIRST, THIRD) == []


# --- users, versions, times ---------------------------------------------------------------------------


def test_receipts_of_a_user_come_newest_first_from_all_places(kept):
    kept.archive(*(served(f"a{hour}", FIRST + hour * HOUR) for hour in range(3)))
    kept.store(*(served(f"b{hour}", SECOND + hour * HOUR) for hour in range(3)), row("x", user_id="7"))
    kept.spool(*(served(f"c{hour}", THIRD + hour * HOUR) for hour in range(3)))
    spanned = kept.receipts().of_user("596363", since=FIRST + HOUR, until=THIRD + 2 * HOUR, limit=100)
    assert [each.request_id for each in spanned] == ["c1", "c0", "b2", "b1", "b0", "a2", "a1"]
    newest = kept.receipts().of_user("596363", since=FIRST, until=THIRD + HOUR, limit=5)
    assert [each.request_id for each in newest] == ["c0", "b2", "b1", "b0", "a2"]


def test_overlong_user_id_is_looked_for_as_it_was_cut(kept):
    kept.store(row("a", user_id="9" * 255))
    assert found(kept.receipts().of_user("9" * 300, since=FIRST, until=THIRD, limit=1)) == [("a", "database")]


def test_shares_add_up_over_all_places(kept):
    """A user whom several places know is one user."""
    kept.archive(served("a", FIRST, user_id="1"), served("b", FIRST + HOUR, user_id="2"))
    kept.store(
        served("c", SECOND, user_id="1"), served("d", SECOND, user_id="3", version_number=4, arm="canary")
    )
    kept.spool(served("e", THIRD, user_id="1"), served("f", THIRD + HOUR, user_id="1", canary_percent=None))
    assert kept.receipts().versions_between(FIRST, THIRD + 2 * HOUR) == [
        VersionShare(3, "stable", 20, answers=4, users=2, first=FIRST, last=THIRD),
        VersionShare(3, "stable", None, answers=1, users=1, first=THIRD + HOUR, last=THIRD + HOUR),
        VersionShare(4, "canary", 20, answers=1, users=1, first=SECOND, last=SECOND),
    ]


def test_span_begins_with_its_first_moment_and_ends_before_its_last(kept):
    for put, hour in ((kept.archive, 0), (kept.store, 24), (kept.spool, 48)):
        put(*(served(f"{hour}-{more}", FIRST + (hour + more) * HOUR) for more in range(3)))
        (share,) = kept.receipts().versions_between(FIRST + hour * HOUR, FIRST + (hour + 2) * HOUR)
        assert share.answers == 2
        assert share.last == FIRST + (hour + 1) * HOUR


def test_span_may_be_told_in_any_zone_or_none(kept):
    kept.store(row("a"))
    moment = datetime.fromisoformat("2026-03-02T11:00:00.250000+01:00")
    assert kept.receipts().versions_between(moment, moment + HOUR)
    naive = datetime(2026, 3, 2, 10)
    assert kept.receipts().versions_between(naive, naive + HOUR)


def test_use_of_a_version_adds_up_over_all_places(kept):
    kept.archive(served("a", FIRST, user_id="1"), served("b", FIRST + HOUR, user_id="2", source="popular"))
    kept.store(served("c", SECOND, user_id="1"), served("x", SECOND, version_number=4))
    kept.spool(served("d", SECOND + HOUR, user_id="3", source="trending"))
    assert kept.receipts().of_version(3) == VersionUse(
        3,
        answers=4,
        users=3,
        first=FIRST,
        last=SECOND + HOUR,
        by_day=[(date(2026, 3, 1), 2), (date(2026, 3, 2), 1 + 1)],
        by_source={"personal": 2, "popular": 1, "trending": 1},
    )


def test_version_that_never_answered_has_no_times(kept):
    use = kept.receipts().of_version(9)
    assert use == VersionUse(9, answers=0, users=0, first=None, last=None, by_day=[], by_source={})


def test_losses_that_touch_the_span_are_told(kept):
    losses = [
        {
            "replica": "stable-1",
            "since": FIRST.replace(tzinfo=None),
            "until": SECOND.replace(tzinfo=None),
            "count": 7,
        },
        {
            "replica": "canary",
            "since": THIRD.replace(tzinfo=None),
            "until": THIRD.replace(tzinfo=None),
            "count": 1,
        },
    ]
    with kept.engine.begin() as connection:
        connection.execute(insert(lost_receipts), losses)
    first, second = Lost("stable-1", FIRST, SECOND, 7), Lost("canary", THIRD, THIRD, 1)
    assert kept.receipts().lost_between(FIRST + HOUR, FIRST + 2 * HOUR) == [first]
    assert kept.receipts().lost_between(SECOND, THIRD) == [first]
    assert kept.receipts().lost_between(SECOND, THIRD + HOUR) == [first, second]
    assert kept.receipts().lost_between(SECOND + HOUR, THIRD) == []


def test_reach_of_versions_counts_a_user_once_over_all_places(kept):
    kept.archive(served("a", FIRST, user_id="1"), served("b", FIRST + HOUR, user_id="2", version_number=4))
    kept.store(served("c", SECOND, user_id="2"), served("d", SECOND + HOUR, user_id="2"))
    kept.store(served("e", SECOND, user_id="9", version_number=5))
    kept.spool(served("f", THIRD, user_id="3", version_number=4))
    together, each = kept.receipts().reach([3, 4, 6])
    assert together == Reach(5, 3, FIRST, THIRD)
    assert each == {3: Reach(3, 2, FIRST, SECOND + HOUR), 4: Reach(2, 2, FIRST + HOUR, THIRD)}


def test_receipt_that_is_met_in_several_places_reaches_nobody_twice(kept):
    kept.archive(served("a", FIRST))
    kept.store(served("a", FIRST))
    kept.spool(served("a", FIRST))
    together, _ = kept.receipts().reach([3])
    assert (together.answers, together.users) == (1, 1)


def test_versions_that_never_answered_reach_nobody(kept):
    assert kept.receipts().reach([3]) == (Reach(0, 0, None, None), {})
    assert kept.receipts().reach([]) == (Reach(0, 0, None, None), {})


def test_what_the_archive_knows_of_a_reach_is_told_while_the_database_is_away(kept, away, caplog):
    kept.archive(served("a", FIRST))
    away()
    together, _ = kept.receipts().reach([3])
    assert (together.answers, together.users) == (1, 1)
    assert "were not looked at" in caplog.text
