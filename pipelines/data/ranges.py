"""The part of a stream that a version has seen, as few ranges of offsets, and what is missing from them.

Reads names; only :func:`lost` looks into files.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, TypedDict

from pipelines.data.batches import Batch, parse_name


class Range(TypedDict):
    """Offsets of one partition without a hole; ``last`` is inclusive."""

    topic: str
    generation: int
    partition: int
    first: int
    last: int


class Hole(Range):
    """Offsets that a version has not seen, though it has seen later ones or they were collected."""

    without: Literal["quarantined", "lost", "missing"]
    """Left out on purpose; gone from the broker before they were collected; or nobody knows: no batch held
    them when the version was trained."""
    why: str
    """With who left them out and when; empty for the others."""


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


def lost(batches: Sequence[Batch]) -> list[Range]:
    """Return what retention took before it could be collected, as the batches right behind it say.

    Raises:
        DataError: a batch is damaged.
    """
    behind_holes = {_order(each) for each in ranges(batch.name for batch in batches)}
    taken = [(_range(batch), batch.info().lost) for batch in batches if _order(_range(batch)) in behind_holes]
    return [{**where, "first": gone[0], "last": gone[1]} for where, gone in taken if gone is not None]


def seen(provenance: Mapping[str, Any]) -> list[Range | Hole]:
    """Return the ranges that a version has seen, by its ``provenance``, and the holes in them."""
    covered = ranges(provenance["batches"])
    return [*covered, *holes(covered, provenance.get("quarantined", []), provenance.get("lost", []))]


def holes(
    covered: Iterable[Range], quarantined: Iterable[Mapping[str, Any]], lost: Iterable[Range]
) -> list[Hole]:
    """Return what a version has not seen, in the order of the offsets.

    Args:
        covered: what :func:`ranges` returned.
        quarantined: as in ``provenance["quarantined"]``.
        lost: what retention took.
    """
    found = [_hole(each, "quarantined", _decided(each)) for each in quarantined]
    found += [_hole(each, "lost", "") for each in lost]
    return sorted([*found, *_missing(list(covered), found)], key=_order)


def following(covered: Iterable[Range], topic: str, generation: int) -> Mapping[int, int]:
    """Return for each partition of ``topic`` the offset after what is covered of this generation."""
    # Ranges ascend by offset: the last one of a partition stands.
    return {
        each["partition"]: each["last"] + 1
        for each in covered
        if (each["topic"], each["generation"]) == (topic, generation)
    }


def rests_on(seen: Iterable[Mapping[str, Any]], on: Range) -> int:
    """Return how many offsets of ``on`` are among ``seen``: ranges, and holes in them, of one version."""
    mine = [each for each in seen if _same_partition(each, on)]
    gaps = [(each["first"], each["last"]) for each in mine if "without" in each]
    return sum(
        last - first + 1
        for each in mine
        if "without" not in each
        for first, last in _outside(max(each["first"], on["first"]), min(each["last"], on["last"]), gaps)
    )


def _missing(covered: list[Range], known: list[Hole]) -> Iterator[Hole]:
    """Yield the holes between the ranges of a partition that nothing known explains."""
    for before, behind in pairwise(covered):
        if _same_partition(before, behind):
            explained = [(each["first"], each["last"]) for each in known if _same_partition(each, before)]
            for first, last in _outside(before["last"] + 1, behind["first"] - 1, explained):
                yield _hole({**before, "first": first, "last": last}, "missing", "")


def _outside(first: int, last: int, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the parts of ``first`` to ``last`` that are in none of ``ranges``."""
    for begin, end in sorted(ranges):
        if first <= min(last, begin - 1):
            yield first, min(last, begin - 1)
        first = max(first, end + 1)
    if first <= last:
        yield first, last


def _hole(where: Mapping[str, Any], without: Literal["quarantined", "lost", "missing"], why: str) -> Hole:
    return {
        "topic": where["topic"],
        "generation": where["generation"],
        "partition": where["partition"],
        "first": where["first"],
        "last": where["last"],
        "without": without,
        "why": why,
    }


def _decided(entry: Mapping[str, Any]) -> str:
    return f"by {entry['who']} on {entry['at'][:16].replace('T', ' ')} UTC: {entry['why']}"


def _order(where: Range) -> tuple[str, int, int, int]:
    return where["topic"], where["generation"], where["partition"], where["first"]


def _same_partition(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("topic", "generation", "partition"))


def _range(batch: Batch) -> Range:
    return {
        "topic": batch.topic,
        "generation": batch.generation,
        "partition": batch.partition,
        "first": batch.first,
        "last": batch.last,
    }


def _goes_on(covered: Range, batch: Batch) -> bool:
    return _same_partition(covered, _range(batch)) and batch.first <= covered["last"] + 1
