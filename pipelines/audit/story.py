"""An explanation in words, the same for the terminal and the page: a headline and titled lines."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipelines.audit.explain import Explanation
from pipelines.audit.figures import in_words
from pipelines.audit.origin import Origin
from pipelines.audit.replay import Replay
from pipelines.records.lookup import Receipt
from pipelines.release.entries import Release

_RUNGS = {
    "personal": "from what this user rated and watched",
    "folded-in": "a stranger to the model; from what was watched lately",
    "trending": "nothing is known of this user; what is popular of late",
    "popular": "what was popular over all time: this user had seen everything, or the model failed",
    "none": "the replica itself failed; the viewer got no list",
}

_HOLES = {
    "quarantined": "quarantined",
    "lost": "gone from the broker before they were collected",
    "missing": "no batch held them when this version was trained",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that is known, or is not."""

    label: str
    text: str
    url: str = ""
    """Where the text leads; empty: nowhere."""
    items: tuple[str, ...] = ()
    """A numbered list below the text."""
    good: bool | None = None
    """Whether it is as it should be; None: it is neither good nor bad."""


@dataclass(frozen=True, slots=True)
class Section:
    """Lines that belong together."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Story:
    """What a person reads first, and then the rest in the order of the chain."""

    headline: str
    when: str
    sections: tuple[Section, ...]


def tell(explanation: Explanation, replayed: Replay | None = None) -> Story:
    """Put an explanation, and what came of its replay, into words; sections without a line are left out."""
    sections = {
        "Answer": _answer(explanation),
        "Replay": _replay(replayed) if replayed else [],
        "Model": _model(explanation.origin, explanation.receipt.version_number),
        "Release": _release(explanation.release, explanation.phase, explanation.became),
        "Data": _data(explanation.origin, explanation.hashes),
        "Made by": _made_by(explanation),
        "Not known": [Line("", text) for text in explanation.unknown],
    }
    told = tuple(Section(title, tuple(lines)) for title, lines in sections.items() if lines)
    receipt = explanation.receipt
    return Story(_headline(receipt), moment(receipt.served_at), told)


def moment(at: datetime) -> str:
    """Return a time as people compare it: UTC, to the millisecond."""
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1_000:03} UTC"


def _headline(receipt: Receipt) -> str:
    # A viewer may ask under any name, also one that would clear the reader's terminal.
    user_id = receipt.user_id
    named = user_id if user_id and user_id.isprintable() else repr(user_id)
    return (
        f"User {named} got {len(receipt.movie_ids)} movies from version {receipt.version_number} "
        f"({receipt.arm})"
    )


def _answer(explanation: Explanation) -> list[Line]:
    receipt = explanation.receipt
    lines = [
        Line("request", receipt.request_id),
        Line("list", f"rung {receipt.source}: {_rung(receipt)}", items=receipt.movie_ids),
        Line("watched lately", ", ".join(receipt.watched) or "nothing was known"),
        Line(
            "answered", f"status {receipt.status} in {receipt.latency_ms:.2f} ms by replica {receipt.replica}"
        ),
        Line("split", _split(receipt)),
        Line("receipt", f"kept in the {receipt.kept_in}"),
    ]
    attempts = [
        Line("never arrived", f"{moment(each.served_at)}: version {each.version_number} by {each.replica}")
        for each in explanation.attempts
    ]
    return lines + attempts


def _rung(receipt: Receipt) -> str:
    return _RUNGS.get(receipt.source, "a rung that this code does not know")


def _split(receipt: Receipt) -> str:
    percent = receipt.canary_percent
    if percent is None:
        return "none was in force: the replica was asked past NGINX"
    return (
        f"{percent} % of the users went to the candidate" if percent else "everybody got the stable version"
    )


def _replay(replayed: Replay) -> list[Line]:
    if replayed.same:
        return [Line("the same list", replayed.reason, good=True)]
    verdict = "not the same list" if replayed.movie_ids else "no replay"
    return [Line(verdict, replayed.reason, items=replayed.movie_ids, good=False)]


def _model(origin: Origin | None, version: int) -> list[Line]:
    if origin is None:
        return [Line("version", str(version))]
    return [
        Line("version", f"{version}, trained on {moment(origin.trained_on)}"),
        *(Line(label, text) for label, text in in_words(origin.rmse, origin.figures or {})),
        Line("gate", origin.gate_reason or "its reason was not kept when this version was made"),
    ]


def _release(release: Release | None, phase: str, became: str) -> list[Line]:
    note = [Line("version now", became)] if became else []
    if release is None:
        return note
    return [
        Line("release", f"{release.release_id}, requested by {release.requested_by}"),
        Line("when served", phase),
        Line("decision", _decision(release)),
        *([Line("image", release.image)] if release.image else []),
        *_taken_back(release),
        *note,
    ]


def _decision(release: Release) -> str:
    if release.decided_at is None:
        return "none yet"
    became = "promoted" if release.served_from else release.state
    return f"{became} on {moment(release.decided_at)}: {release.reason}"


def _taken_back(release: Release) -> list[Line]:
    if release.reverted_because is None:
        return []
    when = f"on {moment(release.ended_at)}" if release.ended_at else "right now"
    return [Line("taken back", f"{when}: {release.reverted_because}", good=False)]


def _data(origin: Origin | None, hashes: dict[str, str]) -> list[Line]:
    lines = [Line("newest event", moment(origin.data_creation))] if origin else []
    if origin:
        ranges = [_span(each) for each in origin.offsets or ()]
        lines += ranges or [Line("stream", "its offsets were not kept when this version was made")]
    return lines + [Line(f"DVC {what}", digest) for what, digest in hashes.items()]


def _span(span: dict[str, Any]) -> Line:
    if "without" not in span:
        return Line("stream", _offsets(span))
    reason = f"{_HOLES[span['without']]} {span['why']}".rstrip()
    return Line("not seen", f"{_offsets(span)}, {reason}")


def _offsets(span: dict[str, Any]) -> str:
    where = f"{span['topic']}, partition {span['partition']}"
    again = f" (created again, generation {span['generation']})" if span["generation"] > 1 else ""
    return f"{where}: offsets {span['first']:,} to {span['last']:,}{again}"


def _made_by(explanation: Explanation) -> list[Line]:
    origin = explanation.origin
    if origin is None:
        return []
    tag = f", tag v{origin.version}" if explanation.hashes else ""
    return [
        Line("run", origin.run_id, url=explanation.run_url),
        Line("code", origin.code_commit or "its commit was not kept when this version was made"),
        Line("registry", f"commit {origin.registry_commit}{tag}"),
    ]
