"""What DAGs hand to each other without knowing each other."""

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Asset

MODEL = Asset("model")
"""A model that passed the gate and has a version; an event carries ``{"version": N}``."""


def newest_version(events: Mapping[Asset, Sequence[Any]]) -> int | None:
    """Return the highest version that the events which started a run carry; None for a run by hand."""
    return max((int(event.extra["version"]) for event in events.get(MODEL, ())), default=None)
