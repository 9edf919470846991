"""The part of a stream that batches cover, as few ranges of offsets. Reads names, no files."""

from collections.abc import Iterable, Mapping
from typing import TypedDict

from pipelines.data.batches import Batch, parse_name


class Range(TypedDict):
    """Offsets of one partition without a hole; ``last`` is inclusive."""

    topic: str
    generation: int
    partition: int
    first: int
    last: int


def ranges(names: Iterable[str]) -> list[Range]:
    """Return what the named batches cover, ranges that touch made one, in the order of the batches.

    A name that is no batch's (a file of ratings) covers nothing of a stream.
    """
    merged: list[Range] = []
    for batch in sorted(batch for name in names if (batch := parse_name(name))):
        if merged and _goes_on(merged[-1], batch):
            merged[-1]["last"] = max(merged[-1]["last"], batch.last)
        else:
            merged.append(_range(batch))
    return merged


def following(covered: Iterable[Range], topic: str) -> Mapping[int, int]:
    """Return for each partition of ``topic`` the offset after what is covered of its newest generation."""
    # Ranges ascend by generation and offset: the last one of a partition stands.
    return {each["partition"]: each["last"] + 1 for each in covered if each["topic"] == topic}


def _range(batch: Batch) -> Range:
    return {
        "topic": batch.topic,
        "generation": batch.generation,
        "partition": batch.partition,
        "first": batch.first,
        "last": batch.last,
    }


def _goes_on(covered: Range, batch: Batch) -> bool:
    same = (covered["topic"], covered["generation"], covered["partition"]) == (
        batch.topic,
        batch.generation,
        batch.partition,
    )
    return same and batch.first <= covered["last"] + 1
