"""The plan of a release: its limits, frozen when it is opened.

A release lasts twelve hours; settings and code may change under it. What it is judged by is therefore
written into its ledger row once and read from there ever after. Each field is the setting of the same name,
and `pipelines.settings` says what it means and what it may be.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from pipelines.settings import OnDeadline, Settings


@dataclass(frozen=True, slots=True)
class Plan:
    """What a candidate gets, what it must keep to and what the watch must be able to see."""

    canary_percent: int
    window_s: float
    extension_s: float
    on_deadline: OnDeadline
    early_promotion: bool

    max_mean_ms: float
    max_p95_ratio: float
    max_p99_ratio: float
    tail_floor_ms: float
    max_error_share: float
    max_error_ratio: float
    max_short_ratio: float
    max_below_worse: float
    max_mixed_users: float

    false_abort: float
    usual_error_share: float
    see_error_share: float
    see_slow_share: float
    see_below_more: float
    instrument_tolerance: float

    guard_s: float
    preflight_requests: int
    max_preflight_errors: float
    max_preflight_p99_ms: float
    min_preflight_overlap: float

    @classmethod
    def of(cls, config: Settings) -> Self:
        """Read the limits in force now."""
        return cls(**{field.name: getattr(config, setting_of(field.name)) for field in fields(cls)})

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Read a plan back from its ledger row; a limit that is younger than the row has its default."""
        known = {field.name: _default(field.name) for field in fields(cls)}
        values = known | {name: value for name, value in row.items() if name in known}
        return cls(**values | {"on_deadline": OnDeadline(values["on_deadline"])})

    def as_row(self) -> dict[str, Any]:
        """Return what the ledger keeps."""
        return asdict(self)

    def for_guard(self) -> Self:
        """Return what a promoted version is watched by: everybody meets it, so there is no split."""
        return replace(self, canary_percent=0, window_s=self.guard_s, extension_s=0.0)


def setting_of(name: str) -> str:
    """Return the setting that the field ``name`` of a plan is read from."""
    return {"window_s": "canary_window_s", "extension_s": "canary_extension_s"}.get(name, name)


def _default(name: str) -> Any:
    return Settings.model_fields[setting_of(name)].default
