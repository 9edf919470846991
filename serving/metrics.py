"""Metrics of a replica: how long answers took, from which rung they came, which receipts were lost.

Labels stay few: the route instead of the path, and only ``/recommend`` is timed at all. A label per user,
per unknown path or per made-up method would be a series each.
"""

import os

from flask import Flask, Request, request
from prometheus_client import CollectorRegistry, Counter
from prometheus_flask_exporter import PrometheusMetrics  # type: ignore[import-untyped]
from prometheus_flask_exporter.multiprocess import (  # type: ignore[import-untyped]
    GunicornInternalPrometheusMetrics,
)

# Fine around 500 ms, where a release is judged, and 600-800 ms, where callers give up.
BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 2.0)


class Metrics:
    """The exporter behind ``/metrics``, and the replica's own counters."""

    def __init__(self, app: Flask, *, version: int, arm: str, timed_endpoint: str) -> None:
        """Time the answers of ``timed_endpoint``; ``version`` and ``arm`` become labels of every series."""
        labels = {"arm": arm, "version": str(version)}
        exporter = _exporter(app, labels)
        self._answers = Counter(
            "marquee_answers",
            "Recommendations given, by rung of the fallback ladder",
            [*labels, "source"],
            registry=exporter.registry,
        )
        self._values = tuple(labels.values())
        self.receipts_lost: Counter = Counter(
            "marquee_receipts_lost", "Answers given without a receipt", labels, registry=exporter.registry
        ).labels(**labels)
        _time_only(app, exporter, timed_endpoint)

    def count(self, source: str) -> None:
        """Count one answer from ``source``, a rung of the ladder."""
        self._answers.labels(*self._values, source).inc()


def path(asked: Request) -> str:
    """Return the route, such as ``/recommend/<userid>``; the exporter names the label after this function."""
    return asked.url_rule.rule if asked.url_rule else ""


def _exporter(app: Flask, labels: dict[str, str]) -> PrometheusMetrics:
    options = {"group_by": path, "buckets": BUCKETS_S, "default_labels": labels}
    # Set by whoever starts several workers: any of them then answers /metrics for all, the dead included.
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        return GunicornInternalPrometheusMetrics(app, **options)
    return PrometheusMetrics(app, registry=CollectorRegistry(), **options)


def _time_only(app: Flask, exporter: PrometheusMetrics, endpoint: str) -> None:
    ignore = exporter.do_not_track()(lambda: None)

    @app.before_request
    def leave_out_the_rest() -> None:
        if request.endpoint != endpoint:
            ignore()
