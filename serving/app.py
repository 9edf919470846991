"""``create_app``: one model behind ``/recommend/<userid>``, with its probes, metrics and receipts.

Whatever stands for the user id is answered with 200 and a list. The database is never asked.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from flask import Flask, Response
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.wsgi import get_path_info

from pipelines.model.recommender import Model
from serving.ladder import Answer, Ladder, NoRecents, Recents
from serving.metrics import Metrics
from serving.receipts import Receipt

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_RECOMMEND = "/recommend/"
_METHODS = ("GET", "HEAD")
_STATUS = {200: "200 OK", 500: "500 Internal Server Error", 503: "503 Service Unavailable"}
_NOTHING = Answer("", "none")
_FAULT = b"500 Internal Server Error\n"
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_PERCENTAGES = {str(percent): percent for percent in range(101)}
_USER_ID_CHARACTERS = 255
_TEXT = "text/plain; charset=utf-8"

logger = logging.getLogger(__name__)


class Receipts(Protocol):
    """Where receipts go; in production a :class:`serving.receipts.Spool`."""

    def append(self, receipt: Receipt) -> bool:
        """Keep ``receipt`` and return whether it is safe; never raise."""


class Answers(Protocol):
    """Who has a list for everybody; in production a :class:`serving.ladder.Ladder`."""

    def answer(self, user_id: str) -> Answer:
        """Return the best that can be had for any text as ``user_id``."""


class _Identity(TypedDict):
    version: int
    arm: str
    replica: str


class Recommend:
    """``/recommend/<userid>`` as bare WSGI in front of Flask, which gets everything else.

    The route needs none of what Flask does for a request, and that takes longer than list and receipt.
    """

    def __init__(
        self,
        rest: "WSGIApplication",
        answers: Answers,
        identity: _Identity,
        receipts: Receipts,
        metrics: Metrics,
    ) -> None:
        self.answers = answers
        self.rest = rest
        self.identity = identity
        self._headers = [
            ("Content-Type", _TEXT),
            ("X-Marquee-Version", str(identity["version"])),
            ("X-Marquee-Arm", identity["arm"]),
        ]
        self.receipts = receipts
        self.metrics = metrics

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer with one line of movie ids, best first, and leave a receipt."""
        started_s = perf_counter()
        path = get_path_info(environ)
        if not path.startswith(_RECOMMEND):
            return self.rest(environ, start_response)
        method = environ["REQUEST_METHOD"]
        if method not in _METHODS:
            return _in_plain_text(MethodNotAllowed(_METHODS))(environ, start_response)
        status, headers, body = self._answer(path[len(_RECOMMEND) :], environ, started_s)
        self.metrics.time(method, status, perf_counter() - started_s)
        start_response(_STATUS[status], headers)
        return [body] if method == "GET" else []

    def _answer(
        self, user_id: str, environ: "WSGIEnvironment", started_s: float
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        answer, status = self._find(user_id)
        request_id = _request_id(environ)
        latency_ms = (perf_counter() - started_s) * 1_000
        self._keep(
            Receipt(
                request_id=request_id,
                version_number=self.identity["version"],
                user_id=user_id[:_USER_ID_CHARACTERS],
                served_at=datetime.now(UTC).isoformat(timespec="microseconds"),
                arm=self.identity["arm"],
                replica=self.identity["replica"],
                source=answer.source,
                movie_ids=answer.line,
                watched=",".join(answer.watched),
                latency_ms=round(latency_ms, 3),
                status=status,
                canary_percent=_PERCENTAGES.get(environ.get("HTTP_X_MARQUEE_CANARY_PERCENT", "")),
            )
        )
        body = answer.line.encode() if status != 500 else _FAULT
        own = [
            ("Content-Length", str(len(body))),
            ("X-Request-Id", request_id),
            ("X-Marquee-Source", answer.source),
        ]
        return status, self._headers + own, body

    def _find(self, user_id: str) -> tuple[Answer, int]:
        try:
            answer = self.answers.answer(user_id)
        except Exception:
            # It leaves a receipt like every answer: a version that fails must be seen to fail.
            logger.exception("no answer to user %.200r", user_id)
            return _NOTHING, 500
        # Only a replica that never was ready has nothing: NGINX then asks the next one.
        return answer, 200 if answer.line else 503

    def _keep(self, receipt: Receipt) -> None:
        self.metrics.count(receipt["source"])
        if not self.receipts.append(receipt):
            self.metrics.receipts_lost.inc()


class _Probes:
    """The views for whoever looks after the replica."""

    def __init__(self, model: Model, identity: _Identity, ladder: Ladder) -> None:
        self._model = model
        self._identity = identity
        self._ladder = ladder

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


def create_app(
    model: Model, *, version: int, arm: str, replica: str, receipts: Receipts, recents: Recents | None = None
) -> Flask:
    """Build the server of one replica.

    Args:
        model: what to recommend from.
        version: number it is known by in answers, metrics and receipts; 0 if it is in no registry.
        arm: ``stable``, ``canary`` or ``shadow``.
        replica: name of this server; several workers share it.
        receipts: where the receipt of every answer goes.
        recents: what users watched since the training; None: nothing is known of that.
    """
    app = Flask(__name__, static_folder=None)
    metrics = Metrics(app, version=version, arm=arm, timed_rule=f"{_RECOMMEND}<userid>")
    ladder = Ladder(model, recents or NoRecents(), metrics)
    ladder.warm_up()
    identity = _Identity(version=version, arm=arm, replica=replica)
    probes = _Probes(model, identity, ladder)
    views: list[Callable[[], ResponseReturnValue]] = [probes.healthz, probes.readyz, probes.version]
    for view in views:
        app.add_url_rule(
            f"/{view.__name__}", view_func=view, methods=["GET"], provide_automatic_options=False
        )
    app.register_error_handler(HTTPException, _in_plain_text)
    app.wsgi_app = Recommend(app.wsgi_app, ladder, identity, receipts, metrics)  # type: ignore[method-assign]
    return app


def _in_plain_text(error: HTTPException) -> Response:
    headers = {**dict(error.get_headers()), "Content-Type": _TEXT}
    return Response(f"{error.code} {error.name}\n", error.code, headers)


def _request_id(environ: "WSGIEnvironment") -> str:
    given: str = environ.get("HTTP_X_REQUEST_ID", "")
    return given if _SANE_REQUEST_ID.fullmatch(given) else os.urandom(16).hex()
