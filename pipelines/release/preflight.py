"""Try a candidate before any viewer meets it: it answers the latest real requests as the shadow replica.

What came of it is judged in :mod:`pipelines.release.findings`, against the plan and against what the stable
version had answered to the same requests.
"""

import http.client
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import quote

from sqlalchemy import Engine, select

from pipelines.errors import ModelError
from pipelines.model.artifact import load
from pipelines.model.recommender import Model
from pipelines.records.tables import reccom
from pipelines.release.entries import Release
from pipelines.release.figures import GOOD
from pipelines.release.findings import MOST_S, Answer, Findings, Request, findings_of, told, trouble
from pipelines.release.plan import Plan
from pipelines.release.shadow import shadowing
from pipelines.release.world import World

_STRANGERS = ("0", "999999", "no-such-user", "ünbekannt")
_KNOWN_USERS = 200
_AT_A_TIME = 4
_PATIENCE_S = 10.0


class Preflight(NamedTuple):
    """How it went."""

    trouble: str
    """Why no viewer shall meet the candidate; empty: nothing speaks against it."""
    told: str
    """One line for people, with the figures."""


def preflight(world: World, release: Release) -> Preflight:
    """Have the candidate, exported into ``world.models_dir``, answer the latest requests as the shadow.

    Takes ``world.converging()`` for moments only; it must not be held.

    Raises:
        FleetError: it did not become ready.
        RouterError, SQLAlchemyError: something else is broken; that says nothing of the candidate.
    """
    try:
        model = load(world.models_dir / f"v{release.version}")
    except ModelError as error:
        return Preflight(str(error), "")
    if model.version != release.version:
        return Preflight(f"its artifact says version {model.version}, {release.version} was wanted", "")
    with shadowing(world, release.version) as address:
        findings = tried(address, model, release.plan, requests_of(world, model, release.plan))
    return Preflight(trouble(release.plan, findings), told(findings))


def requests_of(world: World, model: Model, plan: Plan) -> list[Request]:
    """Return what viewers asked of the stable version last; of the first version, what they might ask.

    A few strangers ask in any case.
    """
    strangers = [Request(user_id) for user_id in _STRANGERS]
    stable = world.ledger.stable()
    if stable and (found := _latest(world.records, stable, plan.preflight_requests)):
        return [*found, *strangers]
    step = max(1, model.n_users // _KNOWN_USERS)
    return [*(Request(model.user_id(row)) for row in range(0, model.n_users, step)), *strangers]


def _latest(records: Engine, version: int, most: int) -> list[Request]:
    column = reccom.c
    query = (
        select(column.user_id, column.movie_ids, column.watched, column.source)
        .where(column.version_number == version, column.status == GOOD, column.canary_percent.is_not(None))
        .order_by(column.served_at.desc())
        .limit(most)
    )
    with records.connect() as connection:
        return [
            Request(row.user_id, _ids(row.movie_ids), _ids(row.watched), row.source)
            for row in connection.execute(query)
        ]


def tried(address: str, model: Model, plan: Plan, requests: Sequence[Request]) -> Findings:
    """Have the replica at ``address`` (host:port) answer ``requests``, a few at a time.

    Ends early when the limits of ``plan`` are broken whatever else comes, and after `MOST_S`.
    """
    began_s = time.monotonic()
    waiting, answers = deque(requests), list[Answer]()
    failed, slow = list[Answer](), list[Answer]()

    def over() -> bool:
        return (
            len(failed) > plan.max_preflight_errors * len(requests)
            or len(slow) > 0.01 * len(requests)
            or time.monotonic() > began_s + MOST_S
        )

    def ask_on() -> None:
        connection = http.client.HTTPConnection(address, timeout=_PATIENCE_S)
        while waiting and not over():
            try:
                answer = _ask(connection, waiting.popleft())
            except IndexError:
                break  # another thread took the last one
            if answer.status == GOOD and answer.took_ms > plan.max_preflight_p99_ms:
                # A busy machine is slow once, a slow candidate again.
                again = _ask(connection, answer.request)
                answer = replace(answer, took_ms=min(answer.took_ms, again.took_ms))
            answers.append(answer)
            if answer.status != GOOD:
                failed.append(answer)
            if answer.took_ms > plan.max_preflight_p99_ms:
                slow.append(answer)
        connection.close()

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        for done in [pool.submit(ask_on) for _ in range(_AT_A_TIME)]:
            done.result()
    return findings_of(model, answers, requests=len(requests), seconds=time.monotonic() - began_s)


def _ask(connection: http.client.HTTPConnection, request: Request) -> Answer:
    began_s = time.perf_counter()
    try:
        connection.request("GET", f"/recommend/{quote(request.user_id, safe='')}")
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
    except (http.client.HTTPException, OSError):
        connection.close()
        return Answer(request, 0, _ms_since(began_s))
    headers = response.headers
    return Answer(
        request,
        response.status,
        _ms_since(began_s),
        version=headers.get("X-Marquee-Version", ""),
        source=headers.get("X-Marquee-Source", ""),
        movie_ids=_ids(body.strip()),
    )


def _ids(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _ms_since(began_s: float) -> float:
    return (time.perf_counter() - began_s) * 1_000.0
