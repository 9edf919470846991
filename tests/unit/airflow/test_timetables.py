from datetime import UTC, datetime, timedelta

import pendulum
from airflow.timetables.base import DataInterval, TimeRestriction
from hypothesis import given
from hypothesis import strategies as st

from marquee_airflow.timetables import ANCHOR, GRACE, EveryDays, every_days, next_run

DAY = timedelta(days=1)
ANY_TIME = TimeRestriction(earliest=None, latest=None, catchup=False)

days = st.integers(1, 365)
moments = st.datetimes(datetime(2026, 1, 2), datetime(2040, 1, 1), timezones=st.just(UTC))


def test_the_first_run_waits_for_its_turn():
    switched_on = ANCHOR + 4 * DAY + timedelta(hours=5)
    assert next_run(None, switched_on, 2) == ANCHOR + 6 * DAY


def test_the_first_run_comes_at_once_where_it_shall():
    switched_on = ANCHOR + 4 * DAY + timedelta(hours=5)
    assert next_run(None, switched_on, 2, at_once=True) == ANCHOR + 4 * DAY
    assert next_run(ANCHOR + 4 * DAY, switched_on, 2, at_once=True) == ANCHOR + 6 * DAY


def test_a_run_follows_the_last_one_after_the_period():
    last = ANCHOR + 4 * DAY
    assert next_run(last, last + timedelta(hours=1), 2) == last + 2 * DAY


def test_a_run_that_was_missed_is_made_up_for_once():
    last = ANCHOR + 4 * DAY
    back = last + 7 * DAY
    assert next_run(last, back, 2) == last + 6 * DAY
    assert next_run(last + 6 * DAY, back, 2) == last + 8 * DAY


def test_periods_cross_the_end_of_a_month_whole():
    last = datetime(2026, 1, 31, 3, tzinfo=UTC)
    assert next_run(last, last, 2) == datetime(2026, 2, 2, 3, tzinfo=UTC)


def test_a_first_run_that_is_due_stays_due_when_the_dag_is_parsed_again():
    due = ANCHOR + 2 * DAY
    assert next_run(None, due - timedelta(seconds=1), 2) == due
    assert next_run(None, due + GRACE / 2, 2) == due
    assert next_run(None, due + GRACE, 2) == due + 2 * DAY


def test_a_changed_period_is_kept_to_from_its_next_turn_on():
    last = ANCHOR + 2 * DAY
    assert next_run(last, last, 7) == ANCHOR + 7 * DAY


@given(last=moments, now=moments, period=days)
def test_a_run_is_never_before_the_last_and_never_further_away_than_a_period(last, now, period):
    run = next_run(last, now, period)
    assert run > last
    assert run <= max(last, now) + period * DAY
    assert (run - ANCHOR) % (period * DAY) == timedelta(0)


@given(now=moments, period=days)
def test_a_first_run_is_less_than_a_period_away(now, period):
    assert now - GRACE < next_run(None, now, period) <= now + period * DAY


def test_the_timetable_survives_being_written_down():
    rebuilt = EveryDays.deserialize(EveryDays(3, at_once=True).serialize())
    assert rebuilt.serialize() == {"days": 3, "at_once": True}
    assert rebuilt.summary == "every 3 days"
    assert rebuilt.description == "Every 3 days at 03:00 UTC"


def test_airflow_is_given_one_moment_and_no_interval():
    last = pendulum.instance(datetime(2090, 1, 1, 3, tzinfo=UTC))
    info = EveryDays(2).next_dagrun_info(
        last_automated_data_interval=DataInterval.exact(last), restriction=ANY_TIME
    )
    assert info.run_after == info.data_interval.start == info.data_interval.end
    assert last < info.run_after <= last.add(days=2)


def test_a_run_by_hand_is_about_its_own_moment():
    now = pendulum.instance(datetime(2026, 5, 1, tzinfo=UTC))
    assert EveryDays(2).infer_manual_data_interval(run_after=now) == DataInterval.exact(now)


def test_no_days_is_no_schedule():
    assert every_days(0) is None
    assert every_days(2).serialize() == {"days": 2, "at_once": False}
    assert every_days(2, at_once=True).serialize() == {"days": 2, "at_once": True}
