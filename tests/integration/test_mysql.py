"""The records on a real MySQL 9, as compose runs it: users, migrations, the ancestor's query, outages."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import Any

import docker
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, func, insert, inspect, select, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from pipelines.errors import MarqueeError
from pipelines.records import database, recorder
from pipelines.records.database import connect, migrate, revision
from pipelines.records.provenance import record_version
from pipelines.records.tables import metadata, reccom
from pipelines.settings import PROJECT_DIR
from tests.compose import Compose
from tests.fakes import Killed
from tests.receipts import GONE_PID, as_line, line, receipt, row

PATIENCE_S = 60.0
ANCESTORS_QUERY = """
select A.version_number, A.user_id, B.data_creation, B.trained_on, B.model_rmse
from reccom A, tracking B where A.version_number = B.version_number order by A.version_number desc limit 2;
"""
FIRST_COLUMNS = (
    "request_id",
    "version_number",
    "user_id",
    "served_at",
    "arm",
    "replica",
    "source",
    "movie_ids",
    "latency_ms",
    "status",
    "canary_percent",
)
"""Of `reccom` before migration 0002."""


@dataclass
class MySQL:
    """The server of a project of its own."""

    compose: Compose
    engine: docker.APIClient
    container: str

    def url(self, user: str) -> str:
        """Return the address of the records for a user of docker/mysql/init."""
        secrets = {"marquee_owner": "OWNER", "marquee": "APP", "marquee_reader": "READER", "root": "ROOT"}
        secret = self.compose.secret(f"MARQUEE_MYSQL_{secrets[user]}_PASSWORD")
        networks = self.engine.inspect_container(self.container)["NetworkSettings"]["Networks"]
        (network,) = networks.values()
        return f"mysql+pymysql://{user}:{secret}@{network['IPAddress']}/records?charset=utf8mb4"

    def empty(self) -> None:
        """Take all tables away, as the owner may."""
        engine = connect(self.url("marquee_owner"))
        with engine.begin() as connection:
            connection.execute(text("set foreign_key_checks = 0"))
            for table in inspect(engine).get_table_names():
                connection.execute(text(f"drop table `{table}`"))
        engine.dispose()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.engine.kill(self.container)

    def start(self) -> None:
        """Start it again and wait until it answers."""
        self.engine.start(self.container)
        engine = create_engine(self.url("marquee_reader"))
        wait_until(lambda: answers(engine), "MySQL answers again")
        engine.dispose()


def answers(engine: Engine) -> bool:
    try:
        engine.connect().close()
    except OperationalError:
        return False
    return True


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s in vain until {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def mysql(docker_engine: docker.APIClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MySQL]:
    compose = Compose(f"marquee-test-mysql-{os.getpid()}", tmp_path_factory.mktemp("mysql"))
    try:
        compose.run("up", "--detach", "--wait", "mysql")
        yield MySQL(compose, docker_engine, compose.containers()["mysql"]["Id"])
    finally:
        compose.remove()


@pytest.fixture
def opened() -> Iterator[Callable[[str], Engine]]:
    """Connects as the code does, and closes again."""
    engines = []

    def connect_and_remember(url: str) -> Engine:
        engines.append(connect(url))
        return engines[-1]

    yield connect_and_remember
    for engine in engines:
        engine.dispose()


@pytest.fixture
def fresh(mysql: MySQL) -> MySQL:
    """The server without a table."""
    mysql.empty()
    return mysql


@pytest.fixture
def ready(fresh: MySQL) -> MySQL:
    """The server with tables that are up to date."""
    migrate(fresh.url("marquee_owner"))
    return fresh


def as_of(connection: Connection, wanted: str) -> None:
    command.upgrade(database._alembic(connection), wanted)


def test_processes_that_start_at_once_migrate_once(fresh: MySQL, opened: Callable[[str], Engine]) -> None:
    url = fresh.url("marquee_owner")
    assert revision(url) is None
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(migrate, [url] * 6)) == [None] * 6
    with opened(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert connection.scalar(text("select count(*) from alembic_version")) == 1


def test_the_command_says_from_what_to_what(fresh: MySQL) -> None:
    def said() -> str:
        environment = os.environ | {
            "MARQUEE_RECORDS_URL": fresh.url("marquee_owner"),
            "MARQUEE_DOTENV": "off",
        }
        run = [sys.executable, "-m", "pipelines", "migrate"]
        return subprocess.run(
            run, cwd=PROJECT_DIR, env=environment, check=True, capture_output=True, text=True
        ).stdout

    newest = said().removeprefix("the records are brought from nothing to ").strip()
    assert revision(fresh.url("marquee_reader")) == newest
    assert said() == f"the records are at {newest}, which is up to date\n"


def test_who_may_not_change_tables_is_told_who_may(fresh: MySQL) -> None:
    with pytest.raises(
        MarqueeError, match=r"CREATE command denied.*`python -m pipelines migrate`.*records-init"
    ):
        migrate(fresh.url("marquee"))
    with connect(fresh.url("marquee_owner")).begin() as connection:
        as_of(connection, "0002")
    with pytest.raises(MarqueeError, match=r"ALTER command denied.*records-init"):
        migrate(fresh.url("marquee"))


@pytest.mark.parametrize("user", ["marquee", "marquee_reader"])
def test_where_all_is_up_to_date_nobody_needs_to_change_tables(ready: MySQL, user: str) -> None:
    migrate(ready.url(user))


ALLOWED = {
    "marquee_owner": ["create table t (a int)", "alter table t add b int", "drop table t"],
    "marquee": [
        "insert into spools values ('a', 1)",
        "update spools set shipped_bytes = 2",
        "select * from spools",
        "delete from spools",
    ],
    "marquee_reader": ["select * from reccom"],
}
DENIED = {
    "marquee_owner": ["create database mine", "create user mine", "select * from mysql.user", "shutdown"],
    "marquee": [
        "drop table reccom",
        "create table t (a int)",
        "alter table reccom add a int",
        "truncate table reccom",
        "create index i on reccom (arm)",
        "select * from mysql.user",
        "create user mine",
        "set global innodb_flush_log_at_trx_commit = 0",
        "select 1 into outfile '/tmp/x'",
    ],
    "marquee_reader": [
        "insert into spools values ('a', 1)",
        "update reccom set status = 200",
        "delete from reccom",
        "drop table reccom",
    ],
}


@pytest.mark.parametrize("user", ALLOWED)
def test_a_user_may_do_what_its_work_needs_and_nothing_else(ready: MySQL, opened, user: str) -> None:
    with opened(ready.url(user)).connect() as connection:
        for statement in ALLOWED[user]:
            connection.execute(text(statement))
        for statement in DENIED[user]:
            with pytest.raises((OperationalError, ProgrammingError), match=r"\((1044|1142|1227|1045|3619), "):
                connection.execute(text(statement))


def test_root_is_let_in_from_nowhere_but_its_container(mysql: MySQL, opened) -> None:
    with pytest.raises(OperationalError, match="Access denied for user 'root'"):
        opened(mysql.url("root")).connect()
    assert mysql.compose.sql("select user, host from mysql.user where user = 'root'") == [
        ["root", "localhost"]
    ]


def test_no_password_is_in_the_log(mysql: MySQL) -> None:
    said = mysql.engine.logs(mysql.container).decode()
    for name in ("ROOT", "OWNER", "APP", "READER"):
        assert mysql.compose.secret(f"MARQUEE_MYSQL_{name}_PASSWORD") not in said


def test_passwords_change_with_one_command(mysql: MySQL) -> None:
    old = mysql.compose.secret("MARQUEE_MYSQL_READER_PASSWORD")
    mysql.compose.set(MARQUEE_MYSQL_READER_PASSWORD="7d1f0c9ab35e42d8")
    try:
        mysql.compose.run("up", "--detach", "--no-deps", "mysql")
        script = "/docker-entrypoint-initdb.d/users.sh"
        mysql.container = mysql.compose.containers()["mysql"]["Id"]
        wait_until(
            lambda: "users of" in mysql.compose.run("exec", "-T", "mysql", "sh", script, check=False), "it"
        )
        engine = create_engine(mysql.url("marquee_reader"))
        engine.connect().close()
        engine.dispose()
    finally:
        mysql.compose.set(MARQUEE_MYSQL_READER_PASSWORD=old)
        mysql.compose.run("up", "--detach", "--no-deps", "mysql")
        mysql.container = mysql.compose.containers()["mysql"]["Id"]
        wait_until(
            lambda: "users of" in mysql.compose.run("exec", "-T", "mysql", "sh", script, check=False), "it"
        )


def test_a_commit_is_on_the_disk_before_it_is_acknowledged(mysql: MySQL) -> None:
    settings = "select @@innodb_flush_log_at_trx_commit, @@innodb_doublewrite, @@innodb_flush_method"
    ((flush, twice, _),) = mysql.compose.sql(settings)
    assert (flush, twice) == ("1", "ON")


def test_the_ancestors_query_runs_as_written(ready: MySQL, opened) -> None:
    engine = opened(ready.url("marquee"))
    for version in (1, 2, 3):
        record_version(
            engine,
            version_number=version,
            data_creation=datetime(2026, 3, version, 8, tzinfo=UTC),
            trained_on=datetime(2026, 3, version, 9, tzinfo=UTC),
            model_rmse=1 - version / 10,
            git_commit="c" * 40,
            run_id=f"manual-{version}",
        )
        with engine.begin() as connection:
            connection.execute(insert(reccom).values(row(f"request-{version}", version_number=version)))
    with opened(ready.url("marquee_reader")).connect() as connection:
        rows = connection.execute(text(ANCESTORS_QUERY)).all()
    assert [(one.version_number, one.user_id, one.data_creation) for one in rows] == [
        (version, "596363", datetime(2026, 3, version, 8)) for version in (3, 2)
    ]
    assert [one.model_rmse for one in rows] == pytest.approx([0.7, 0.8])


def test_rows_of_the_first_tables_survive_all_migrations(fresh: MySQL, opened) -> None:
    engine = opened(fresh.url("marquee_owner"))
    with engine.begin() as connection:
        as_of(connection, "0001")
    insert_as_the_first_code_did(engine, "a")
    migrate(fresh.url("marquee_owner"))
    with engine.connect() as connection:
        assert connection.execute(select(reccom)).mappings().all() == [row("a", watched="")]


def insert_as_the_first_code_did(engine: Engine, request_id: str) -> None:
    values = {name: value for name, value in row(request_id).items() if name in FIRST_COLUMNS}
    names = ", ".join(FIRST_COLUMNS)
    marks = ", ".join(f":{name}" for name in FIRST_COLUMNS)
    with engine.begin() as connection:
        connection.execute(text(f"insert ignore into reccom ({names}) values ({marks})"), values)
        connection.execute(
            text(
                "insert into spools (file, shipped_bytes) values (:file, 7) "
                "on duplicate key update shipped_bytes = 7"
            ),
            {"file": request_id},
        )


def test_a_recorder_of_older_code_goes_on_beside_newer_tables(ready: MySQL, opened) -> None:
    """While an upgrade is under way: tables are brought up to date first, programs follow one by one."""
    engine = opened(ready.url("marquee"))
    insert_as_the_first_code_did(engine, "a")
    with engine.begin() as connection:
        release = "(version, state, plan, requested_by, opened_at)"
        values = "(3, 'open', '{}', 'somebody', '2026-03-02')"
        connection.execute(text(f"insert into releases {release} values {values}"))
        look = "(release_id, at, measurement, verdict, reason)"
        values = "(last_insert_id(), '2026-03-02', '{}', 'undecided', 'so few')"
        connection.execute(text(f"insert into looks {look} values {values}"))
        version = "(version_number, data_creation, trained_on, model_rmse, git_commit, run_id)"
        values = "(3, '2026-03-01', '2026-03-01', 0.9, 'c', 'manual-3')"
        connection.execute(text(f"insert into tracking {version} values {values}"))
    with engine.connect() as connection:
        assert connection.execute(select(reccom)).mappings().all() == [row("a", watched="")]


def test_receipts_of_older_replicas_are_shipped(ready: MySQL, opened, tmp_path: Path) -> None:
    """Before 0002 a line did not say what was folded in."""
    fields = {name: value for name, value in receipt("old").items() if name in FIRST_COLUMNS}
    (tmp_path / f"stable-1-{GONE_PID}-1.jsonl").write_bytes(as_line(fields) + line("new"))
    engine = opened(ready.url("marquee"))
    recorder.ship_once(engine, tmp_path)
    with engine.connect() as connection:
        watched = dict(connection.execute(select(reccom.c.request_id, reccom.c.watched)).all())
    assert watched == {"old": "", "new": receipt()["watched"]}


def test_what_is_shipped_while_mysql_is_killed_is_there_once(
    ready: MySQL, opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool_dir = tmp_path / "spool"
    spool_dir.mkdir()
    stop, written = Event(), 0
    shipping = Thread(target=recorder.run, args=(ready.url("marquee"), spool_dir, 0.01, stop))
    shipping.start()
    live = spool_dir / f"stable-1-{os.getpid()}-1.jsonl"
    try:
        with live.open("ab", buffering=0) as replica:
            for _ in range(3):
                for _ in range(30):
                    replica.write(b"".join(line(f"{number:06d}") for number in range(written, written + 20)))
                    written += 20
                    time.sleep(0.005)
                ready.kill()
                replica.write(b"".join(line(f"{number:06d}") for number in range(written, written + 20)))
                written += 20
                ready.start()
        live.rename(live.with_suffix(".done"))
        wait_until(lambda: not list(spool_dir.iterdir()), "everything is shipped")
    finally:
        stop.set()
        shipping.join(PATIENCE_S)
    with opened(ready.url("marquee")).connect() as connection:
        ids = connection.scalars(select(reccom.c.request_id)).all()
        assert connection.scalar(select(func.count()).select_from(reccom)) == written
    assert set(ids) == {f"{number:06d}" for number in range(written)}
    assert "they wait there" in caplog.text


def test_a_migration_that_is_killed_after_every_change_is_finished_by_the_next(
    fresh: MySQL, opened: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MySQL commits each change of a table by itself; each life makes one and dies."""
    url, lives, execute = fresh.url("marquee_owner"), 0, database._unless_done

    def mortal(done_before: list[str], cursor: Any, statement: str, *more: Any) -> bool:
        known = len(done_before)
        execute(done_before, cursor, statement, *more)
        if statement.strip().startswith(("CREATE", "ALTER", "DROP")) and len(done_before) == known:
            raise Killed
        return True

    with monkeypatch.context() as patched:
        patched.setattr(database, "_unless_done", mortal)
        while lives < 100:
            try:
                migrate(url)
            except Killed:
                lives += 1
            else:
                break
    with opened(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    # Nine tables, and what later migrations changed.
    assert 9 < lives < 100


def test_tables_of_others_are_not_taken_for_ours(fresh: MySQL, opened: Callable[[str], Engine]) -> None:
    with opened(fresh.url("marquee_owner")).begin() as connection:
        connection.execute(text("create table drills (colour text)"))
    for _ in range(2):
        with pytest.raises(MarqueeError, match=r"tables of other shapes.*drills"):
            migrate(fresh.url("marquee_owner"))
