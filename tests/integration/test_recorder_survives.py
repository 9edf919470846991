"""The recorder killed with -9 and the database taken away: every receipt arrives exactly once.

Runs on SQLite and on MariaDB, which speaks the protocol of MySQL.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select

from pipelines.records import recorder
from pipelines.records.database import connect, migrate
from pipelines.records.recorder import run, ship_once
from pipelines.records.tables import metadata, reccom
from tests.receipts import GONE_PID, line

PROJECT_DIR = Path(__file__).resolve().parents[2]
PATIENCE_S = 60
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT_DIR), *sys.path])}

# Ships once, in small transactions, and kills itself before its n-th step: a statement, a commit, a deletion.
KILLED_AT_STEP = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import Engine, event
from pipelines.records import recorder
from pipelines.records.database import connect

url, spool_dir, last_step, chunk_bytes = sys.argv[1:]
steps = 0

def step(*_):
    global steps
    steps += 1
    if steps == int(last_step):
        os.kill(os.getpid(), signal.SIGKILL)

def unlink(path, *, really=Path.unlink):
    step()
    really(path)
    step()

event.listen(Engine, "before_cursor_execute", step)
event.listen(Engine, "after_cursor_execute", step)
event.listen(Engine, "commit", step)
Path.unlink = unlink
recorder.CHUNK_BYTES = int(chunk_bytes)
recorder.ship_once(connect(url), Path(spool_dir))
"""

FOR_EVER = """
import sys
from pathlib import Path
from pipelines.records import recorder

recorder.CHUNK_BYTES = 2_000
recorder.run(sys.argv[1], Path(sys.argv[2]), 0.001)
"""


@pytest.fixture
def opened():
    """Connects as the code does, and closes again."""
    engines = []

    def connect_and_remember(url):
        engines.append(connect(url))
        return engines[-1]

    yield connect_and_remember
    for engine in engines:
        engine.dispose()


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path / 'records.db'}"


@pytest.fixture(params=["sqlite_url", "mysql_url"])
def url(request):
    url = request.getfixturevalue(request.param)
    migrate(url)
    return url


@pytest.fixture
def spool_dir(tmp_path):
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


def start(script, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=PROJECT_DIR, env=ENVIRONMENT)


def shipped_ids(engine):
    with engine.connect() as connection:
        return set(connection.scalars(select(reccom.c.request_id)))


def shipped_count(engine):
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(reccom))


def wait_until(condition, what):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s in vain until {what}"
        time.sleep(0.005)


def test_kill_at_any_step_loses_and_doubles_nothing(url, spool_dir, opened):
    """One life for each step there is, until a life is too short for its kill."""
    engine = opened(url)
    wanted = set()
    for last_step in range(1, 100):
        ids = [f"{last_step}-{number}" for number in range(4)]
        wanted |= set(ids)
        orphan = spool_dir / f"stable-1-{GONE_PID}-{last_step}.jsonl"
        orphan.write_bytes(b"".join(map(line, ids)))
        two_lines = 2 * len(line(ids[0])) + 1
        code = start(KILLED_AT_STEP, url, spool_dir, last_step, two_lines).wait(PATIENCE_S)
        assert code in {0, -signal.SIGKILL}
        killed = code != 0
        ship_once(engine, spool_dir)
        assert shipped_ids(engine) == wanted, f"after a kill before step {last_step}"
        assert list(spool_dir.iterdir()) == []
        if not killed:
            break
    assert not killed
    # A chunk is two statements and a commit; then come a deletion, a statement and a commit.
    assert last_step > 2 * (2 + 2 + 1) + 2 + 3


def test_kills_in_the_middle_of_traffic_lose_and_double_nothing(url, spool_dir, opened):
    engine = opened(url)
    written = 0
    live = spool_dir / f"stable-1-{os.getpid()}-1.jsonl"
    with live.open("ab", buffering=0) as replica:
        for _ in range(5):
            process = start(FOR_EVER, url, spool_dir)
            before = shipped_count(engine)
            goal = before + 100
            try:
                while shipped_count(engine) < goal:
                    assert process.poll() is None
                    replica.write(b"".join(line(f"{number:06d}") for number in range(written, written + 20)))
                    written += 20
            finally:
                process.kill()
                process.wait(PATIENCE_S)
    live.rename(live.with_suffix(".done"))
    ship_once(engine, spool_dir)
    assert shipped_ids(engine) == {f"{number:06d}" for number in range(written)}
    assert list(spool_dir.iterdir()) == []


def test_migrated_tables_are_the_tables_of_the_code(url, opened):
    with opened(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_database_that_comes_late_gets_everything(tmp_path, spool_dir, opened):
    url = f"sqlite:///{tmp_path}/not/mounted/yet/records.db"
    (spool_dir / f"stable-1-{GONE_PID}-1.jsonl").write_bytes(b"".join(map(line, "abc")))
    stop = Event()
    thread = Thread(target=run, args=(url, spool_dir, 0.01, stop))
    thread.start()
    try:
        migrate(url)
        wait_until(lambda: not list(spool_dir.iterdir()), "the receipts are shipped")
    finally:
        stop.set()
        thread.join(PATIENCE_S)
    assert shipped_ids(opened(url)) == set("abc")


def test_database_locked_for_a_while_gets_everything(tmp_path, spool_dir, caplog, opened):
    url = f"sqlite:///{tmp_path / 'records.db'}?timeout=0.05"
    migrate(url)
    spooled = spool_dir / f"stable-1-{GONE_PID}-1.jsonl"
    stop = Event()
    thread = Thread(target=run, args=(url, spool_dir, 0.01, stop))
    with closing(sqlite3.connect(tmp_path / "records.db", isolation_level=None)) as other:
        other.execute("begin exclusive")
        spooled.write_bytes(b"".join(map(line, "abc")))
        thread.start()
        try:
            wait_until(lambda: "database is locked" in caplog.text, "the outage is in the log")
            assert spooled.exists()
            other.execute("commit")
            wait_until(lambda: not spooled.exists(), "the receipts are shipped")
        finally:
            stop.set()
            thread.join(PATIENCE_S)
    assert shipped_ids(opened(url)) == set("abc")
    levels = [record.levelname for record in caplog.records if record.name == recorder.__name__]
    assert levels == ["ERROR", "WARNING"]
