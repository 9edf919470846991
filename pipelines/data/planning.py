"""Where collecting goes on: bounds of the stream and names of the batches in, a span of offsets out.

A stream of the same name but another identity (a topic created again) begins a new generation; so does a
partition that ends before what was collected from it. Batches of earlier generations stay and stay in use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.data.batches import Batch


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets of one partition to collect: ``start`` up to, not including, ``stop``."""

    partition: int
    generation: int
    start: int
    stop: int
    note: str = ""
    """What is unusual about it; empty: nothing."""
    lost: tuple[int, int] | None = None
    """First and last offset (inclusive) that retention took before they were read."""


def namesake(name: str, identity: str, known: Mapping[tuple[str, int], str]) -> str:
    """Return a note when a stream that is new by its name begins as another one does; else nothing.

    ``known``: identity of each (name, generation) that was collected.
    """
    others = sorted(other for (other, _), theirs in known.items() if theirs == identity)
    if not others:
        return ""
    return (
        f"{name} begins with the same line as {others[0]}, which was collected before: were these lines "
        "collected under that name? Then they are there twice; take one of the two out with "
        f"`python -m pipelines quarantine --topic {name}`, and keep the name of a log that is moved"
    )


def plan(
    partition: int,
    bounds: tuple[int, int],
    identity: str,
    batches: Sequence[Batch],
    identities: Mapping[int, str],
) -> Span:
    """Decide what to collect of a partition; touches nothing.

    Args:
        partition: the partition.
        bounds: first offset that is held and one past the last.
        identity: of the stream as it is now.
        batches: everything collected from streams of this name.
        identities: identity of each generation among them.
    """
    held, end = bounds
    newest = max(identities, default=0)
    alike = [generation for generation, known in identities.items() if known == identity]
    mine = [batch for batch in batches if batch.partition == partition and batch.generation in alike]
    kept = "what was collected before is kept"
    if not mine:
        note = f"partition {partition} is of another stream now ({identity}); read from its start, {kept}"
        note = note if identities and not alike else ""
        return Span(partition, max(alike, default=newest + 1), held, end, note)
    last = max(mine)
    following = last.last + 1
    if end < following:
        note = f"partition {partition} ends at {end} but was read to {following}; read from its start, {kept}"
        return Span(partition, newest + 1, held, end, note)
    if held > following:
        note = (
            f"partition {partition} lost the offsets {following} to {held - 1} to retention before they were "
            "read; collect more often, or keep events longer"
        )
        return Span(partition, last.generation, held, end, note, (following, held - 1))
    return Span(partition, last.generation, following, end)
