"""A world of fakes around a real ledger."""

import shutil

import httpx
import pytest

from pipelines.records.database import migrate
from pipelines.release.ledger import Ledger
from pipelines.release.prometheus import Prometheus
from pipelines.release.world import World
from tests.fakes import FakeFleet, FakePrometheus, FakeRegistry, FakeRouter
from tests.releases import records_in


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """A database with its tables and nothing in them: migrating costs more than most tests."""
    file = tmp_path_factory.mktemp("migrated") / "records.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def records_file(tmp_path_factory):
    return tmp_path_factory.mktemp("records") / "records.db"


@pytest.fixture
def records(records_file, migrated):
    """A database as `migrated`; its file, and those beside it, are the next test's, too."""
    with records_in(shutil.copy(migrated, records_file)) as engine:
        yield engine


@pytest.fixture
def alerts():
    """What people were told; its ``append`` tells them."""
    return []


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
