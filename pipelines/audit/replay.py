"""The same question to the same version, to see whether it gives the list that the viewer got."""

from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pipelines.errors import MarqueeError
from pipelines.model.arrays import LIST_LENGTH
from pipelines.model.artifact import load
from pipelines.model.recommender import Recommendation
from pipelines.model.registry import Registry
from pipelines.records.lookup import Receipt

LONGEST_USER_ID = 255
"""Characters of a user id that a receipt keeps."""
_GOOD = 200


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of asking again."""

    same: bool
    """Whether the line is the same byte for byte."""
    reason: str
    """Why it is not, or that it is."""
    movie_ids: tuple[str, ...]
    """What the version answers now; empty when it could not be asked."""

    def as_json(self) -> dict[str, Any]:
        """Return the replay for a program."""
        return asdict(self) | {"movie_ids": list(self.movie_ids)}


def replay(receipt: Receipt, registry: Registry, models_dir: Path) -> Replay:
    """Fetch the version of ``receipt`` from the registry and ask it again.

    Artifacts are laid out below ``models_dir`` as for a release; one that is there is used. A version that
    cannot be had or read, or is not what was trained, is a reason, not an error.
    """
    if receipt.status != _GOOD:
        return Replay(False, f"the answer was an error (status {receipt.status}); it holds no list", ())
    try:
        # Verified: an artifact that a disk has damaged would be taken for another list.
        model = load(registry.export(receipt.version_number, models_dir), verify=True)
        again = model.recommend(receipt.user_id, LIST_LENGTH, receipt.watched)
        if not again.movie_ids:
            # As the ladder does: whoever has seen every movie is shown the best of them again.
            again = model.popular("", LIST_LENGTH)
    except MarqueeError as error:
        return Replay(False, f"version {receipt.version_number} cannot be asked again: {error}", ())
    return compare(receipt, again)


def compare(receipt: Receipt, again: Recommendation) -> Replay:
    """Lay what was answered beside what is answered now; touches nothing."""
    now = tuple(again.movie_ids)
    same = ",".join(now).encode() == ",".join(receipt.movie_ids).encode()
    return Replay(same, "the lists are identical, byte for byte" if same else _why(receipt, again), now)


def _why(receipt: Receipt, again: Recommendation) -> str:
    differs = _first_difference(receipt.movie_ids, tuple(again.movie_ids))
    if len(receipt.user_id) >= LONGEST_USER_ID:
        return (
            f"the receipt keeps {LONGEST_USER_ID} characters of a user id, and this one may be cut; {differs}"
        )
    if receipt.source != again.source:
        return (
            f"the replica answered from the rung {receipt.source}, the version itself answers from "
            f"{again.source}: the replica could not use its model as it should; {differs}"
        )
    return differs


def _first_difference(answered: tuple[str, ...], now: tuple[str, ...]) -> str:
    pairs = enumerate(zip_longest(answered, now, fillvalue="nothing"), start=1)
    place, (was, is_now) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
    return f"the lists differ from place {place} on: {was} was answered, {is_now} is recomputed"
