"""Where a version comes from: one row of ``tracking`` a version, so that every answer leads to its data."""

from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from pipelines.records.database import naive_utc, upsert
from pipelines.records.tables import tracking


def record_version(
    engine: Engine,
    *,
    version_number: int,
    data_creation: datetime,
    trained_on: datetime,
    model_rmse: float,
    git_commit: str,
    run_id: str,
    figures: dict[str, Any] | None = None,
    gate_reason: str | None = None,
    offsets: list[dict[str, Any]] | None = None,
    code_commit: str | None = None,
) -> None:
    """Write the row of a version; writing it again overwrites it.

    Args:
        engine: the records database.
        version_number: N of the registry's tag ``vN``.
        data_creation: time of the newest event the version was trained on (no zone: UTC).
        trained_on: when it was trained (no zone: UTC).
        model_rmse: hold-out RMSE, rating stars.
        git_commit: registry commit, 40 hex digits.
        run_id: run that trained it.
        figures: all that its evaluation measured.
        gate_reason: what the gate said when it let the version pass.
        offsets: what it was trained on: topic, generation, partition, first and last offset (inclusive) of
            each range that has no hole; and of each hole, with ``without`` (what kind) and ``why``.
        code_commit: commit of the code that trained it.
    """
    row = {
        "version_number": version_number,
        "data_creation": naive_utc(data_creation),
        "trained_on": naive_utc(trained_on),
        "model_rmse": model_rmse,
        "git_commit": git_commit,
        "run_id": run_id,
        "figures": figures,
        "gate_reason": gate_reason,
        "offsets": offsets,
        "code_commit": code_commit,
    }
    with engine.begin() as connection:
        upsert(connection, tracking, row)
