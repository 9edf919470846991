import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from pipelines.model.arrays import LIST_LENGTH
from pipelines.records.tables import reccom
from pipelines.release.figures import GRID, Measurement, Users
from pipelines.release.measure import (
    SETTLED_S,
    Watched,
    answers_of,
    figures_of,
    measure,
    read_answers,
    users_of,
)
from pipelines.release.prometheus import Prometheus
from tests.arms import FULL_LIST, SHORT_LIST, Arm, rows, serve
from tests.receipts import row

BEGIN = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
WATCHED = Watched(version=2, previous=1, since=BEGIN)


def after(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def asked(handler) -> Prometheus:
    return Prometheus("http://prometheus.test", transport=httpx.MockTransport(handler))


@pytest.fixture
def look(records, instrument):
    """Looks so many seconds into the window."""

    def look_after(seconds: float, watched: Watched = WATCHED) -> Measurement:
        return measure(records, asked(instrument), watched=watched, now=after(seconds))

    return look_after


def store(records, *rows) -> None:
    with records.begin() as connection:
        connection.execute(insert(reccom), [row(str(number)) | each for number, each in enumerate(rows)])


def naive(seconds: float) -> datetime:
    return after(seconds).replace(tzinfo=None)


# --- receipts -------------------------------------------------------------------------------------------


def test_both_arms_are_measured_side_by_side(records, look):
    serve(records, since=BEGIN, seconds=600, canary=Arm(2, mean_ms=30, failed=0.1), stable=Arm(1, short=0.25))
    measured = look(600 + SETTLED_S)
    canary, stable = measured.canary, measured.stable
    assert measured.elapsed_s == 600 + SETTLED_S
    assert (canary.answers, stable.answers) == (600 * 10 * 0.2, 600 * 10 * 0.8)
    assert (canary.failed.k, stable.failed.k) == (0.1 * 1_200, 0)
    assert (canary.short.n, stable.short.k) == (0.9 * 1_200, 0.25 * 4_800)
    assert (canary.time.mean, stable.time.mean) == (pytest.approx(30), pytest.approx(20))
    assert (canary.wrong_version, stable.wrong_version) == (0, 0)
    assert measured.users == Users(canary=100, total=500, mixed=0)


def test_answers_too_young_for_both_instruments_wait_for_the_next_look(records, look):
    serve(records, since=BEGIN, seconds=100, canary=Arm(2), stable=Arm(1), per_s=1)
    measured = look(60)
    assert measured.canary.answers + measured.stable.answers == 60 - SETTLED_S


def test_a_look_right_after_the_start_measures_nothing_yet(records, look):
    serve(records, since=BEGIN, seconds=1, canary=Arm(2), stable=Arm(1))
    measured = look(1)
    assert (measured.canary.answers, measured.stable.answers, measured.users.total) == (0, 0, 0)
    assert math.isnan(measured.canary.time.mean)
    assert (measured.scraped.answers, measured.trouble) == (0, "")


def test_only_what_was_asked_through_the_split_of_the_window_counts(records):
    store(
        records,
        {"served_at": naive(-0.001)},
        {"served_at": naive(0)},
        {"served_at": naive(1), "canary_percent": None},
        {"served_at": naive(2), "canary_percent": 0},
        {"served_at": naive(10)},
    )
    first, split_was_off = BEGIN.timestamp(), after(2).timestamp()
    assert read_answers(records, since=BEGIN, until=after(10)).at_s.tolist() == [first, split_was_off]
    assert read_answers(records, since=BEGIN, until=after(10), split=True).at_s.tolist() == [first]


@pytest.mark.parametrize(
    ("movie_ids", "listed"), [("", 0), (SHORT_LIST, 1), (FULL_LIST, LIST_LENGTH), ("ü+1,b\n+2", 2)]
)
def test_movies_of_a_list_are_counted_alike_in_database_and_spool(records, movie_ids, listed):
    receipt = row(movie_ids=movie_ids, served_at=naive(1))
    store(records, receipt)
    stored = read_answers(records, since=BEGIN, until=after(2))
    assert stored.listed.tolist() == answers_of([receipt]).listed.tolist() == [listed]
    assert stored.at_s.tolist() == answers_of([receipt]).at_s.tolist() == [after(1).timestamp()]


def test_answers_of_another_version_are_counted_as_such(records, look):
    serve(records, since=BEGIN, seconds=60, canary=Arm(7), stable=Arm(1))
    measured = look(60 + SETTLED_S)
    assert measured.canary.wrong_version == measured.canary.answers > 0
    assert measured.stable.wrong_version == 0


def test_users_whom_the_split_does_not_hold_are_mixed(records, look):
    serve(records, since=BEGIN, seconds=600, canary=Arm(2), stable=Arm(1), users=100, mixed_users=3)
    assert look(600 + SETTLED_S).users == Users(canary=20, total=100, mixed=3)


def test_a_guarded_version_is_compared_with_the_hour_of_the_one_before(records, look):
    guarded = Watched(version=2, previous=1, since=BEGIN, guard_s=3_600)
    serve(records, since=after(-5_000), seconds=5_000, canary=Arm(2), stable=Arm(1, mean_ms=40), per_s=1)
    serve(records, since=BEGIN, seconds=100, canary=None, stable=Arm(2), per_s=1)
    measured = look(100 + SETTLED_S, guarded)
    assert (measured.canary.answers, measured.canary.wrong_version) == (100, 0)
    assert (measured.stable.answers, measured.stable.wrong_version) == (0.8 * 3_600, 0)
    assert measured.users == Users(canary=100, total=100, mixed=0)
    assert measured.scraped.answers == pytest.approx(100, abs=1)


Receipts = st.lists(
    st.builds(
        row,
        request_id=st.just("a"),
        served_at=st.floats(0, 300).map(after).map(datetime.isoformat),
        user_id=st.sampled_from(["1", "2", "a,b", "ü"]),
        version_number=st.sampled_from([1, 2]),
        latency_ms=st.floats(0, 1_000) | st.just(5.0),
        status=st.sampled_from([200, 200, 200, 503]),
        source=st.sampled_from(["personal", "trending"]),
        movie_ids=st.sampled_from([FULL_LIST, SHORT_LIST]),
    ),
    max_size=40,
)


@given(Receipts)
def test_figures_are_those_of_a_slow_loop(receipts):
    figures = figures_of(answers_of(receipts), version=2)
    good = [one for one in receipts if one["status"] == 200]
    times = sorted(one["latency_ms"] for one in good)
    values = figures.quantiles.values_ms
    assert figures.users == len({one["user_id"] for one in receipts})
    assert figures.wrong_version == sum(one["version_number"] != 2 for one in receipts)
    assert (figures.answers, figures.time.n) == (len(receipts), len(good))
    for probability, value in zip(GRID, values, strict=True):
        # The smallest time that at least this share did not exceed.
        enough = [time for place, time in enumerate(times, 1) if place >= probability * len(times) - 1e-9]
        assert value == enough[0] if times else math.isnan(value)
    slow = [figures.quantiles.at(each, "lower") for each in (0.95, 0.99)]
    same_clusters(figures.failed, receipts, lambda one: one["status"] != 200)
    same_clusters(figures.below, good, lambda one: one["source"] == "trending")
    same_clusters(figures.short, good, lambda one: one["movie_ids"] == SHORT_LIST)
    same_clusters(figures.slower_p95, good, lambda one: one["latency_ms"] > slow[0])
    same_clusters(figures.slower_p99, good, lambda one: one["latency_ms"] > slow[1])
    same_clusters(figures.time, good, lambda one: one["latency_ms"])
    if good:
        assert figures.time.mean == pytest.approx(sum(times) / len(times))
        assert figures.time.squares == pytest.approx(sum(time**2 for time in times))


def same_clusters(figure, receipts, x_of):
    """Compare the sums over users and over minutes with those of a plain loop."""
    assert figure.n == len(receipts)
    for clusters, name_of in (
        (figure.users, lambda one: one["user_id"]),
        (figure.blocks, lambda one: one["served_at"].replace(second=0, microsecond=0)),
    ):
        n, x = defaultdict(int), defaultdict(float)
        for one in receipts:
            n[name_of(one)] += 1
            x[name_of(one)] += x_of(one)
        assert clusters.nn == sum(n[name] ** 2 for name in n)
        assert clusters.xn == pytest.approx(sum(x[name] * n[name] for name in n))
        assert clusters.xx == pytest.approx(sum(x[name] ** 2 for name in n))


@given(Receipts, Receipts)
def test_users_are_those_of_a_slow_loop(canary, stable):
    times = defaultdict(lambda: [0, 0])
    for arm, receipts in enumerate((canary, stable)):
        for one in receipts:
            times[one["user_id"]][arm] += 1
    marked = [one | {"arm": "canary"} for one in canary] + [one | {"arm": "stable"} for one in stable]
    assert users_of(answers_of(marked)) == Users(
        canary=sum(on_canary > 0 for on_canary, _ in times.values()),
        total=len(times),
        mixed=sum(0 < on_canary < on_stable for on_canary, on_stable in times.values()),
    )


def test_users_covered_for_while_the_canary_restarts_are_not_mixed():
    outage = range(300, 310)
    served = rows(since=BEGIN, seconds=600, canary=Arm(2), stable=Arm(1), users=100)
    for one in served:
        if one["served_at"] >= naive(outage.start) and one["served_at"] < naive(outage.stop):
            one["arm"] = "stable"
    assert users_of(answers_of(served)) == Users(canary=20, total=100, mixed=0)


def test_users_of_a_canary_that_fails_now_and_then_are_not_mixed():
    """NGINX asks stable at once when the canary has no answer: the user has a receipt of both."""
    served = rows(since=BEGIN, seconds=600, canary=Arm(2, failed=0.5), stable=Arm(1), users=100)
    covers = [one | {"arm": "stable", "status": 200} for one in served if one["status"] == 503]
    assert covers
    assert users_of(answers_of(served + covers)) == Users(canary=20, total=100, mixed=0)


def test_prometheus_agrees_with_the_receipts(records, look):
    serve(records, since=BEGIN, seconds=600, canary=Arm(2, mean_ms=30, failed=0.1), stable=Arm(1))
    measured = look(600 + SETTLED_S)
    assert measured.scraped.answers == pytest.approx(measured.canary.answers, abs=1)
    assert measured.scraped.good == pytest.approx(measured.canary.time.n, abs=1)
    assert measured.scraped.mean_ms == pytest.approx(30, rel=0.01)


def test_candidate_is_asked_for_by_arm_and_version_in_its_own_window(look, instrument):
    look(600.2)
    assert instrument.queries == [
        'up{job="replicas"}[30s]',
        '{__name__=~"flask_http_request_duration_seconds_(count|sum)",path=~"/recommend/.*",'
        'version="2",arm="canary"}[901s]',
    ]


def test_guarded_version_is_asked_for_on_every_arm(look, instrument):
    look(600, Watched(version=2, previous=1, since=BEGIN, guard_s=3_600))
    assert instrument.queries == [
        'up{job="replicas"}[30s]',
        '{__name__=~"flask_http_request_duration_seconds_(count|sum)",path=~"/recommend/.*",'
        'version="2"}[900s]',
    ]


def test_no_series_is_no_traffic_and_has_no_mean(look):
    scraped = look(600).scraped
    assert (scraped.answers, scraped.good, scraped.up) == (0, 0, True)
    assert math.isnan(scraped.mean_ms)


def test_dead_canary_is_seen_but_not_in_its_first_seconds(look, instrument):
    instrument.up = 0.0
    assert not look(600).scraped.up
    assert look(29).scraped.up


def test_canary_that_prometheus_has_only_begun_to_scrape_is_not_down_yet(look, instrument):
    instrument.up, instrument.up_for_s = 0.0, 10.0
    assert look(600).scraped.up


def test_canary_is_not_down_while_a_whole_machine_comes_up(look, instrument):
    instrument.up, instrument.stable_up = 0.0, 0.0
    assert look(600).scraped.up
    # Stable is back first, the canary right behind it.
    instrument.stable_up, instrument.stable_up_for_s = 1.0, 10.0
    assert look(600).scraped.up
    instrument.stable_up_for_s = 20.0
    assert not look(600).scraped.up


def test_guarded_version_is_down_when_nobody_is_up(look, instrument):
    instrument.up, instrument.stable_up = 0.0, 0.0
    guarded = Watched(version=2, previous=1, since=BEGIN, guard_s=3_600)
    assert not look(600, guarded).scraped.up


def test_prometheus_that_never_scraped_is_trouble(look, instrument):
    instrument.up = None
    measured = look(600)
    assert measured.scraped is None
    assert "/targets" in measured.trouble


def test_dead_prometheus_is_trouble_and_the_receipts_are_measured_all_the_same(records, look, instrument):
    serve(records, since=BEGIN, seconds=60, canary=Arm(2), stable=Arm(1))
    instrument.dead = True
    measured = look(60 + SETTLED_S)
    assert measured.scraped is None
    assert "prometheus.test" in measured.trouble
    assert measured.canary.answers == 120


def test_refusal_is_trouble_of_the_look(records):
    refusal = asked(lambda _: httpx.Response(400, json={"status": "error", "error": "bad query"}))
    measured = measure(records, refusal, watched=WATCHED, now=after(600))
    assert measured.scraped is None
    assert "bad query" in measured.trouble


def test_a_look_comes_back_from_its_ledger_row(records, look):
    serve(records, since=BEGIN, seconds=60, canary=Arm(2, failed=0.1), stable=Arm(1))
    measured = look(60 + SETTLED_S)
    again = Measurement.from_row(measured.as_row())
    assert again.as_row() == measured.as_row()
    assert again.canary.failed == measured.canary.failed
