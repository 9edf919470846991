"""Metrics of a replica: how long answers took, from which rung they came, what did not work beside them.

Labels stay few: the route instead of the path, and only ``/recommend`` is timed at all. A label per user,
per unknown path or per made-up method would be a series each.
"""

import os

from flask import Flask
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_flask_exporter import PrometheusMetrics  # type: ignore[import-untyped]
from prometheus_flask_exporter.multiprocess import (  # type: ignore[import-untyped]
    GunicornInternalPrometheusMetrics,
)

# Fine around 500 ms, where a release is judged, and 600-800 ms, where callers give up.
BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 2.0)


class Metrics:
    """What ``/metrics`` shows of a replica.

    The exporter's own timing looks its series up anew for every answer, which takes longer than the answer.
    Here the series of a status or rung is looked up once.
    """

    def __init__(self, app: Flask, *, version: int, arm: str, timed_rule: str) -> None:
        """Add ``/metrics`` to ``app``; ``version`` and ``arm`` become labels of every series.

        ``timed_rule`` is what the series of the answers' duration calls their path.
        """
        self._registry = _exporter(app).registry
        self._labels = {"arm": arm, "version": str(version)}
        self._timed_rule = timed_rule
        self._durations = Histogram(
            "flask_http_request_duration_seconds",
            "Time from a request's arrival in the application to its answer",
            ["method", "path", "status", *self._labels],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._answers = Counter(
            "marquee_answers",
            "Recommendations given, by rung of the fallback ladder",
            [*self._labels, "source"],
            registry=self._registry,
        )
        self._timed: dict[tuple[str, int], Histogram] = {}
        self._counted: dict[str, Counter] = {}
        self.receipts_lost = self._counter("marquee_receipts_lost", "Answers given without a receipt")
        self.ladder_failures = self._counter(
            "marquee_ladder_failures", "Answers for which the model failed and the popular list stood in"
        )
        self.recents_failures = self._counter(
            "marquee_recents_failures", "Answers given without knowing what the user has just watched"
        )

    def time(self, method: str, status: int, seconds: float) -> None:
        """Note how long an answer took; ``method`` and ``status`` must be few."""
        series = self._timed.get((method, status))
        if series is None:
            series = self._durations.labels(method, self._timed_rule, status, *self._labels.values())
            self._timed[method, status] = series
        series.observe(seconds)

    def count(self, source: str) -> None:
        """Count one answer from ``source``, a rung of the ladder."""
        series = self._counted.get(source)
        if series is None:
            series = self._answers.labels(*self._labels.values(), source)
            self._counted[source] = series
        series.inc()

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(name, meaning, [*self._labels], registry=self._registry).labels(**self._labels)


def _exporter(app: Flask) -> PrometheusMetrics:
    # Set by whoever starts several workers: any of them then answers /metrics for all, the dead included.
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        return GunicornInternalPrometheusMetrics(app, export_defaults=False)
    return PrometheusMetrics(app, registry=CollectorRegistry(), export_defaults=False)
