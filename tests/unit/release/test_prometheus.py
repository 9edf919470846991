from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import MeasurementError
from pipelines.release.prometheus import Prometheus, Series

BEGIN = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def asked(handler) -> Prometheus:
    return Prometheus("http://prometheus.test", transport=httpx.MockTransport(handler))


def returned(*values: str) -> dict:
    return {
        "status": "success",
        "data": {"result": [{"metric": {}, "value": [0, value]} for value in values]},
    }


def counter(*samples: tuple[float, float]) -> Series:
    times, values = np.array([(after(seconds).timestamp(), value) for seconds, value in samples]).T
    return Series({}, times, values)


def test_a_counter_gains_what_lies_between_the_ends():
    assert counter((-5, 100), (5, 110), (15, 140)).gained(BEGIN, after(10)) == (110 - 105) + (125 - 110)


def test_a_counter_that_begins_in_the_window_began_at_zero():
    assert counter((3, 17), (8, 20)).gained(BEGIN, after(8)) == 20


def test_a_counter_without_a_sample_yet_has_gained_nothing():
    assert counter((9, 17)).gained(BEGIN, after(8)) == 0


def test_a_replica_that_restarted_counts_from_zero():
    assert counter((0, 50), (5, 60), (10, 4), (15, 9)).gained(BEGIN, after(15)) == 10 + 4 + 5


def test_a_counter_nobody_scrapes_any_more_gains_nothing():
    assert counter((0, 50), (5, 60)).gained(BEGIN, after(3_600)) == 10


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=1), st.integers(0, 1_000))
def test_what_is_counted_before_and_after_a_restart_adds_up(steps, begun_with):
    values = [begun_with]
    for rise, restarts in steps:
        # A restart shows when the counter falls.
        values.append(rise if restarts and rise < values[-1] else values[-1] + rise)
    series = counter(*((5 * number, value) for number, value in enumerate(values)))
    assert series.gained(BEGIN, after(5 * len(steps))) == sum(rise for rise, _ in steps)


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (httpx.Response(200, text="<html>"), "gave no answer"),
        (httpx.Response(400, json={"status": "error", "error": "bad query"}), "bad query"),
        (httpx.Response(200, json=returned("1", "2")), "2 series"),
    ],
)
def test_nonsense_is_no_number(response, words):
    client = asked(lambda _: response)
    with pytest.raises(MeasurementError, match=words):
        client.number("up", BEGIN)


def test_nan_is_no_value():
    assert asked(lambda _: httpx.Response(200, json=returned("NaN"))).number("x", BEGIN) is None
