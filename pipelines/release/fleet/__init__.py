"""The replicas that answer viewers, behind one interface for one machine and for containers."""

from dataclasses import dataclass
from typing import Protocol

from pipelines.fault import Fault

STABLE_REPLICAS = ("stable-1", "stable-2")
CANARY_REPLICA = "canary"
SHADOW_REPLICA = "shadow"
"""Tried by preflights and fire drills; no viewer is ever answered by it."""


@dataclass(frozen=True, slots=True)
class Running:
    """What one replica is doing, as asked from the replica itself."""

    replica: str
    address: str
    """host:port."""
    version: int | None
    """Version it is ready to answer with; None: it is there but not ready."""
    arm: str


class Fleet(Protocol):
    """Starts, moves and removes replicas; every call may be repeated."""

    def pack(self, version: int) -> str:
        """Make what replicas of ``version`` need; return what names its bytes, empty when nothing is made.

        Raises:
            FleetError: it cannot be made.
        """

    def deploy(
        self, replica: str, version: int, *, arm: str, release: int | None = None, fault: Fault = Fault.NONE
    ) -> None:
        """Make ``replica`` answer with ``version``; returns when it does; once it does, nothing changes.

        ``release``: what it is deployed for, for whoever looks at the replica.

        Raises:
            FleetError: the replica did not become ready in time.
        """

    def remove(self, replica: str) -> None:
        """Take ``replica`` away; does nothing when there is none."""

    def running(self) -> dict[str, Running]:
        """Return the replicas that are there for viewers, by name: the shadow is none of them."""

    def address(self, replica: str) -> str:
        """Return host:port of ``replica``, whether it exists or not."""
