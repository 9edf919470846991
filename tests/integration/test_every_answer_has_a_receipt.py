"""Viewers, NGINX, replicas, recorder and database under fire: every answer that was given has its receipt."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import create_engine, text

from tests.mariadb import MariaDB, NoMariaDB
from tests.stage import SqliteFile, Stage, Viewers, tells

ANSWERS_A_BLOW = 80
"""Most answers between two blows."""


@pytest.fixture
def sqlite_database(tmp_path: Path) -> SqliteFile:
    return SqliteFile(tmp_path / "records.db")


@pytest.fixture
def mariadb_database(tmp_path: Path) -> Iterator[MariaDB]:
    """A server of the test's own, because it is going to be killed."""
    try:
        server = MariaDB(tmp_path / "mariadb")
    except NoMariaDB as reason:
        pytest.skip(str(reason))
    server.start()
    engine = create_engine(server.url)
    with engine.begin() as connection:
        connection.execute(text("create database records character set utf8mb4"))
    engine.dispose()
    server.url = f"{server.url}/records"
    yield server
    server.stop()


@pytest.fixture(params=["sqlite_database", "mariadb_database"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path, request.getfixturevalue(request.param)).running() as stage:
        yield stage


def test_every_answer_has_a_receipt_whatever_dies(stage: Stage) -> None:
    random = Random(20)
    blows = [stage.kill_worker, stage.kill_replica, stage.kill_recorder] * 4
    random.shuffle(blows)
    with Viewers(stage.port, per_second=150) as viewers, stage.receipts() as receipts:
        for number, blow in enumerate(blows):
            viewers.wait_for(random.randrange(ANSWERS_A_BLOW))
            blow(random)
            if number % 3 == 0:
                stage.database.kill()
                viewers.wait_for(ANSWERS_A_BLOW)
                # Given a moment ago, and found although the database does not answer.
                assert tells(receipts, viewers.answers[-1])
                stage.database.start()
    stage.ship_everything()
    assert len(viewers.answers) > 4 * ANSWERS_A_BLOW
    with stage.receipts() as receipts:
        assert [answer for answer in viewers.answers if not tells(receipts, answer)] == []
