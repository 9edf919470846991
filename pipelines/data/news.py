"""News of the stream: that it became another one, or lost what nobody had collected. Told once.

A batch behind a gap keeps its range, and from then on nothing is unusual any more. Until there is one, every
look finds the same gap again: what was told stands in a file.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines import alerts
from pipelines.alerts import Alert, Announce
from pipelines.data.batches import Batch, list_batches
from pipelines.data.planning import Span

Told = Mapping[str, Sequence[str]]
"""Notes that were told of each topic at the last look."""


def tell(topic: str, spans: Sequence[Span], folder: Path, announce: Announce) -> None:
    """Announce what is unusual about ``spans`` and was not at the last look; ``folder`` is the batches'."""
    path = folder / "told.json"
    told = _read(path)
    for alert in news(topic, spans, told.get(topic, ()), list_batches(folder)):
        announce(alert)
    now = {**told, topic: [span.note for span in spans if span.note]}
    if now[topic] != told.get(topic, []):
        # Last: killed before it, the same is told twice, and never not at all.
        fresh = path.with_name(f".{path.name}.tmp")
        fresh.write_text(json.dumps(now, indent=2) + "\n")
        fresh.replace(path)


def news(topic: str, spans: Sequence[Span], told: Sequence[str], batches: Sequence[Batch]) -> list[Alert]:
    """Return the alerts about spans that are unusual and whose notes were not ``told``."""
    new = [span for span in spans if span.note and span.note not in told]
    gaps = [(span, *span.lost) for span in new if span.lost]
    changes = [span.note for span in new if not span.lost]
    found = [alerts.stream_changed(changes)] if changes else []
    if gaps:
        count = sum(last - first + 1 for _, first, last in gaps)
        lines = [_line(span, first, last, _before(topic, span, batches)) for span, first, last in gaps]
        found.append(alerts.events_lost(count, topic, lines))
    return found


def _read(path: Path) -> Told:
    """Return what was told; nothing when the file is not there, or torn: better twice than never."""
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def _before(topic: str, span: Span, batches: Sequence[Batch]) -> Batch:
    """Return the batch right before a gap: there is one, or nothing would be known to be lost."""
    where = (topic, span.generation, span.partition)
    return max(batch for batch in batches if (batch.topic, batch.generation, batch.partition) == where)


def _line(span: Span, first: int, last: int, before: Batch) -> str:
    return (
        f"partition {span.partition}: offsets {first:,} to {last:,}, {last - first + 1:,} lines at most; "
        f"what comes before them was collected on {before.info().collected_at:%Y-%m-%d %H:%M} UTC"
    )
