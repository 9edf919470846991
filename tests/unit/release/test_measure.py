import math

import httpx
import pytest

from pipelines.errors import MeasurementError
from pipelines.release.measure import ArmFigures, Prometheus, measure


def answer(*values: str) -> dict:
    return {
        "status": "success",
        "data": {"result": [{"metric": {}, "value": [0, value]} for value in values]},
    }


def prometheus(handler) -> Prometheus:
    return Prometheus("http://prometheus.test", transport=httpx.MockTransport(handler))


class Scripted:
    """Answers a query by the first key that it contains, and remembers what it was asked."""

    def __init__(self, answers: dict[str, str | None]):
        self.answers = answers
        self.queries: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        query = request.url.params["query"]
        self.queries.append(query)
        value = next((value for key, value in self.answers.items() if key in query), None)
        return httpx.Response(200, json=answer(*([value] if value is not None else [])))


FIGURES = {
    "up{": "1",
    'seconds_sum{path=~"/recommend/.*",arm="canary"': "24",
    'arm="canary",version="7",status="200"': "120",
    'arm="canary",version="7"': "125",
}


def test_canary_is_measured_by_its_own_version_in_its_own_window():
    script = Scripted(FIGURES)
    measurement = measure(prometheus(script), version=7, elapsed_s=600)
    assert measurement.canary == ArmFigures(requests=125, good=120, good_ms=1_000 * 24)
    assert measurement.canary.mean_ms == 1_000 * 24 / 120
    assert (
        'sum(increase(flask_http_request_duration_seconds_count{path=~"/recommend/.*",arm="canary",'
        'version="7",status="200"}[600s]))'
    ) in script.queries


def test_window_is_rounded_up_to_whole_seconds():
    script = Scripted(FIGURES)
    measure(prometheus(script), version=7, elapsed_s=60.2)
    assert all("[61s]" in query for query in script.queries if "increase" in query)


def test_no_series_is_no_traffic_and_has_no_mean():
    measurement = measure(prometheus(Scripted({"up{": "1"})), version=7, elapsed_s=600)
    assert measurement.canary == ArmFigures(requests=0, good=0, good_ms=0)
    assert math.isnan(measurement.canary.mean_ms)
    assert measurement.canary.error_share == 0


def test_dead_canary_is_seen_but_not_in_its_first_seconds():
    assert not measure(prometheus(Scripted({"up{": "0"})), version=7, elapsed_s=600).canary_up
    assert measure(prometheus(Scripted({"up{": "0"})), version=7, elapsed_s=29).canary_up


def test_prometheus_that_never_scraped_is_a_broken_instrument():
    measurement = measure(prometheus(Scripted({})), version=7, elapsed_s=600)
    assert measurement.canary is None
    assert "/targets" in measurement.trouble


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (httpx.Response(200, text="<html>"), "gave no answer"),
        (httpx.Response(400, json={"status": "error", "error": "bad query"}), "bad query"),
        (httpx.Response(200, json=answer("1", "2")), "2 series"),
    ],
)
def test_nonsense_is_a_broken_instrument(response, words):
    client = prometheus(lambda _: response)
    with pytest.raises(MeasurementError, match=words):
        client.number("up")
    measurement = measure(client, version=7, elapsed_s=600)
    assert measurement.canary is None
    assert words in measurement.trouble


def test_dead_prometheus_is_a_broken_instrument():
    def refuse(request):
        raise httpx.ConnectError("refused")

    measurement = measure(prometheus(refuse), version=7, elapsed_s=600)
    assert measurement.canary is None
    assert "prometheus.test" in measurement.trouble


def test_nan_is_no_value():
    assert prometheus(lambda _: httpx.Response(200, json=answer("NaN"))).number("x") is None


def test_measurement_becomes_a_ledger_row():
    row = measure(prometheus(Scripted(FIGURES)), version=7, elapsed_s=600).as_row()
    assert row["canary"] == {"requests": 125.0, "good": 120.0, "good_ms": 24_000.0}
