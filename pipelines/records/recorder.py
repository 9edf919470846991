"""The recorder: ships receipts from the replicas' spool files into the database, each exactly once.

How far a file has been shipped stands in ``spools`` and is written in the transaction that writes its rows,
so a kill at any point leaves both or neither. A row's key is request, time and replica: even a file that is
shipped again adds nothing.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event

from sqlalchemy import Engine, Insert, Table, delete, insert, select
from sqlalchemy.exc import SQLAlchemyError

from pipelines.records.database import brief, connect, upsert
from pipelines.records.lines import Parsed, parse
from pipelines.records.spool import SpoolFile, chunks, spool_files
from pipelines.records.tables import lost_receipts, reccom, spools

CHUNK_BYTES = 2 * 2**20
"""Most bytes in one transaction, and the longest line."""

LONGEST_PAUSE_S = 10.0
"""Longest pause between two tries while the database is away."""

logger = logging.getLogger(__name__)


def run(
    url: str,
    spool_dir: Path,
    every_s: float = 1.0,
    stop: Event | None = None,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Ship what is below ``spool_dir`` every ``every_s`` seconds until ``stop`` is set, then once more.

    ``beat`` is called whenever all of it has been shipped. While the database is away (unreachable, locked,
    without tables) the pause grows to `LONGEST_PAUSE_S`; receipts wait in their files.

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
        if not failures:
            beat()
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
    files = spool_files(spool_dir)
    already = shipped_bytes(engine) if files else {}
    shipped = 0
    trouble: OSError | None = None
    for spool in files:
        try:
            shipped += _ship(engine, spool, already.get(spool.key, 0))
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


def shipped_bytes(engine: Engine) -> dict[str, int]:
    """Return how many bytes of each spool file are in the database, by the file's key.

    Raises:
        SQLAlchemyError: the database is away.
    """
    with engine.connect() as connection:
        return {row.file: row.shipped_bytes for row in connection.execute(select(spools))}


def _ship(engine: Engine, spool: SpoolFile, start: int) -> int:
    # Asked before reading: what is in the file then is all that it will ever hold.
    finished = spool.is_finished()
    shipped = 0
    try:
        with spool.open() as file:
            for lines, end in chunks(file, start, most_bytes=CHUNK_BYTES, finished=finished):
                parsed = parse(lines.split(b"\n"))
                _store(engine, spool, parsed, end)
                _tell(spool, parsed, end)
                shipped += len(parsed.receipts)
    except FileNotFoundError:
        return 0  # sealed since the folder was listed; it comes under its new name next time
    if finished:
        with suppress(FileNotFoundError):
            spool.path.unlink()
            _forget(engine, spool)
    return shipped


def _store(engine: Engine, spool: SpoolFile, parsed: Parsed, end: int) -> None:
    with engine.begin() as connection:
        for table, rows in ((reccom, parsed.receipts), (lost_receipts, parsed.losses)):
            if rows:
                connection.execute(_insert_new(table), rows)
        upsert(connection, spools, {"file": spool.key, "shipped_bytes": end})


def _insert_new(table: Table) -> Insert:
    ignore = insert(table).prefix_with("OR IGNORE", dialect="sqlite")
    return ignore.prefix_with("IGNORE", dialect="mysql").prefix_with("IGNORE", dialect="mariadb")


def _tell(spool: SpoolFile, parsed: Parsed, end: int) -> None:
    for loss in parsed.losses:
        logger.error(
            "replica %(replica)s lost %(count)d receipt(s) from %(since)s to %(until)s: its disk took none; "
            "the answers were given, see lost_receipts",
            loss,
        )
    if parsed.malformed:
        logger.error(
            "%s: skipped %d line(s) before byte %d that are no receipts; the first: %.200r",
            spool.path,
            len(parsed.malformed),
            end,
            parsed.malformed[0],
        )


def _forget(engine: Engine, spool: SpoolFile) -> None:
    with engine.begin() as connection:
        connection.execute(delete(spools).where(spools.c.file == spool.key))
