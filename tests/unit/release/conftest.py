"""A world of fakes around a real ledger."""

import httpx
import pytest

from pipelines.records.database import connect, migrate
from pipelines.release.ledger import Ledger
from pipelines.release.measure import Prometheus
from pipelines.release.world import World
from tests.fakes import FakeFleet, FakePrometheus, FakeRegistry, FakeRouter


@pytest.fixture
def records(tmp_path):
    url = f"sqlite:///{tmp_path / 'records.db'}"
    migrate(url)
    engine = connect(url)
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
