"""Known-bad replicas: the production server with one thing wrong, to try what is there to catch it.

What ``serving/gunicorn.conf.py`` starts when MARQUEE_FAULT names a fault. Reads, beside what ``serving.wsgi``
does, MARQUEE_FAULT (one of `pipelines.fault.Fault`) and MARQUEE_FAULT_DELAY_MS, for the slow one (700).
Nothing in ``serving`` itself can be made to fail.
"""

import os
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from flask import Flask

import serving.wsgi
from pipelines.errors import SettingsError
from pipelines.fault import Fault
from serving.app import Answers, Recommend
from serving.ladder import POPULAR, Answer

DELAY_MS = 700
ONE_FAILS_OF = 10
SHORT_LENGTH = 3

_STRANGER = ""
_Bend = Callable[[Answers, str], Answer]
"""What of an answer to a user is changed."""


def create_app_from_env() -> Flask:
    """Build the replica that the environment describes, with its fault.

    Raises:
        SettingsError: there is no such fault, or the delay is not a number of milliseconds.
    """
    named, delay_ms = os.environ.get("MARQUEE_FAULT"), os.environ.get("MARQUEE_FAULT_DELAY_MS", str(DELAY_MS))
    if named not in set(Fault):
        raise SettingsError(f"MARQUEE_FAULT={named!r}: wanted one of {', '.join(Fault)}")
    if not delay_ms.isdecimal():
        raise SettingsError(f"MARQUEE_FAULT_DELAY_MS={delay_ms!r}: wanted milliseconds, such as 700")
    return broken(serving.wsgi.create_app_from_env(), Fault(named), delay_s=int(delay_ms) / 1_000)


def broken(app: Flask, fault: Fault, *, delay_s: float = DELAY_MS / 1_000) -> Flask:
    """Give every recommendation of ``app`` the ``fault``, as its metrics and receipts see it."""
    front: Any = app.wsgi_app
    if fault is Fault.STALE:
        app.wsgi_app = _stale(front)  # type: ignore[method-assign]
        return app
    numbers = count(1)
    bends: dict[Fault, _Bend] = {
        Fault.SLOW: lambda answers, user_id: _slow(answers, user_id, delay_s),
        Fault.ERRORING: lambda answers, user_id: _erroring(answers, user_id, next(numbers)),
        Fault.POPULAR: _popular,
        Fault.WRONG_IDS: _wrong_ids,
        Fault.SHORT: _short,
    }
    if fault in bends:
        front.answers = _Bent(front.answers, bends[fault])
    return app


class _Bent:
    """Answers as others do, but for one thing."""

    def __init__(self, answers: Answers, bend: _Bend) -> None:
        self._answers = answers
        self._bend = bend

    def answer(self, user_id: str) -> Answer:
        return self._bend(self._answers, user_id)


def _slow(answers: Answers, user_id: str, delay_s: float) -> Answer:
    time.sleep(delay_s)
    return answers.answer(user_id)


def _erroring(answers: Answers, user_id: str, number: int) -> Answer:
    answer = answers.answer(user_id)
    # An empty list becomes a 503.
    return answer._replace(line="") if number % ONE_FAILS_OF == 0 else answer


def _popular(answers: Answers, user_id: str) -> Answer:
    """Give everybody what a stranger gets, seen or not."""
    return answers.answer(_STRANGER)._replace(source=POPULAR)


def _wrong_ids(answers: Answers, user_id: str) -> Answer:
    answer = answers.answer(user_id)
    wrong = (f"no+such+movie+{place}+1900" for place, _ in enumerate(answer.line.split(",")))
    return answer._replace(line=",".join(wrong))


def _short(answers: Answers, user_id: str) -> Answer:
    answer = answers.answer(user_id)
    return answer._replace(line=",".join(answer.line.split(",")[:SHORT_LENGTH]))


def _stale(front: Recommend) -> Recommend:
    """Answer as the version before would; the probes go on to say the right one."""
    before = front.identity | {"version": front.identity["version"] - 1}
    return Recommend(front.rest, front.answers, before, front.receipts, front.metrics)
