"""What rests on a range of offsets: batches, versions, releases, and the answers that were given to whom."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from pipelines.audit.books import Books
from pipelines.audit.origin import origins
from pipelines.data.batches import list_batches
from pipelines.data.quarantine import Span, overlaps, read, wholly
from pipelines.data.ranges import Range, rests_on, seen
from pipelines.errors import MarqueeError
from pipelines.records.database import brief
from pipelines.records.lookup import Reach
from pipelines.release.entries import Release

Answer = TypeVar("Answer")

_NOBODY = Reach(0, 0, None, None)


@dataclass(frozen=True, slots=True)
class Touched:
    """A version that was trained on some of the range."""

    version: int
    offsets: int
    """How many offsets of the range it was trained on."""
    became: str
    """The note in the registry; empty: none."""
    serves: bool
    """Whether viewers get it now."""
    releases: tuple[Release, ...]
    """Oldest first."""
    reach: Reach


@dataclass(frozen=True, slots=True)
class Radius:
    """How far a range has come."""

    span: Span
    quarantined: bool
    """Whether all of it is kept from the trainings to come."""
    batches: tuple[str, ...]
    """Those in the folder that hold some of it."""
    versions: tuple[Touched, ...]
    reach: Reach
    """Of all these versions together."""
    clean: int | None
    """Newest version that is known not to rest on it; None: there is none."""
    unknown: tuple[str, ...]
    """What could not be found out, each with the reason."""

    def as_json(self) -> dict[str, Any]:
        """Return it for a program: times as ISO text."""
        return {
            **asdict(self.span),
            "quarantined": self.quarantined,
            "batches": list(self.batches),
            "versions": [_version_json(touched) for touched in self.versions],
            **_reach_json(self.reach),
            "clean": self.clean,
            "unknown": list(self.unknown),
        }


def blast_radius(books: Books, batches_dir: Path, span: Span) -> Radius:
    """Follow ``span`` from its batches to the viewers; what does not answer is told in ``unknown``.

    Raises:
        DataError: the quarantine, or a file of the archive, is damaged.
    """
    unknown: list[str] = []
    notes = _ask(lambda: {info.number: info.note for info in books.registry.versions()}, unknown) or {}
    stable = _ask(books.ledger.stable, unknown)
    releases = _ask(lambda: books.ledger.opened_until(datetime.now(UTC)), unknown) or []
    offsets = dict(_trained_on(books, span, sorted(notes), unknown))
    together, reached = books.receipts.reach([number for number, count in offsets.items() if count])
    return Radius(
        span=span,
        quarantined=wholly(span, read(batches_dir)),
        batches=tuple(batch.name for batch in list_batches(batches_dir) if overlaps(batch, span)),
        versions=tuple(
            Touched(
                version=number,
                offsets=count,
                became=notes.get(number, ""),
                serves=number == stable,
                releases=tuple(release for release in reversed(releases) if release.version == number),
                reach=reached.get(number, _NOBODY),
            )
            for number, count in offsets.items()
            if count
        ),
        reach=together,
        clean=max((number for number in notes if offsets.get(number) == 0), default=None),
        unknown=tuple(dict.fromkeys(unknown)),
    )


def _trained_on(
    books: Books, span: Span, registered: list[int], unknown: list[str]
) -> Iterator[tuple[int, int]]:
    """Yield each version of which that is known, and how many offsets of ``span`` it was trained on."""
    kept = _ask(lambda: origins(books.engine), unknown) or {}
    where: Range = {
        "topic": span.topic,
        "generation": span.generation,
        "partition": span.partition,
        "first": span.first,
        "last": span.last,
    }
    for number in sorted({*registered, *kept}):
        known = kept[number].offsets if number in kept else None
        # Older code did not write offsets down, and a table may be lost; the artifact knows.
        if known is None:
            known = _ask(partial(_of_artifact, books, number), unknown)
        if known is not None:
            yield number, rests_on(known, where)


def _of_artifact(books: Books, version: int) -> list[dict[str, Any]]:
    provenance = books.registry.meta(version, books.models_dir).get("provenance", {})
    return [dict(each) for each in seen({"batches": [], **provenance})]


def _ask(question: Callable[[], Answer], unknown: list[str]) -> Answer | None:
    """Return the answer; None, with the reason among ``unknown``, when the place does not answer."""
    try:
        return question()
    except (MarqueeError, SQLAlchemyError) as error:
        unknown.append(brief(error))
        return None


def _version_json(touched: Touched) -> dict[str, Any]:
    return {
        "version": touched.version,
        "offsets": touched.offsets,
        "became": touched.became,
        "serves": touched.serves,
        "releases": [_release_json(release) for release in touched.releases],
        **_reach_json(touched.reach),
    }


def _release_json(release: Release) -> dict[str, Any]:
    return {
        "release": release.release_id,
        "state": release.state,
        "opened_at": release.opened_at.isoformat(),
        "decided_at": release.decided_at and release.decided_at.isoformat(),
        "reason": release.reason,
        "reverted_because": release.reverted_because,
    }


def _reach_json(reach: Reach) -> dict[str, Any]:
    return {
        "answers": reach.answers,
        "users": reach.users,
        "first_answer": reach.first and reach.first.isoformat(),
        "last_answer": reach.last and reach.last.isoformat(),
    }
