"""Prometheus in, figures of both arms out: the one place that knows PromQL and seconds.

The candidate is measured by its own series (arm and version) in its own window, never by an average over
all versions or all time.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from pipelines.errors import MeasurementError

UP_WINDOW_S = 30.0
_TIMEOUT_S = 10.0
_METRIC = "flask_http_request_duration_seconds"
_ROUTE = 'path=~"/recommend/.*"'


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """What one arm did in the window; counts are Prometheus increases and may have fractions."""

    requests: float
    good: float
    """Answers with status 200."""
    good_ms: float
    """Response times of the good answers, added up."""

    @property
    def mean_ms(self) -> float:
        """Mean response time of the good answers; NaN without any."""
        return self.good_ms / self.good if self.good > 0 else math.nan

    @property
    def error_share(self) -> float:
        """Share of the answers that failed, 0 to 1."""
        # Increases are extrapolated: the good ones may come out above all of them by a hair.
        return max(0.0, self.requests - self.good) / self.requests if self.requests > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """One look at the candidate and at the stable replicas beside it."""

    elapsed_s: float
    """Time since the window began."""
    canary: ArmFigures | None
    """None: the instrument did not answer, see ``trouble``."""
    stable: ArmFigures | None
    canary_up: bool
    """Whether any scrape of the candidate succeeded in the last ``up_window_s``."""
    up_window_s: float = UP_WINDOW_S
    trouble: str = ""

    def as_row(self) -> dict[str, Any]:
        """Return what the ledger keeps."""
        return asdict(self)


class Prometheus:
    """Asks one Prometheus server for single numbers."""

    def __init__(self, url: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self._url = url
        self._transport = transport

    def number(self, query: str) -> float | None:
        """Return the value of ``query``; None when it has none (NaN is no value).

        Raises:
            MeasurementError: the server does not answer, refuses the query, or returns several series.
        """
        try:
            with httpx.Client(base_url=self._url, timeout=_TIMEOUT_S, transport=self._transport) as client:
                response = client.get("/api/v1/query", params={"query": query})
            body = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise MeasurementError(
                f"Prometheus at {self._url} gave no answer ({type(error).__name__}: {error}); "
                "see its log, or set MARQUEE_PROMETHEUS_URL"
            ) from error
        if body.get("status") != "success":
            raise MeasurementError(
                f"Prometheus at {self._url} refused {query!r}: {body.get('error', response.text)}"
            )
        series = body["data"]["result"]
        if len(series) > 1:
            raise MeasurementError(f"Prometheus returned {len(series)} series for {query!r}, one was wanted")
        value = float(series[0]["value"][1]) if series else math.nan
        return None if math.isnan(value) else value


def measure(prometheus: Prometheus, *, version: int, elapsed_s: float) -> Measurement:
    """Measure both arms over the last ``elapsed_s``; a silent instrument is reported, not raised."""
    try:
        up = _canary_up(prometheus)
        return Measurement(
            elapsed_s=elapsed_s,
            canary=_arm(prometheus, f'arm="canary",version="{version}"', elapsed_s),
            stable=_arm(prometheus, 'arm="stable"', elapsed_s),
            # A candidate that has not lived as long as the look back cannot have been down for it.
            canary_up=up or elapsed_s < UP_WINDOW_S,
        )
    except MeasurementError as error:
        return Measurement(elapsed_s=elapsed_s, canary=None, stable=None, canary_up=False, trouble=str(error))


def _canary_up(prometheus: Prometheus) -> bool:
    up = prometheus.number(f'max(max_over_time(up{{job="replicas",arm="canary"}}[{UP_WINDOW_S:.0f}s]))')
    if up is None:
        # A target that does not answer is scraped as 0; none at all is the instrument's fault.
        raise MeasurementError("Prometheus has not tried to scrape the canary; see its page /targets")
    return up > 0


def _arm(prometheus: Prometheus, labels: str, window_s: float) -> ArmFigures:
    def increase(what: str, more: str = "") -> float:
        series = f"{_METRIC}_{what}{{{_ROUTE},{labels}{more}}}[{max(1, math.ceil(window_s))}s]"
        return prometheus.number(f"sum(increase({series}))") or 0.0

    return ArmFigures(
        requests=increase("count"),
        good=increase("count", ',status="200"'),
        good_ms=1_000.0 * increase("sum", ',status="200"'),
    )
