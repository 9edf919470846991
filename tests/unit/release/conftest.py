"""A world of fakes around a real ledger."""

import httpx
import pytest

from pipelines.records.database import connect, migrate
from pipelines.release.ledger import Ledger
from pipelines.release.measure import Prometheus
from pipelines.release.steps import World
from tests.fakes import FakeFleet, FakePrometheus, FakeRegistry, FakeRouter


@pytest.fixture
def instrument():
    return FakePrometheus()


@pytest.fixture
def world(tmp_path, instrument):
    url = f"sqlite:///{tmp_path / 'records.db'}"
    migrate(url)
    engine = connect(url)
    yield World(
        ledger=Ledger(engine),
        fleet=FakeFleet(),
        router=FakeRouter(),
        registry=FakeRegistry(),
        prometheus=Prometheus("http://prometheus.test", transport=httpx.MockTransport(instrument)),
        models_dir=tmp_path / "models",
        look_here="the UI",
    )
    engine.dispose()
