"""What a line of the spool says: one answer, or so many answers of which nothing is remembered."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from pipelines.records.database import naive_utc

_Time = Annotated[AwareDatetime, AfterValidator(naive_utc)]
_Name = Annotated[str, Field(min_length=1, max_length=64)]
_LONGEST_TEXT_BYTES = 2**16 - 1
"""Of a TEXT of MySQL. The ids of a list take a third of it at most, what was watched four fifths."""


def _that_fits(text: str) -> str:
    if len(text.encode()) > _LONGEST_TEXT_BYTES:
        raise ValueError("too long for its column")
    return text


_Ids = Annotated[str, AfterValidator(_that_fits)]


class _Receipt(BaseModel):
    """One answer; the limits are the table's, so that no row can fail later and block its file."""

    model_config = ConfigDict(strict=True)

    request_id: _Name
    version_number: Annotated[int, Field(ge=0, lt=2**31)]
    user_id: Annotated[str, AfterValidator(lambda asked_for: asked_for[:255])]
    served_at: _Time
    arm: Annotated[str, Field(max_length=16)]
    replica: _Name
    source: Annotated[str, Field(max_length=16)]
    movie_ids: _Ids
    # Replicas of before this key was known write none.
    watched: _Ids = ""
    latency_ms: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    status: Annotated[int, Field(ge=0, lt=2**15)]
    canary_percent: Annotated[int, Field(ge=0, le=100)] | None


class _Loss(BaseModel):
    """What a replica writes when its disk takes receipts again."""

    model_config = ConfigDict(strict=True)

    lost: Annotated[int, Field(gt=0, lt=2**31)]
    replica: _Name
    since: _Time
    until: _Time


_Line = TypeVar("_Line", _Receipt, _Loss)


@dataclass(frozen=True, slots=True)
class Parsed:
    """Lines by what they are."""

    receipts: list[dict[str, Any]] = field(default_factory=list)
    """Rows of ``reccom``."""
    losses: list[dict[str, Any]] = field(default_factory=list)
    """Rows of ``lost_receipts``."""
    malformed: list[bytes] = field(default_factory=list)


def parse(lines: Iterable[bytes]) -> Parsed:
    """Read each line that is not empty; nothing that a line may hold raises."""
    parsed = Parsed()
    for line in filter(None, lines):
        if receipt := _read(_Receipt, line):
            parsed.receipts.append(vars(receipt))
        elif loss := _read(_Loss, line):
            parsed.losses.append(_loss_row(loss))
        else:
            parsed.malformed.append(line)
    return parsed


def _read(kind: type[_Line], line: bytes) -> _Line | None:
    try:
        return kind.model_validate_json(line)
    except (ValidationError, OverflowError):  # the latter: a time that UTC cannot express
        return None


def _loss_row(loss: _Loss) -> dict[str, Any]:
    return {"replica": loss.replica, "since": loss.since, "until": loss.until, "count": loss.lost}
