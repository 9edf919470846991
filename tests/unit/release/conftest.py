"""A world of fakes around a real ledger."""

import shutil

import httpx
import pytest
from sqlalchemy import event

from pipelines.records.database import connect, migrate
from pipelines.release.ledger import Ledger
from pipelines.release.measure import Prometheus
from pipelines.release.world import World
from tests.fakes import FakeFleet, FakePrometheus, FakeRegistry, FakeRouter


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """A database with its tables and nothing in them: migrating costs more than most tests."""
    file = tmp_path_factory.mktemp("migrated") / "records.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture
def records(tmp_path, migrated):
    file = shutil.copy(migrated, tmp_path / "records.db")
    engine = connect(f"sqlite:///{file}")
    # Nobody pulls the plug here: waiting for the disk takes longer than the tests.
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    yield engine
    engine.dispose()


@pytest.fixture
def instrument(records):
    return FakePrometheus(records)


@pytest.fixture
def world(tmp_path, records, instrument):
    return World(
        ledger=Ledger(records),
        fleet=FakeFleet(),
        router=FakeRouter(),
        registry=FakeRegistry(),
        prometheus=Prometheus("http://prometheus.test", transport=httpx.MockTransport(instrument)),
        records=records,
        models_dir=tmp_path / "models",
        shadow_spool_dir=tmp_path / "shadow",
        look_here="the UI",
    )
