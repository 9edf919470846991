"""One replica with a toy model, its receipts in a list."""

import pytest
from flask.testing import FlaskClient

from pipelines.errors import DataError
from serving import create_app
from serving.receipts import Receipt
from tests.fakes import ToyModel


class KeptReceipts:
    """Receipts in memory; ``full`` plays a disk without space."""

    def __init__(self) -> None:
        self.kept: list[Receipt] = []
        self.full = False

    def append(self, receipt: Receipt) -> bool:
        if not self.full:
            self.kept.append(receipt)
        return not self.full


class ToyRecents:
    """What users watched, in memory; ``broken`` plays a folder that cannot be read."""

    def __init__(self) -> None:
        self.movies: dict[str, tuple[str, ...]] = {}
        self.broken = False

    def watched(self, user_id: str) -> tuple[str, ...]:
        if self.broken:
            raise DataError("no database")
        return self.movies.get(user_id, ())


@pytest.fixture
def model() -> ToyModel:
    return ToyModel()


@pytest.fixture
def receipts() -> KeptReceipts:
    return KeptReceipts()


@pytest.fixture
def recents() -> ToyRecents:
    return ToyRecents()


@pytest.fixture
def client(
    model: ToyModel, receipts: KeptReceipts, recents: ToyRecents, monkeypatch: pytest.MonkeyPatch
) -> FlaskClient:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    app = create_app(model, version=7, arm="canary", replica="canary", receipts=receipts, recents=recents)
    return app.test_client()
