"""Which decision of the ledger an answer rested on. Pure: releases and a moment in, releases out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pipelines.release.ledger import Release, State

_LET_OUT = frozenset({State.PROMOTING, State.PROMOTED})


@dataclass(frozen=True, slots=True)
class InForce:
    """What the ledger wanted viewers to get at one moment."""

    stable: Release | None
    """The promotion that gave the stable version; None: nothing served yet."""
    candidate: Release | None
    """The release whose candidate had its share of the users; None: there was none."""


def in_force(releases: Sequence[Release], at: datetime) -> InForce:
    """Return what was in force ``at``, whatever has become of it since."""
    promoted = [each for each in releases if each.state in _LET_OUT and _decided(each, at)]
    watched = [
        each for each in releases if each.watch_from and each.watch_from <= at and not _decided(each, at)
    ]
    return InForce(_newest(promoted), _newest(watched))


def behind(releases: Sequence[Release], version: int, arm: str, at: datetime) -> Release | None:
    """Return the release that had given ``version`` to viewers of ``arm`` at ``at``; None: there is none.

    A stable replica has a version because it was promoted. Between a decision and its being carried out
    the old version still answers, so a version's own releases are asked and not what was in force.
    """
    opened = [each for each in releases if each.version == version and each.opened_at <= at]
    promoted = [each for each in opened if each.state in _LET_OUT and _decided(each, at)]
    return _newest(promoted if arm == "stable" and promoted else opened)


def phase_at(release: Release, at: datetime) -> str:
    """Say in which state ``release`` was ``at``; the ledger keeps the latest one only."""
    if _decided(release, at):
        return str(release.state)
    if release.watch_from and release.watch_from <= at:
        return str(State.WATCHING)
    return str(State.OPEN)


def _decided(release: Release, at: datetime) -> bool:
    return release.decided_at is not None and release.decided_at <= at


def _newest(releases: Sequence[Release]) -> Release | None:
    return max(releases, key=lambda each: each.release_id, default=None)
