from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from pipelines.audit.upkeep import (
    COUNTED_OVER,
    LONGEST_WAIT,
    Seen,
    Told,
    archive_receipts,
    decide,
    look,
    oldest_waiting,
    thin_looks,
    watch_receipts,
)
from pipelines.records.lookup import Lost
from pipelines.release.prometheus import Prometheus
from pipelines.settings import read

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
TEN_MINUTES = timedelta(minutes=10)
QUIET = Seen(now=NOON, oldest_waiting=None, database_trouble="", losses=(), lost_of_late=0.0)


def lost(minute, *, replica="canary", count=7):
    since = NOON + timedelta(minutes=minute)
    return Lost(replica, since, since + timedelta(minutes=1), count)


def titles(looks):
    """Decide one look after the other, ten minutes apart; return the titles of what each tells."""
    told, news = Told(), []
    for number, seen in enumerate(looks):
        alerts, told = decide(told, replace(seen, now=NOON + number * TEN_MINUTES), where="var/spool")
        told = Told.of_json(told.as_json())
        news.append([alert.title.removeprefix("Marquee: ") for alert in alerts])
    return news


def test_nothing_is_told_when_all_is_well():
    assert titles([QUIET, QUIET]) == [[], []]


def test_a_loss_is_told_once():
    seen = replace(QUIET, losses=(lost(-5),))
    assert titles([seen, seen, seen]) == [["7 receipt(s) lost"], [], []]


def test_losses_that_are_new_together_are_one_alert_and_a_later_one_is_another():
    first = replace(QUIET, losses=(lost(-5), lost(-5, replica="stable-1", count=1_000)))
    second = replace(first, losses=(*first.losses, lost(3)))
    assert titles([first, second]) == [["1,007 receipt(s) lost"], ["7 receipt(s) lost"]]


def test_a_loss_that_the_counter_told_is_not_told_again_when_it_is_on_record():
    counted = replace(QUIET, lost_of_late=41.7)
    on_record = replace(counted, losses=(lost(-5), lost(-4, replica="stable-1")))
    assert titles([counted, counted, on_record, QUIET]) == [["42 receipt(s) lost"], [], [], []]


def test_a_loss_that_began_after_the_counter_had_told_is_news():
    counted = replace(QUIET, lost_of_late=41.7)
    assert titles([counted, replace(counted, losses=(lost(5),))]) == [
        ["42 receipt(s) lost"],
        ["7 receipt(s) lost"],
    ]


def test_when_the_counter_has_rested_the_next_loss_is_news():
    counted = replace(QUIET, lost_of_late=5.0)
    assert titles([counted, QUIET, counted]) == [["5 receipt(s) lost"], [], ["5 receipt(s) lost"]]


def test_receipts_that_wait_too_long_are_told_once_until_they_have_moved():
    waiting = replace(QUIET, oldest_waiting=NOON)
    news = "receipts wait for the database"
    assert titles([waiting, waiting, waiting, waiting, QUIET, QUIET, waiting]) == [
        [],
        [],
        [news],
        [],
        [],
        [],
        [news],
    ]


def test_a_database_that_is_away_is_told_when_it_has_been_so_too_long():
    away = replace(QUIET, database_trouble="connection refused")
    assert titles([away, away, away, QUIET, away]) == [[], [], ["receipts wait for the database"], [], []]


def test_what_was_told_stays_told_while_the_database_is_away():
    seen = replace(QUIET, losses=(lost(-5),))
    away = replace(QUIET, database_trouble="connection refused")
    assert titles([seen, away, seen]) == [["7 receipt(s) lost"], [], []]


def test_the_alert_says_how_long_and_what_the_database_says():
    away = replace(QUIET, database_trouble="connection refused", now=NOON + 2 * LONGEST_WAIT)
    (alert,), _ = decide(Told(away_since=NOON), away, where="var/spool")
    assert "after 2026-11-22 12:00 UTC is in the database, 30 minutes ago" in alert.body
    assert "does not answer: connection refused." in alert.body
    assert "var/spool" in alert.body


def test_the_oldest_receipt_that_waits_is_the_first_line_past_what_was_shipped(books, write, ship, tmp_path):
    assert oldest_waiting(books.engine, tmp_path / "spool") is None
    write({"request_id": "1"})
    ship()
    later = NOON + timedelta(seconds=5)
    write({"request_id": "2", "served_at": later.isoformat()}, {"request_id": "3"})
    assert oldest_waiting(books.engine, tmp_path / "spool") == later


def test_half_a_line_does_not_wait(books, write, tmp_path):
    write({})
    (path,) = (tmp_path / "spool").iterdir()
    path.write_bytes(path.read_bytes()[:40])
    assert oldest_waiting(books.engine, tmp_path / "spool") is None


@pytest.fixture
def prometheus():
    """Answers every query with its value; remembers the query."""
    queries = []

    def answer(request):
        queries.append(request.url.params["query"])
        return httpx.Response(
            200, json={"status": "success", "data": {"result": [{"metric": {}, "value": [0, "3.5"]}]}}
        )

    made = Prometheus("http://prometheus.test", transport=httpx.MockTransport(answer))
    made.queries = queries
    return made


def test_a_look_asks_spool_database_and_prometheus(books, write, ship, tmp_path, prometheus):
    marker = {"lost": 2, "replica": "canary", "since": NOON.isoformat(), "until": NOON.isoformat()}
    write(marker)
    ship()
    write({})
    seen = look(books, tmp_path / "spool", prometheus, NOON + timedelta(hours=1))
    assert (seen.oldest_waiting, seen.database_trouble, seen.lost_of_late) == (NOON, "", 3.5)
    assert seen.losses == (Lost("canary", NOON, NOON, 2),)
    assert prometheus.queries == [
        f"sum(increase(marquee_receipts_lost_total[{COUNTED_OVER.total_seconds():.0f}s]))"
    ]


def test_a_silent_prometheus_does_not_hide_what_the_database_knows(books, write, ship, tmp_path):
    write({"lost": 2, "replica": "canary", "since": NOON.isoformat(), "until": NOON.isoformat()})
    ship()
    seen = look(books, tmp_path / "spool", Prometheus("http://127.0.0.1:9"), NOON + TEN_MINUTES)
    assert (seen.lost_of_late, len(seen.losses)) == (0.0, 1)


def test_a_run_tells_remembers_and_says_whether_the_database_answers(tmp_path, write):
    config = read(_env_file=None, var_dir=tmp_path, prometheus_url="http://127.0.0.1:9")
    write({})
    told = []
    for _ in range(2):
        assert watch_receipts(config, announce=told.append, now=NOON + timedelta(hours=1))
    assert [alert.title for alert in told] == ["Marquee: receipts wait for the database"]


def test_looks_keep_their_figures_for_as_long_as_the_settings_say(tmp_path, monkeypatch):
    limits = []
    monkeypatch.setattr("pipelines.release.ledger.Ledger.thin_looks", lambda _, before: limits.append(before))
    thin_looks(read(_env_file=None, var_dir=tmp_path, looks_keep_days=7), now=NOON)
    assert limits == [NOON - timedelta(days=7)]


def test_receipts_older_than_the_setting_leave_the_database(tmp_path, write):
    from pipelines.records.recorder import ship_once
    from pipelines.release import world

    config = read(_env_file=None, var_dir=tmp_path, receipts_keep_days=1)
    write({})
    ship_once(world.records(config), config.spool_dir)
    assert archive_receipts(config, now=NOON + timedelta(days=1)) == []
    (archived,) = archive_receipts(config, now=NOON + timedelta(days=2))
    assert (archived.day, archived.receipts) == (NOON.date(), 1)
