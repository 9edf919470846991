"""Receipts: whether each answer has one, what they cost the answers, and how fast they move and are found."""

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import create_engine, insert, text

from pipelines.records import days
from pipelines.records.archive import archive
from pipelines.records.database import connect, migrate
from pipelines.records.lines import parse
from pipelines.records.lookup import Receipts
from pipelines.records.recorder import ship_once
from pipelines.records.tables import reccom
from tests.benchmarks.report import Report
from tests.mariadb import MariaDB, NoMariaDB
from tests.receipts import GONE_PID, line
from tests.stage import Database, SqliteFile, Stage, Viewers, tells

SECTION = "Receipts"
ANSWERS = 10_000
PER_SECOND = 250.0
WARM_UP = 200
PHASE = 1_000
"""Answers with the database up, and with it away, before the killing begins."""
BLOW_EVERY = 200
"""Most answers between two kills."""
BACKLOG = 200_000
ONE_BY_ONE = 200
LOOK_UPS = 200
FIRST = datetime(2026, 3, 2, tzinfo=UTC)


def run(report: Report) -> None:
    """Add all rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _databases(folder) as databases:
            for kind, database in databases.items():
                _drain(report, folder / f"backlog-{kind}", kind, database)
            _move_and_find(report, folder, databases["SQLite"])
            # The last one: a server can be killed, a file only be locked.
            _under_fire(report, folder, kind, database)


@contextmanager
def _databases(folder: Path) -> Iterator[dict[str, Database]]:
    """Yield an empty SQLite file and, where this machine has it, a MariaDB."""
    sqlite = SqliteFile(folder / "records.db")
    try:
        server = MariaDB(folder / "mariadb")
    except NoMariaDB:
        yield {"SQLite": sqlite}
        return
    server.start()
    engine = create_engine(server.url)
    with engine.begin() as connection:
        connection.execute(text("create database records character set utf8mb4"))
    engine.dispose()
    server.url = f"{server.url}/records"
    try:
        yield {"SQLite": sqlite, "MariaDB": server}
    finally:
        server.stop()


# --- after an outage ------------------------------------------------------------------------------------


def _drain(report: Report, spool_dir: Path, kind: str, database: Database) -> None:
    migrate(database.url)
    engine = connect(database.url)
    one_by_one = ONE_BY_ONE / _seconds(lambda: _insert_one_by_one(database.url))
    _fill(spool_dir)
    rate = BACKLOG / _seconds(lambda: ship_once(engine, spool_dir))
    engine.dispose()
    report.add(
        SECTION,
        f"drain the spool into {kind} after an outage, {BACKLOG:,} receipts",
        rate,
        one_by_one,
        unit="receipts/s",
        rival_name="a transaction for each receipt",
        wanted="at least 5,000",
    )


def _fill(spool_dir: Path) -> None:
    """Write a backlog as it comes at 500 answers a second: a million users, random ids, 2,000 movies."""
    spool_dir.mkdir()
    random = Random(1)
    movies = [f"the+movie+number+{number}+{1950 + number % 70}" for number in range(2_000)]
    for start in range(0, BACKLOG, 25_000):
        lines = (_line(random, movies, number) for number in range(start, start + 25_000))
        (spool_dir / f"stable-1-{GONE_PID}-{start}.done").write_bytes(b"".join(lines))


def _line(random: Random, movies: Sequence[str], number: int) -> bytes:
    return line(
        uuid.UUID(int=random.getrandbits(128)).hex,
        user_id=str(random.randrange(1_000_000)),
        served_at=(FIRST + timedelta(milliseconds=2 * number)).isoformat(timespec="microseconds"),
        movie_ids=",".join(random.choices(movies, k=20)),
    )


def _insert_one_by_one(url: str) -> None:
    engine = connect(url)
    long_ago = (FIRST - timedelta(days=9)).isoformat()
    for number in range(ONE_BY_ONE):
        with engine.begin() as connection:
            (row,) = parse([line(f"one-{number}", served_at=long_ago)]).receipts
            connection.execute(insert(reccom).values(row))
    engine.dispose()


# --- retention and look-ups --------------------------------------------------------------------------------


def _move_and_find(report: Report, folder: Path, database: Database) -> None:
    """Look up in the database of the backlog, archive its day, and look up again."""
    engine = connect(database.url)
    receipts = Receipts(engine, folder / "receipts", folder / "no-spool")
    with engine.connect() as connection:
        query = text("select request_id from reccom where served_at > '2026-03-02' limit :many")
        ids = [row.request_id for row in connection.execute(query, {"many": LOOK_UPS})]
    in_database_ms = _mean_ms(receipts.find, ids)
    before = FIRST + timedelta(days=1)
    archived_s = _seconds(lambda: archive(engine, folder / "receipts", before=before))
    in_archive_ms = _mean_ms(receipts.find, ids)
    engine.dispose()
    day = days.day_file(folder / "receipts", FIRST.date())
    whole_ms = _mean_ms(lambda one: pq.read_table(day).filter(pc.field("request_id") == one), ids[:5])
    report.add(SECTION, "archive a day and delete its rows", BACKLOG / archived_s, unit="receipts/s")
    report.add(
        SECTION,
        f"find a request among {BACKLOG:,} in SQLite",
        in_database_ms,
        unit="ms",
        better="less",
    )
    report.add(
        SECTION,
        f"find a request among {BACKLOG:,} in the archive",
        in_archive_ms,
        whole_ms,
        unit="ms",
        rival_name="reading the day's file",
        better="less",
    )


def _mean_ms(find: Callable[[str], object], ids: Sequence[str]) -> float:
    return 1_000.0 * _seconds(lambda: [find(one) for one in ids]) / len(ids)


# --- under fire ---------------------------------------------------------------------------------------------


def _under_fire(report: Report, folder: Path, kind: str, database: Database) -> None:
    with Stage(folder, database).running() as stage:
        with Viewers(stage.port, per_second=PER_SECOND) as viewers:
            viewers.wait_for(WARM_UP)
            calm = _latencies_ms(viewers, PHASE)
            database.kill()
            away = _latencies_ms(viewers, PHASE)
            database.start()
            blows = _strike(stage, viewers)
        stage.ship_everything()
    with stage.receipts() as receipts:
        resolved = sum(tells(receipts, answer) for answer in viewers.answers)
    report.add(
        SECTION,
        f"p99 of an answer while {kind} is away",
        float(np.percentile(away, 99)),
        float(np.percentile(calm, 99)),
        unit="ms",
        rival_name="while it is up",
        better="less",
        wanted="no slower",
    )
    report.add(
        SECTION,
        f"answers with a receipt of what they said, after {blows} kills of worker, replica, recorder, {kind}",
        resolved,
        len(viewers.answers),
        unit="answers",
        rival_name="answers given",
        wanted="1.00",
    )


def _latencies_ms(viewers: Viewers, count: int) -> list[float]:
    start = len(viewers.answers)
    viewers.wait_for(count)
    return [answer.latency_ms for answer in viewers.answers[start:]]


def _strike(stage: Stage, viewers: Viewers) -> int:
    """Kill at random moments until there are enough answers; return how often."""
    random = Random(20)

    def kill_database(_: Random) -> None:
        stage.database.kill()
        viewers.wait_for(random.randrange(BLOW_EVERY))
        stage.database.start()

    blows = 0
    while len(viewers.answers) < ANSWERS:
        viewers.wait_for(random.randrange(BLOW_EVERY))
        random.choice([stage.kill_worker, stage.kill_replica, stage.kill_recorder, kill_database])(random)
        blows += 1
    return blows


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
