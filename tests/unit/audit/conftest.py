"""Books that are real but for the registry: database, spool, archive and ledger in one folder."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.audit.books import Books
from pipelines.errors import RegistryError
from pipelines.records.database import connect, migrate
from pipelines.records.lookup import Receipt, Receipts
from pipelines.records.provenance import record_version
from pipelines.records.recorder import ship_once
from pipelines.release.ledger import Ledger
from pipelines.release.plan import Plan
from pipelines.settings import read
from tests.fakes import FakeRegistry, tiny_artifact

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
MOVIES = [f"m{row:02}" for row in range(20)]
LINE = {
    "request_id": "a" * 32,
    "version_number": 2,
    "user_id": "1",
    "served_at": NOON.isoformat(),
    "arm": "stable",
    "replica": "stable-1",
    "source": "personal",
    "movie_ids": ",".join(MOVIES),
    "watched": "",
    "latency_ms": 0.5,
    "status": 200,
    "canary_percent": 0,
}
VERSION = {
    "version_number": 2,
    "data_creation": NOON.replace(hour=1),
    "trained_on": NOON.replace(hour=3),
    "model_rmse": 0.875,
    "git_commit": "c" * 40,
    "run_id": "scheduled__2026-11-22T03:00:00+00:00",
    "figures": {"rmse": 0.875, "n_holdout": 1_000, "ndcg_at_10": 0.4, "popularity_ndcg_at_10": 0.25},
    "gate_reason": "RMSE 0.8750 is below 1.",
    "offsets": [{"topic": "movielog4", "generation": 1, "partition": 0, "first": 0, "last": 120_343}],
    "code_commit": "d" * 40,
}
PLAN = Plan.of(read(_env_file=None, canary_window_s=60, canary_extension_s=0, guard_s=0))


@dataclass
class Versions(FakeRegistry):
    """Versions 1 and 2 with one real but tiny artifact."""

    known: list[int] = field(default_factory=lambda: [1, 2])
    artifact: Path = Path()

    def versions(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(number=number, note=self.notes.get(number, "")) for number in self.known]

    def hashes(self, version: int) -> dict[str, str]:
        self._require(version)
        return {"batches": "b" * 32 + ".dir", "model": "e" * 32 + ".dir"}

    def export(self, version: int, models_dir: Path) -> Path:
        self._require(version)
        return self.artifact

    def _require(self, version: int) -> None:
        if version not in self.known:
            raise RegistryError(f"there is no version {version} in the registry: it holds v1 to v2")


@pytest.fixture(scope="session")
def empty_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "records.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_artifact(tmp_path_factory.mktemp("artifact") / "v2", version=2)


@pytest.fixture
def books(tmp_path: Path, empty_records: Path, artifact: Path) -> Iterator[Books]:
    shutil.copy(empty_records, tmp_path)
    engine = connect(f"sqlite:///{tmp_path / 'records.db'}")
    yield Books(
        receipts=Receipts(engine, tmp_path / "receipts", tmp_path / "spool"),
        engine=engine,
        ledger=Ledger(engine),
        registry=Versions(artifact=artifact),
        models_dir=tmp_path / "models",
        airflow_url="http://127.0.0.1:8080",
        places=("the database", "the archive", "the spool"),
    )
    engine.dispose()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    """Appends lines to a spool file that nobody has shipped: receipts with these keys changed, or markers."""
    path = tmp_path / "spool" / "stable-1-999999999-1.jsonl"
    path.parent.mkdir()

    def append(*changes: dict[str, Any]) -> None:
        with path.open("a") as file:
            for change in changes:
                file.write(json.dumps(change if "lost" in change else LINE | change) + "\n")

    return append


@pytest.fixture
def ship(books: Books, tmp_path: Path) -> Callable[[], int]:
    return lambda: ship_once(books.engine, tmp_path / "spool")


@pytest.fixture
def track(books: Books) -> Callable[..., None]:
    """Writes the row of version 2 into ``tracking``, with these columns changed."""
    return lambda **changes: record_version(books.engine, **{**VERSION, **changes})


@pytest.fixture
def receipt() -> Callable[..., Receipt]:
    """Makes the receipt of ``LINE``, with these fields changed."""

    def make(**changes: Any) -> Receipt:
        fields = LINE | {"served_at": NOON, "movie_ids": tuple(MOVIES), "watched": (), "kept_in": "database"}
        return Receipt(**(fields | changes))

    return make


@pytest.fixture
def noon() -> datetime:
    return NOON


@pytest.fixture
def plan() -> Plan:
    return PLAN
