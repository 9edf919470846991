"""Receipts over HTTP, for people and programs inside: never behind the NGINX that viewers reach.

Run by gunicorn: ``gunicorn "pipelines.audit.web:create_app_from_env()"``.
"""

from typing import Any

from flask import Flask, Response, jsonify, make_response, render_template, request
from werkzeug.exceptions import HTTPException

from pipelines.audit.books import Books, open_books
from pipelines.audit.explain import Explanation, explain
from pipelines.audit.replay import Replay, replay
from pipelines.audit.story import tell
from pipelines.errors import MarqueeError, NoReceipt
from pipelines.settings import read

_HTML = "text/html"
_JSON = "application/json"


def create_app(books: Books) -> Flask:
    """Return the application; it answers from ``books`` and lays out artifacts where a replay needs them."""
    app = Flask(__name__)
    app.json.sort_keys = False  # type: ignore[attr-defined]

    @app.get("/healthz")
    def healthz() -> str:
        return "ok\n"

    @app.get("/receipt/<request_id>")
    def receipt(request_id: str) -> Response:
        explanation = explain(books, request_id)
        again = request.args.get("replay", "") not in ("", "0")
        replayed = replay(explanation.receipt, books.registry, books.models_dir) if again else None
        return _answer(explanation, replayed)

    @app.errorhandler(MarqueeError)
    def not_told(error: MarqueeError) -> Response:
        return _trouble(str(error), 404 if isinstance(error, NoReceipt) else 503)

    @app.errorhandler(HTTPException)
    def not_here(error: HTTPException) -> Response:
        return _trouble(f"{error.description} Ask for /receipt/<request id>.", error.code or 500)

    return app


def create_app_from_env() -> Flask:
    """Return the application with the books that the settings name."""
    return create_app(open_books(read()))


def _answer(explanation: Explanation, replayed: Replay | None) -> Response:
    if _wants_a_page():
        told = tell(explanation, replayed)
        return make_response(render_template("receipt.html", story=told, replayed=replayed))
    body: dict[str, Any] = explanation.as_json()
    return jsonify(body | ({"replay": replayed.as_json()} if replayed else {}))


def _trouble(text: str, status: int) -> Response:
    if _wants_a_page():
        return make_response(render_template("trouble.html", text=text), status)
    return make_response(jsonify({"error": text}), status)


def _wants_a_page() -> bool:
    return request.accept_mimetypes.best_match([_JSON, _HTML], _JSON) == _HTML
