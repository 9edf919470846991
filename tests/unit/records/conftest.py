import shutil
from datetime import timedelta

import pytest
from sqlalchemy import insert

from pipelines.records.archive import archive
from pipelines.records.database import connect, migrate
from pipelines.records.lookup import Receipts
from pipelines.records.tables import reccom
from tests.receipts import GONE_PID, as_line


@pytest.fixture
def opened():
    """Connects as the code does, and closes again: an open SQLite file is a warning in newer Pythons."""
    engines = []

    def connect_and_remember(url):
        engines.append(connect(url))
        return engines[-1]

    yield connect_and_remember
    for engine in engines:
        engine.dispose()


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'records.db'}"


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """An empty database; to copy it is quicker than to migrate."""
    file = tmp_path_factory.mktemp("migrated") / "records.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture
def engine(url, opened, migrated):
    engine = opened(url)
    shutil.copyfile(migrated, engine.url.database)
    return engine


@pytest.fixture
def spool_dir(tmp_path):
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


class Kept:
    """Puts receipts where they are kept."""

    def __init__(self, engine, spool_dir, archive_dir):
        self.engine, self.spool_dir, self.archive_dir = engine, spool_dir, archive_dir

    def receipts(self):
        return Receipts(self.engine, self.archive_dir, self.spool_dir)

    def store(self, *rows):
        with self.engine.begin() as connection:
            connection.execute(insert(reccom), list(rows))

    def archive(self, *rows):
        """Move the rows, all of one day, through the database into the archive."""
        self.store(*rows)
        end = max(row["served_at"] for row in rows) + timedelta(days=1)
        archive(self.engine, self.archive_dir, before=end)

    def spool(self, *rows):
        with self.written() as file:
            file.writelines(map(as_line, rows))

    def written(self):
        """The spool file, open as its worker has it."""
        return (self.spool_dir / f"stable-1-{GONE_PID}-1.jsonl").open("ab")


@pytest.fixture
def kept(engine, spool_dir, tmp_path):
    return Kept(engine, spool_dir, tmp_path / "receipts")


@pytest.fixture
def away(kept, tmp_path):
    """Takes the database away."""

    def take_away():
        kept.engine.dispose()
        (tmp_path / "records.db").rename(tmp_path / "records.db.away")
        (tmp_path / "records.db").mkdir()

    return take_away
