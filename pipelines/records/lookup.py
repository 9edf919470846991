"""Receipts found again: of one request, of a user, of a version, of a time."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import ColumnElement, Engine, func, select

from pipelines.records import days
from pipelines.records.database import naive_utc
from pipelines.records.places import Places, Span
from pipelines.records.tables import lost_receipts, reccom
from pipelines.records.tallies import Tally, counted, counting, single, tallied

Place = Literal["database", "archive", "spool"]

_ORDER = ("served_at", "request_id", "replica")
_APART = timedelta(days=1)
"""More than ever lies between the attempts of a request; spares opening each day of the archive."""

_SHARE = ("version_number", "arm", "canary_percent")
_USER = pa.schema([days.SCHEMA.field("user_id")])
_USERS = pa.schema([days.SCHEMA.field(name) for name in ("version_number", "user_id")])


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is remembered of one answer."""

    request_id: str
    version_number: int
    user_id: str
    """As asked for, cut to 255 characters."""
    served_at: datetime
    """UTC, aware."""
    arm: str
    replica: str
    source: str
    """Rung of the ladder."""
    movie_ids: tuple[str, ...]
    """Best first, as answered."""
    watched: tuple[str, ...]
    """What was folded in, newest first."""
    latency_ms: float
    status: int
    canary_percent: int | None
    """Split in force; None: asked past NGINX."""
    kept_in: Place

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold: times in ISO 8601, lists for tuples."""
        return asdict(self) | {
            "served_at": self.served_at.isoformat(),
            "movie_ids": list(self.movie_ids),
            "watched": list(self.watched),
        }


@dataclass(frozen=True, slots=True)
class VersionShare:
    """What one version answered on one arm under one split, in a span of time."""

    version: int
    arm: str
    canary_percent: int | None
    answers: int
    """Receipts; a request that NGINX had to ask twice may have left two."""
    users: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class VersionUse:
    """All that a version ever answered."""

    version: int
    answers: int
    users: int
    first: datetime | None
    """None: it never answered."""
    last: datetime | None
    by_day: list[tuple[date, int]]
    """Answers of each UTC day that has any, oldest first."""
    by_source: dict[str, int]
    """Answers of each rung of the ladder."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Whom a version, or several together, ever answered."""

    answers: int
    users: int
    """A user who was answered by several of the versions counts once."""
    first: datetime | None
    """None: nobody was answered."""
    last: datetime | None


@dataclass(frozen=True, slots=True)
class Lost:
    """Answers that left no receipt, because the disk of a replica did not take it."""

    replica: str
    since: datetime
    until: datetime
    count: int


class Receipts:
    """Looks for receipts wherever they are kept.

    A span is from ``since`` until before ``until``; times without a zone are UTC.

    All look-ups raise `DataError` when a file of the archive is damaged.
    """

    def __init__(self, engine: Engine, archive_dir: Path, spool_dir: Path) -> None:
        """Look in the database behind ``engine`` and in two folders, which need not exist."""
        self._places = Places(engine, archive_dir, spool_dir)

    def find(self, request_id: str) -> list[Receipt]:
        """Return the receipts of a request, oldest first; the last is the answer that the viewer got."""
        spooled = self._places.spooled(lambda row: row["request_id"] == request_id, holding=request_id)
        stored = self._places.ask(select(reccom).where(reccom.c.request_id == request_id))
        around = _around([row["served_at"] for row in (*spooled, *stored)])
        archived = self._places.archived("request_id", request_id, self._places.days(around))
        found = _distinct(database=stored, archive=archived, spool=spooled)
        return sorted(found, key=_place_in_time)

    def of_user(self, user_id: str, *, since: datetime, until: datetime, limit: int) -> list[Receipt]:
        """Return the newest ``limit`` receipts of a user in the span, newest first."""
        user_id, span = user_id[:255], Span(naive_utc(since), naive_utc(until))
        spooled = self._places.spooled(lambda row: row["user_id"] == user_id, holding=user_id)
        # The index finds them; but MySQL takes "3" and "3 " for equal.
        named = (reccom.c.user_id == user_id, reccom.c.user_id.endswith(user_id, autoescape=True))
        query = select(reccom).where(*named, *span.condition)
        newest = [reccom.c[name].desc() for name in _ORDER]
        stored = self._places.ask(query.order_by(*newest).limit(limit))
        archived = self._places.archived("user_id", user_id, self._places.days(span))
        found = _distinct(database=stored, archive=archived, spool=spooled)
        wanted = (one for one in found if naive_utc(one.served_at) in span)
        return sorted(wanted, key=_place_in_time, reverse=True)[:limit]

    def versions_between(self, since: datetime, until: datetime) -> list[VersionShare]:
        """Return who answered in the span, by version, arm and split."""
        span, by = Span(naive_utc(since), naive_utc(until)), [*_SHARE, "user_id"]
        groups = [single(row) for row in self._places.only_spooled(lambda row: row["served_at"] in span)]
        groups += self._places.ask(counting([reccom.c[name] for name in by], *span.condition))
        for _, receipts in self._places.only_archived(self._places.days(span), by, span.expression):
            groups += counted(receipts, by)
        shares = (_share(share, tally) for share, tally in tallied(groups, _SHARE).items())
        return sorted(shares, key=lambda share: (share.version, share.arm, share.first, share.users))

    def of_version(self, version: int) -> VersionUse:
        """Return all that a version ever answered."""
        spooled = self._places.only_spooled(lambda row: row["version_number"] == version)
        tally = Tally()
        self._count_stored(tally, reccom.c.version_number == version)
        self._count_archived(tally, pc.field("version_number") == version)
        for row in spooled:
            tally.add(single(row))
        return _use(version, tally)

    def reach(self, versions: Collection[int]) -> tuple[Reach, dict[int, Reach]]:
        """Return whom ``versions`` ever answered: together, and each that ever did."""
        number, names = reccom.c.version_number, _USERS.names
        spooled = self._places.only_spooled(lambda row: row["version_number"] in versions)
        groups = [single(row) for row in spooled]
        groups += self._places.ask(counting([number], number.in_(versions)))
        elsewhere = [pa.Table.from_pylist([{name: row[name] for name in names} for row in spooled], _USERS)]
        wanted = pc.field("version_number").isin(list(versions))
        for _, receipts in self._places.only_archived(self._places.days(), names, wanted):
            groups += counted(receipts, ["version_number"])
            elsewhere.append(receipts.select(names).cast(_USERS))
        others = pa.concat_tables(elsewhere).group_by(names).aggregate([])
        tallies = {each: tally for (each,), tally in tallied(groups, ["version_number"]).items()}
        together = Tally()
        for group in groups:
            together.add(group)
        users = {each: self._users([each], others) for each in sorted(tallies)}
        everybody = self._users(list(users), others) if len(users) > 1 else sum(users.values())
        return _reached(together, everybody), {each: _reached(tallies[each], users[each]) for each in users}

    def _users(self, versions: Sequence[int], others: pa.Table) -> int:
        """Count the users of ``versions``, in the database and among ``others``."""
        condition = reccom.c.version_number.in_(versions)
        users = others.filter(pc.field("version_number").isin(versions))["user_id"].unique()
        if not len(users):
            # Nobody need be fetched to be counted, and there may be a million.
            count = select(func.count(reccom.c.user_id.distinct()).label("users")).where(condition)
            return sum(row["users"] for row in self._places.ask(count))
        stored = self._places.table(select(reccom.c.user_id).where(condition).distinct(), _USER)
        return len(pa.chunked_array([*stored["user_id"].chunks, users]).unique())

    def lost_between(self, since: datetime, until: datetime) -> list[Lost]:
        """Return the losses that touch the span, oldest first."""
        touches = (
            lost_receipts.c.since < naive_utc(until),
            lost_receipts.c.until >= naive_utc(since),
        )
        rows = self._places.ask(select(lost_receipts).where(*touches).order_by(lost_receipts.c.since))
        return [
            Lost(row["replica"], _aware(row["since"]), _aware(row["until"]), row["count"]) for row in rows
        ]

    def _count_stored(self, tally: Tally, condition: ColumnElement[bool]) -> None:
        day = func.date(reccom.c.served_at).label("day")
        for group in self._places.ask(counting([reccom.c.source, day], condition)):
            tally.add(group)
        users = self._places.ask(select(reccom.c.user_id).distinct().where(condition))
        tally.users.update(row["user_id"] for row in users)

    def _count_archived(self, tally: Tally, condition: pc.Expression) -> None:
        columns = ["source", "user_id"]
        for day, receipts in self._places.only_archived(self._places.days(), columns, condition):
            for group in counted(receipts, ["source"]):
                tally.add({**group, "day": day})
            tally.users.update(receipts["user_id"].unique().to_pylist())


def _distinct(**rows: Sequence[Mapping[str, Any]]) -> list[Receipt]:
    """Return what was found in each place; a receipt that was met twice, as being in the first of them."""
    found: dict[Any, Receipt] = {}
    for place in get_args(Place):
        for row in rows[place]:
            found.setdefault(days.key(row), _receipt(row, place))
    return list(found.values())


def _around(times: Sequence[datetime]) -> Span | None:
    """Return where else receipts of the same request may be; None: anywhere."""
    return Span(min(times) - _APART, max(times) + _APART) if times else None


def _receipt(row: Mapping[str, Any], kept_in: Place) -> Receipt:
    lists = {name: tuple(filter(None, row[name].split(","))) for name in ("movie_ids", "watched")}
    return Receipt(**{**row, **lists, "served_at": _aware(row["served_at"])}, kept_in=kept_in)


def _share(share: tuple[int, str, int | None], tally: Tally) -> VersionShare:
    assert tally.first
    assert tally.last
    return VersionShare(
        *share,
        answers=tally.answers,
        users=len(tally.users),
        first=_aware(tally.first),
        last=_aware(tally.last),
    )


def _use(version: int, tally: Tally) -> VersionUse:
    return VersionUse(
        version,
        answers=tally.answers,
        users=len(tally.users),
        first=tally.first and _aware(tally.first),
        last=tally.last and _aware(tally.last),
        by_day=sorted(tally.by_day.items()),
        by_source=dict(tally.by_source.most_common()),
    )


def _reached(tally: Tally, users: int) -> Reach:
    first, last = (moment and _aware(moment) for moment in (tally.first, tally.last))
    return Reach(tally.answers, users, first, last)


def _place_in_time(receipt: Receipt) -> tuple[Any, ...]:
    return tuple(getattr(receipt, name) for name in _ORDER)


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)
