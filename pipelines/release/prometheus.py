"""Prometheus, asked over HTTP: numbers, samples of counters, and what fires."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import numpy as np

from pipelines.errors import MeasurementError
from pipelines.release.figures import Doubles

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of one counter."""

    labels: dict[str, str]
    times_s: Doubles
    """Seconds since 1970."""
    values: Doubles

    def gained(self, since: datetime, until: datetime) -> float:
        """Return what was counted in between; where there is no sample, a straight line stands for it.

        A counter that falls was begun anew at zero, by a replica that restarted. What the replica counted
        after its last scrape is lost.
        """
        rises = np.diff(self.values, prepend=0.0)
        counted = np.cumsum(np.where(rises < 0, self.values, rises))
        ends = [since.timestamp(), until.timestamp()]
        before, after = np.interp(ends, self.times_s, counted, left=0.0)
        return max(0.0, float(after - before))


class Prometheus:
    """Asks one Prometheus server."""

    def __init__(self, url: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self._url = url
        self._transport = transport

    def number(self, query: str, at: datetime) -> float | None:
        """Return the value of ``query`` at a moment; None when it has none (NaN is no value).

        Raises:
            MeasurementError: the server does not answer, refuses the query, or returns several series.
        """
        series = self._ask(query, at)
        if len(series) > 1:
            raise MeasurementError(f"Prometheus returned {len(series)} series for {query!r}, one was wanted")
        value = float(series[0]["value"][1]) if series else math.nan
        return None if math.isnan(value) else value

    def samples(self, query: str, at: datetime) -> list[Series]:
        """Return the samples of every series of a range selector that ends at a moment.

        Raises:
            MeasurementError: the server does not answer or refuses the query.
        """
        return [
            Series(one["metric"], *np.array(one["values"], dtype=np.float64).T)
            for one in self._ask(query, at)
        ]

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that fire or are about to, as Prometheus describes them.

        Raises:
            MeasurementError: the server does not answer.
        """
        alerts: list[dict[str, Any]] = self._get("/api/v1/alerts", {}, "its alerts")["alerts"]
        return alerts

    def _ask(self, query: str, at: datetime) -> list[dict[str, Any]]:
        asked: dict[str, str | float] = {"query": query, "time": at.timestamp()}
        series: list[dict[str, Any]] = self._get("/api/v1/query", asked, repr(query))["result"]
        return series

    def _get(self, path: str, asked: Mapping[str, str | float], what: str) -> dict[str, Any]:
        try:
            with httpx.Client(base_url=self._url, timeout=_TIMEOUT_S, transport=self._transport) as client:
                response = client.get(path, params=asked)
            body = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise MeasurementError(
                f"Prometheus at {self._url} gave no answer ({type(error).__name__}: {error}); "
                "see its log, or set MARQUEE_PROMETHEUS_URL"
            ) from error
        if body.get("status") != "success":
            raise MeasurementError(
                f"Prometheus at {self._url} refused {what}: {body.get('error', response.text)}"
            )
        data: dict[str, Any] = body["data"]
        return data
