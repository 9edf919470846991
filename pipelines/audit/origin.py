"""Where a version comes from, as the table ``tracking`` has it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, RowMapping, select

from pipelines.records.tables import tracking


@dataclass(frozen=True, slots=True)
class Origin:
    """One row of ``tracking``; what older versions did not write down is None."""

    version: int
    data_creation: datetime
    """Newest event the version was trained on, UTC."""
    trained_on: datetime
    """UTC."""
    rmse: float
    """Hold-out RMSE, rating stars."""
    registry_commit: str
    run_id: str
    figures: dict[str, Any] | None
    """All that the evaluation measured."""
    gate_reason: str | None
    offsets: list[dict[str, Any]] | None
    """Ranges of the stream: topic, generation, partition, first and last offset (inclusive); those with the
    key ``without`` are holes, as ``pipelines.data.ranges`` tells them."""
    code_commit: str | None


def origin_of(engine: Engine, version: int) -> Origin | None:
    """Return the row of ``version``; None when it was never tracked.

    Raises:
        SQLAlchemyError: the database does not answer.
    """
    with engine.connect() as connection:
        query = select(tracking).where(tracking.c.version_number == version)
        row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _origin(row)


def origins(engine: Engine) -> dict[int, Origin]:
    """Return every version that was tracked, by its number.

    Raises:
        SQLAlchemyError: the database does not answer.
    """
    with engine.connect() as connection:
        rows = connection.execute(select(tracking).order_by(tracking.c.version_number)).mappings().all()
    return {row["version_number"]: _origin(row) for row in rows}


def _origin(row: RowMapping) -> Origin:
    return Origin(
        version=row["version_number"],
        data_creation=row["data_creation"].replace(tzinfo=UTC),
        trained_on=row["trained_on"].replace(tzinfo=UTC),
        rmse=row["model_rmse"],
        registry_commit=row["git_commit"],
        run_id=row["run_id"],
        figures=row["figures"],
        gate_reason=row["gate_reason"],
        offsets=row["offsets"],
        code_commit=row["code_commit"],
    )
