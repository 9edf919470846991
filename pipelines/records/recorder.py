"""The recorder: ships receipts from the replicas' spool files into the database, each exactly once.

How far a file has been shipped stands in ``spools`` and is written in the transaction that writes its rows,
so a kill at any point leaves both or neither. A row's key is its request id: even a file that is shipped
again adds nothing.
"""

import fcntl
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Annotated, Any, BinaryIO

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.exc import SQLAlchemyError

from pipelines.records.database import brief, connect, naive_utc, upsert
from pipelines.records.tables import reccom, spools

CHUNK_BYTES = 2 * 2**20
"""Most bytes in one transaction, and the longest line."""

LONGEST_PAUSE_S = 10.0
"""Longest pause between two tries while the database is away."""

_NAME = re.compile(r"(?P<key>.+-(?P<pid>[0-9]+)-[0-9]+)\.(?P<suffix>jsonl|done)")
_INSERT_NEW = (
    insert(reccom)
    .prefix_with("OR IGNORE", dialect="sqlite")
    .prefix_with("IGNORE", dialect="mysql")
    .prefix_with("IGNORE", dialect="mariadb")
)

logger = logging.getLogger(__name__)


class _Receipt(BaseModel):
    """One spool line; its limits are the table's, so that no row can fail later and block its file."""

    model_config = ConfigDict(strict=True)

    request_id: Annotated[str, Field(min_length=1, max_length=64)]
    version_number: Annotated[int, Field(ge=0, lt=2**31)]
    user_id: Annotated[str, AfterValidator(lambda asked_for: asked_for[:255])]
    served_at: Annotated[AwareDatetime, AfterValidator(naive_utc)]
    arm: Annotated[str, Field(max_length=16)]
    replica: Annotated[str, Field(max_length=64)]
    source: Annotated[str, Field(max_length=16)]
    movie_ids: Annotated[str, Field(max_length=16_000)]
    latency_ms: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    status: Annotated[int, Field(ge=0, lt=2**15)]
    canary_percent: Annotated[int, Field(ge=0, le=100)] | None


@dataclass(frozen=True, slots=True)
class _Spool:
    """One file that a replica's worker writes or wrote."""

    path: Path
    key: str
    """Its name without the suffix, which changes when the file is sealed."""
    pid: int
    sealed: bool


def run(url: str, spool_dir: Path, every_s: float = 1.0, stop: Event | None = None) -> None:
    """Ship what is below ``spool_dir`` every ``every_s`` seconds until ``stop`` is set, then once more.

    While the database is away (unreachable, locked, without tables) the pause grows to
    `LONGEST_PAUSE_S`; receipts wait in their files.

    Raises:
        SettingsError: ``url`` is not the address of a database that records can be kept in.
    """
    engine = connect(url)
    stop = stop or Event()
    failures = 0
    stopping = False
    while not stopping:
        stopping = stop.is_set()
        failures = 0 if _try_to_ship(engine, spool_dir, failures) else failures + 1
        # Past 2^10 the pause is the longest anyway.
        stop.wait(min(every_s * 2 ** min(failures, 10), max(LONGEST_PAUSE_S, every_s)))
    engine.dispose()


def ship_once(engine: Engine, spool_dir: Path) -> int:
    """Ship every complete line that has not been shipped, and return how many receipts these were.

    Lines that are no receipts are logged and skipped. A file is deleted when it is shipped to its end and
    its writer has gone; then its last line may lack the line end.

    Raises:
        SQLAlchemyError: the database is away; what was shipped before stays, nothing is lost.
        OSError: a file cannot be read or deleted; all others have been shipped.
    """
    files = [spool for path in sorted(spool_dir.glob("*")) if (spool := _spool(path))]
    shipped_bytes = _shipped_bytes(engine) if files else {}
    shipped = 0
    trouble: OSError | None = None
    for spool in files:
        try:
            shipped += _ship(engine, spool, shipped_bytes.get(spool.key, 0))
        except OSError as error:
            trouble = error
    if trouble:
        raise trouble
    return shipped


def _try_to_ship(engine: Engine, spool_dir: Path, failures: int) -> bool:
    try:
        shipped = ship_once(engine, spool_dir)
    except (SQLAlchemyError, OSError) as error:
        if failures == 0:
            logger.error(
                "receipts in %s cannot be shipped to %r: %s; they wait there, tries come up to %g s apart",
                spool_dir,
                engine.url,
                brief(error),
                LONGEST_PAUSE_S,
            )
        return False
    if failures:
        logger.warning("receipts are shipped again after %d failed tries: %d at once", failures, shipped)
    return True


def _shipped_bytes(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return {row.file: row.shipped_bytes for row in connection.execute(select(spools))}


def _spool(path: Path) -> _Spool | None:
    match = _NAME.fullmatch(path.name)
    return _Spool(path, match["key"], int(match["pid"]), match["suffix"] == "done") if match else None


def _ship(engine: Engine, spool: _Spool, start: int) -> int:
    # Asked before reading: what is in the file then is all that it will ever hold.
    finished = spool.sealed or _has_no_writer(spool)
    shipped = 0
    try:
        with spool.path.open("rb") as file:
            for lines, end in _chunks(file, start, finished=finished):
                shipped += _store(engine, spool, lines, end)
    except FileNotFoundError:
        return 0  # sealed since the folder was listed; it comes under its new name next time
    if finished:
        with suppress(FileNotFoundError):
            spool.path.unlink()
            _forget(engine, spool)
    return shipped


def _chunks(file: BinaryIO, start: int, *, finished: bool) -> Iterator[tuple[list[bytes], int]]:
    """Yield (lines, offset after them) from byte ``start``; an unended last line only when ``finished``."""
    file.seek(start)
    while data := file.read(CHUNK_BYTES):
        length = data.rfind(b"\n") + 1
        if length == 0:
            if len(data) < CHUNK_BYTES and not finished:
                return
            length = len(data)
        start += length
        yield data[:length].split(b"\n"), start
        file.seek(start)


def _store(engine: Engine, spool: _Spool, lines: Iterable[bytes], end: int) -> int:
    rows, malformed = _rows(lines)
    with engine.begin() as connection:
        if rows:
            connection.execute(_INSERT_NEW, rows)
        upsert(connection, spools, {"file": spool.key, "shipped_bytes": end})
    if malformed:
        logger.error(
            "%s: skipped %d line(s) before byte %d that are no receipts; the first: %.200r",
            spool.path,
            len(malformed),
            end,
            malformed[0],
        )
    return len(rows)


def _rows(lines: Iterable[bytes]) -> tuple[list[dict[str, Any]], list[bytes]]:
    rows, malformed = [], []
    for line in filter(None, lines):
        try:
            rows.append(_Receipt.model_validate_json(line).model_dump())
        except (ValidationError, OverflowError):  # the latter: a time that UTC cannot express
            malformed.append(line)
    return rows, malformed


def _forget(engine: Engine, spool: _Spool) -> None:
    with engine.begin() as connection:
        connection.execute(delete(spools).where(spools.c.file == spool.key))


def _has_no_writer(spool: _Spool) -> bool:
    """Whether the worker has gone and nobody else has the file open for writing; in doubt, no.

    A process id alone is not enough: in another container it names another process.
    """
    try:
        os.kill(spool.pid, 0)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    else:
        return False
    try:
        with spool.path.open("rb") as file:
            # The kernel grants a read lease only on a file that nobody has open for writing.
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True
