"""Who answers whom: NGINX's split, behind one interface for one machine and for containers.

``split_clients`` hashes the user id, so a share of the *users* meets the candidate, always the same
ones. Either arm covers for the other when it is down. Doing the same twice ends in the same state.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from pipelines.errors import RouterError


@dataclass(frozen=True, slots=True)
class Split:
    """Who answers whom: ``canary_percent`` of the users meet the canary, the rest the stable replicas."""

    stable: tuple[str, ...]
    """Addresses (host:port) of the replicas that serve the stable version."""
    canary: str | None = None
    """Address of the candidate, or after a promotion of the extra replica; None: there is none."""
    canary_percent: int = 0
    """Share of the users, in percent; 0: the canary only covers for the others."""
    shadow: str | None = None
    """Address that gets a copy of what viewers ask, and answers nobody; None: there is none."""


class Router(Protocol):
    """Sends viewers to replicas."""

    def apply(self, split: Split) -> None:
        """Make ``split`` what viewers meet; returns when new connections meet it.

        Nothing at all is done when they do already. Where no NGINX runs, the next one to start follows it.

        Raises:
            RouterError: NGINX does not take it; the split is unchanged.
        """

    def current(self) -> str:
        """Return the fingerprint of the split in force; empty when NGINX does not answer.

        While two NGINX follow different splits it is the name of none.
        """


def fingerprint(split: Split) -> str:
    """Return a short text that names ``split``; NGINX answers it on ``/split``, but not to viewers."""
    shadow = f" shadow={split.shadow}" if split.shadow else ""
    return (
        f"canary={split.canary or 'none'} percent={split.canary_percent} "
        f"stable={','.join(split.stable)}{shadow}"
    )


def split_of(text: str) -> Split:
    """Return the split that a `fingerprint` names.

    Raises:
        RouterError: it names none, as when NGINX does not answer.
    """
    named = dict(part.split("=", 1) for part in text.split() if "=" in part)
    with suppress(KeyError, ValueError):
        split = Split(
            stable=tuple(named["stable"].split(",")),
            canary=None if named["canary"] == "none" else named["canary"],
            canary_percent=int(named["percent"]),
            shadow=named.get("shadow"),
        )
        if fingerprint(split) == text:
            return split
    raise RouterError(
        f"NGINX says {text!r} of its split, canary, percent and stable were wanted; is the stack up?"
    )
