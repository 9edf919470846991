"""The slow replica of the demo: the production server, and every recommendation waits a while.

Nothing in ``serving`` can be made slow; the demo has the canary started from here instead.
"""

import os
import time
from typing import Any

from flask import Flask

import serving.wsgi
from pipelines.errors import SettingsError
from serving.app import Answers
from serving.ladder import Answer

DELAY_MS = 700
"""Delay of each answer unless MARQUEE_LOCAL_DELAY_MS says otherwise."""


def create_app_from_env() -> Flask:
    """Build the replica that the environment describes, slowed down by MARQUEE_LOCAL_DELAY_MS.

    Raises:
        SettingsError: the delay is not a number of milliseconds.
    """
    given = os.environ.get("MARQUEE_LOCAL_DELAY_MS", str(DELAY_MS))
    if not given.isdecimal():
        raise SettingsError(
            f"MARQUEE_LOCAL_DELAY_MS={given!r}: a number of milliseconds was wanted, such as 700"
        )
    return slow_down(serving.wsgi.create_app_from_env(), delay_s=int(given) / 1_000)


def slow_down(app: Flask, *, delay_s: float) -> Flask:
    """Make every recommendation of ``app`` take ``delay_s`` longer, as its metrics and receipts see it."""
    recommend: Any = app.wsgi_app
    recommend.answers = _Dawdling(recommend.answers, delay_s)
    return app


class _Dawdling:
    """Answers as others do, after a while."""

    def __init__(self, answers: Answers, delay_s: float) -> None:
        self._answers = answers
        self._delay_s = delay_s

    def answer(self, user_id: str) -> Answer:
        time.sleep(self._delay_s)
        return self._answers.answer(user_id)
