"""``create_app``: one model behind ``/recommend/<userid>``, with its probes, metrics and receipts.

Whatever stands for the user id is answered with 200 and a list. The database is never asked.
"""

import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Protocol, TypedDict

from flask import Flask, Response, g, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from pipelines.model.artifact import Model
from serving.ladder import Ladder
from serving.metrics import Metrics
from serving.receipts import Receipt

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_PERCENT = re.compile(r"[0-9]{1,2}|100")
_USER_ID_CHARACTERS = 255
_TEXT = "text/plain; charset=utf-8"


class Receipts(Protocol):
    """Where receipts go; in production a :class:`serving.receipts.Spool`."""

    def append(self, receipt: Receipt) -> bool:
        """Keep ``receipt`` and return whether it is safe; never raise."""


class _AnyText(BaseConverter):
    # Slashes, line ends and nothing at all are user ids that are asked for, too.
    regex = "(?s:.*)"
    part_isolating = False


class _Identity(TypedDict):
    version: int
    arm: str
    replica: str


class _Replica:
    """The views; what they share is one model and who is answering."""

    def __init__(self, model: Model, identity: _Identity, receipts: Receipts, metrics: Metrics) -> None:
        self._model = model
        self._identity = identity
        self._headers = {"X-Marquee-Version": str(identity["version"]), "X-Marquee-Arm": identity["arm"]}
        self._receipts = receipts
        self._metrics = metrics
        self._ladder = Ladder(model)
        self._ladder.warm_up()

    def recommend(self, userid: str) -> Response:
        """Answer with one line of movie ids, best first, and leave a receipt."""
        answer = self._ladder.answer(userid)
        # Only a replica that never was ready has nothing: NGINX then asks the next one.
        status = 200 if answer.line else 503
        request_id = _request_id()
        latency_ms = (perf_counter() - g.started_s) * 1_000
        self._keep(
            Receipt(
                request_id=request_id,
                version_number=self._identity["version"],
                user_id=userid[:_USER_ID_CHARACTERS],
                served_at=datetime.now(UTC).isoformat(timespec="microseconds"),
                arm=self._identity["arm"],
                replica=self._identity["replica"],
                source=answer.source,
                movie_ids=answer.line,
                latency_ms=round(latency_ms, 3),
                status=status,
                canary_percent=_canary_percent(),
            )
        )
        headers = {**self._headers, "X-Request-Id": request_id, "X-Marquee-Source": answer.source}
        return Response(answer.line, status, headers, content_type=_TEXT)

    def _keep(self, receipt: Receipt) -> None:
        self._metrics.count(receipt["source"])
        if not self._receipts.append(receipt):
            self._metrics.receipts_lost.inc()

    def healthz(self) -> Response:
        """Say that the process lives."""
        return Response("ok\n", content_type=_TEXT)

    def readyz(self) -> tuple[dict[str, Any], int]:
        """Make a real recommendation now: 200 if there is one, else 503."""
        ready = self._ladder.warm_up()
        return {**self._identity, "ready": ready}, 200 if ready else 503

    def version(self) -> dict[str, Any]:
        """Say what model.json says of the model, and who is serving it."""
        return {**self._model.meta, **self._identity}


def create_app(model: Model, *, version: int, arm: str, replica: str, receipts: Receipts) -> Flask:
    """Build the server of one replica.

    Args:
        model: what to recommend from.
        version: number it is known by in answers, metrics and receipts; 0 if it is in no registry.
        arm: ``stable`` or ``canary``.
        replica: name of this server; several workers share it.
        receipts: where the receipt of every answer goes.
    """
    app = Flask(__name__, static_folder=None)
    app.url_map.converters["default"] = _AnyText
    app.url_map.merge_slashes = False
    app.before_request(_start_the_clock)
    app.register_error_handler(HTTPException, _in_plain_text)
    metrics = Metrics(app, version=version, arm=arm, timed_endpoint="recommend")
    views = _Replica(model, _Identity(version=version, arm=arm, replica=replica), receipts, metrics)
    routes: dict[str, Callable[..., ResponseReturnValue]] = {
        "/recommend/<userid>": views.recommend,
        "/healthz": views.healthz,
        "/readyz": views.readyz,
        "/version": views.version,
    }
    for rule, view in routes.items():
        app.add_url_rule(rule, view_func=view, methods=["GET"], provide_automatic_options=False)
    return app


def _start_the_clock() -> None:
    g.started_s = perf_counter()


def _in_plain_text(error: HTTPException) -> Response:
    headers = {**dict(error.get_headers()), "Content-Type": _TEXT}
    return Response(f"{error.code} {error.name}\n", error.code, headers)


def _request_id() -> str:
    given = request.headers.get("X-Request-Id", "")
    return given if _SANE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _canary_percent() -> int | None:
    given = request.headers.get("X-Marquee-Canary-Percent", "")
    return int(given) if _PERCENT.fullmatch(given) else None
