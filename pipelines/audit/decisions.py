"""Which decision of the ledger an answer rested on. Pure: releases and a moment in, releases out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pipelines.release.entries import Release, State

_LET_OUT = frozenset({State.PROMOTING, State.GUARDING, State.PROMOTED, State.REVERTING, State.REVERTED})


@dataclass(frozen=True, slots=True)
class InForce:
    """What the ledger wanted viewers to get at one moment."""

    stable: Release | None
    """The promotion that gave the stable version; None: nothing served yet."""
    candidate: Release | None
    """The release whose candidate had its share of the users; None: there was none."""


def in_force(releases: Sequence[Release], at: datetime) -> InForce:
    """Return what was in force ``at``, whatever has become of it since."""
    promoted = [
        each
        for each in releases
        if each.state in _LET_OUT and _decided(each, at) and not _taken_back(each, at)
    ]
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
    if not _decided(release, at):
        watched = release.watch_from and release.watch_from <= at
        return str(State.WATCHING if watched else State.OPEN)
    if _ended(release, at) or release.state not in _LET_OUT:
        return str(release.state)
    guarded = release.served_from and release.served_from <= at
    return str(State.GUARDING if guarded else State.PROMOTING)


def _decided(release: Release, at: datetime) -> bool:
    return release.decided_at is not None and release.decided_at <= at


def _taken_back(release: Release, at: datetime) -> bool:
    return release.state is State.REVERTED and _ended(release, at)


def _ended(release: Release, at: datetime) -> bool:
    return release.ended_at is not None and release.ended_at <= at


def _newest(releases: Sequence[Release]) -> Release | None:
    return max(releases, key=lambda each: each.release_id, default=None)
