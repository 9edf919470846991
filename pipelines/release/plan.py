"""The plan of a release: its limits, frozen when it is opened.

A release lasts twelve hours; settings and code may change under it. What it is judged by is therefore
written into its ledger row once and read from there ever after.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

from pipelines.settings import Settings


@dataclass(frozen=True, slots=True)
class Plan:
    """What a candidate gets and what it must keep to."""

    canary_percent: int
    """Share of the users, in percent."""
    window_s: float
    """How long the candidate is watched."""
    extension_s: float
    """How much longer an unmeasured candidate is held before a person is asked."""
    max_mean_ms: float
    """The mean response time of its good recommendation answers must be below this."""
    min_requests: int
    """Fewest good answers on which a verdict rests."""
    max_error_share: float
    """Largest share of failed answers, 0 to 1."""

    @classmethod
    def of(cls, config: Settings) -> Self:
        """Read the limits in force now."""
        return cls(
            canary_percent=config.canary_percent,
            window_s=config.canary_window_s,
            extension_s=config.canary_extension_s,
            max_mean_ms=config.max_mean_ms,
            min_requests=config.min_requests,
            max_error_share=config.max_error_share,
        )

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Read a plan back from its ledger row."""
        return cls(**row)

    def as_row(self) -> dict[str, Any]:
        """Return what the ledger keeps."""
        return asdict(self)
