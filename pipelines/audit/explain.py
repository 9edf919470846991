"""From a request id to everything the answer rested on; what is not known is said, and is no error."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy.exc import SQLAlchemyError

from pipelines.audit.books import Books
from pipelines.audit.decisions import behind, phase_at
from pipelines.audit.origin import Origin, origin_of
from pipelines.errors import MarqueeError, NoReceipt
from pipelines.records.database import brief
from pipelines.records.lookup import Lost, Receipt
from pipelines.release.entries import Release

Answer = TypeVar("Answer")

LOSSES_WITHIN = timedelta(hours=24)
"""How far back losses are looked for when a receipt is not there."""
_AIRFLOW_RUN = re.compile("[a-z_]+__.+")
"""Ids that Airflow gives: ``scheduled__2026-…``, ``manual__2026-…``; other runs have no page there."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One answer and what led to it; None and empty where it is not known, with the why in ``unknown``."""

    receipt: Receipt
    """Of the answer that the viewer got."""
    attempts: tuple[Receipt, ...]
    """Earlier answers to the same request that never arrived, oldest first."""
    origin: Origin | None
    hashes: dict[str, str]
    """DVC hashes of ``batches`` and ``model``."""
    run_url: str
    """The training run in Airflow; empty when it was started from a shell."""
    became: str
    """What became of the version: the note in the registry."""
    release: Release | None
    """The release that had given this version to this viewer."""
    phase: str
    """State of that release when the answer was given."""
    unknown: tuple[str, ...]
    """What could not be found, each with the reason."""

    def as_json(self) -> dict[str, Any]:
        """Return the explanation for a program: times as ISO text."""
        return {
            "receipt": self.receipt.as_json(),
            "attempts": [attempt.as_json() for attempt in self.attempts],
            "version": self.origin and _version_json(self.origin),
            "registry": {
                "commit": self.origin and self.origin.registry_commit,
                "tag": f"v{self.receipt.version_number}" if self.hashes else None,
                "dvc": self.hashes,
                "became": self.became,
            },
            "run": self.origin and {"id": self.origin.run_id, "url": self.run_url},
            "release": self.release and _release_json(self.release, self.phase),
            "unknown": list(self.unknown),
        }


class _Search:
    """Asks one question after the other and keeps the reasons of those that stay open."""

    def __init__(self) -> None:
        self.unknown: list[str] = []

    def ask(self, what: str, question: Callable[[], Answer | None], otherwise: str) -> Answer | None:
        """Return the answer; None, with a line in ``unknown``, when there is none or its place is away."""
        try:
            if (answer := question()) is not None:
                return answer
        except (MarqueeError, SQLAlchemyError) as error:
            otherwise = brief(error)
        self.unknown.append(f"{what}: {otherwise}")
        return None


def explain(books: Books, request_id: str, *, now: datetime | None = None) -> Explanation:
    """Trace the answer to ``request_id`` back to its model, data, code and release.

    Raises:
        NoReceipt: naming where it was looked for, and what losses are on record before ``now``.
        MarqueeError: it was not found, but the database does not answer, so it may be there.
    """
    found = books.receipts.find(request_id)
    if not found:
        raise _not_found(books, request_id, now or datetime.now(UTC))
    *attempts, receipt = found
    number = receipt.version_number
    search = _Search()
    origin = search.ask(
        "training",
        lambda: origin_of(books.engine, number),
        f"version {number} has no row in the table `tracking`; it was not made by `retrain` here",
    )
    hashes = search.ask("data and artifact", lambda: books.registry.hashes(number), "")
    became = search.ask("what became of it", lambda: _became(books, number), "") if hashes else ""
    release = search.ask(
        "release",
        lambda: behind(books.ledger.opened_until(receipt.served_at), number, receipt.arm, receipt.served_at),
        f"the ledger has no release of version {number} before this answer; a replica was started by hand",
    )
    return Explanation(
        receipt=receipt,
        attempts=tuple(attempts),
        origin=origin,
        hashes=hashes or {},
        run_url=_run_url(books.airflow_url, origin.run_id) if origin else "",
        became=became or "",
        release=release,
        phase=phase_at(release, receipt.served_at) if release else "",
        unknown=tuple(search.unknown),
    )


def _became(books: Books, number: int) -> str:
    return next((info.note for info in books.registry.versions() if info.number == number), "")


def _run_url(airflow_url: str, run_id: str) -> str:
    if not _AIRFLOW_RUN.fullmatch(run_id):
        return ""
    return f"{airflow_url}/dags/retrain/runs/{quote(run_id, safe='')}"


def _version_json(origin: Origin) -> dict[str, Any]:
    times = {"data_creation": origin.data_creation.isoformat(), "trained_on": origin.trained_on.isoformat()}
    left_out = {"run_id", "registry_commit"}
    return {key: value for key, value in asdict(origin).items() if key not in left_out} | times


def _release_json(release: Release, phase: str) -> dict[str, Any]:
    times = {
        name: moment and moment.isoformat()
        for name in ("opened_at", "watch_from", "decided_at", "served_from", "ended_at")
        for moment in [getattr(release, name)]
    }
    return asdict(release) | times | {"state_when_served": phase}


def _not_found(books: Books, request_id: str, now: datetime) -> MarqueeError:
    looked = (
        f"there is no receipt for the request id {request_id!r}. Looked for in: {'; '.join(books.places)}.\n"
    )
    if trouble := books.database_trouble():
        return MarqueeError(
            f"{looked}The database does not answer, so the receipt may be there: {trouble}\n"
            "What to do: bring the database back and ask again."
        )
    return NoReceipt(
        f"{looked}{_losses(books.receipts.lost_between(now - LOSSES_WITHIN, now))}\n"
        "What to do: compare the id with the header X-Request-Id of the answer (32 hexadecimal digits)."
    )


def _losses(losses: Sequence[Lost]) -> str:
    hours = f"{LOSSES_WITHIN.total_seconds() / 3_600:g} hours"
    if not losses:
        return f"No receipt is known to be lost in the last {hours}."
    listed = "; ".join(_loss(lost) for lost in losses)
    return f"Receipts were lost in the last {hours}, this one may be among them: {listed}."


def _loss(lost: Lost) -> str:
    return f"{lost.count:,} of {lost.replica} from {lost.since:%H:%M:%S} to {lost.until:%H:%M:%S} UTC"
