"""What DAGs hand to each other without knowing each other."""

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Asset

EVENTS = Asset("events")
"""New batches; an event carries ``{"lines": N, "batches": [name], "newest_offsets": {partition: last}}``."""

MODEL = Asset("model")
"""A model that passed the gate and has a version; an event carries ``{"version": N}``."""


def what_came(collected: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an event of ``EVENTS`` carries, of what ``collect`` has returned."""
    newest = {partition: found["last_offset"] for partition, found in collected["partitions"].items()}
    return {"lines": collected["lines"], "batches": collected["batches"], "newest_offsets": newest}
