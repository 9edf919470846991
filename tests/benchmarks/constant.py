"""The rival of a replica: Flask and the exporter as they come, answering the same line to everybody."""

import os

from flask import Flask, Request, Response
from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

from serving.metrics import BUCKETS_S

LINE = ",".join(f"a+movie+of+the+catalogue+{place:05}+1999" for place in range(20))


def path(asked: Request) -> str:
    return asked.url_rule.rule if asked.url_rule else ""


def create_app_from_env() -> Flask:
    app = Flask(__name__, static_folder=None)
    labels = {"arm": os.environ["MARQUEE_ARM"], "version": "1"}
    GunicornInternalPrometheusMetrics(app, group_by=path, buckets=BUCKETS_S, default_labels=labels)

    @app.get("/recommend/<userid>")
    def recommend(userid: str) -> Response:
        return Response(LINE, content_type="text/plain; charset=utf-8")

    @app.get("/readyz")
    def readyz() -> str:
        return "ready"

    return app
