import time
from pathlib import Path

import pytest

from pipelines.errors import SettingsError
from pipelines.local import slow
from serving import create_app
from serving.receipts import Receipt
from tests.fakes import ToyModel, tiny_artifact


class LastReceipt:
    """Remembers one receipt."""

    latency_ms = 0.0

    def append(self, receipt: Receipt) -> bool:
        self.latency_ms = receipt["latency_ms"]
        return True


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Sleeps are noted down, and the clock of the application is advanced by them."""
    taken: list[float] = []
    real = time.perf_counter
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.setattr(slow.time, "sleep", taken.append)
    monkeypatch.setattr("serving.app.perf_counter", lambda: real() + sum(taken))
    return taken


def test_the_delay_is_inside_the_latency_of_the_receipt(naps: list[float]) -> None:
    receipts = LastReceipt()
    app = create_app(ToyModel(), version=7, arm="canary", replica="canary", receipts=receipts)
    slow.slow_down(app, delay_s=700.0).test_client().get("/recommend/1")

    assert naps == [700.0]
    assert receipts.latency_ms >= 700_000.0


def test_probes_are_not_slowed_down(naps: list[float]) -> None:
    app = create_app(ToyModel(), version=7, arm="canary", replica="canary", receipts=LastReceipt())
    client = slow.slow_down(app, delay_s=700.0).test_client()
    for path in ("/healthz", "/readyz", "/version", "/metrics", "/nowhere"):
        client.get(path)

    assert naps == []


@pytest.mark.parametrize(("given", "delay_s"), [(None, 0.7), ("50", 0.05)])
def test_the_environment_says_how_slow(
    given: str | None,
    delay_s: float,
    naps: list[float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MARQUEE_MODEL_DIR", str(tiny_artifact(tmp_path / "v7")))
    monkeypatch.setenv("MARQUEE_ARM", "canary")
    monkeypatch.setenv("MARQUEE_REPLICA", "canary")
    monkeypatch.setenv("MARQUEE_SPOOL_DIR", str(tmp_path / "spool"))
    if given is None:
        monkeypatch.delenv("MARQUEE_LOCAL_DELAY_MS", raising=False)
    else:
        monkeypatch.setenv("MARQUEE_LOCAL_DELAY_MS", given)

    slow.create_app_from_env().test_client().get("/recommend/1")

    assert naps == [delay_s]


@pytest.mark.parametrize("given", ["", "fast", "-1", "0.5"])
def test_a_delay_that_is_no_number_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARQUEE_LOCAL_DELAY_MS", given)

    with pytest.raises(SettingsError, match="MARQUEE_LOCAL_DELAY_MS"):
        slow.create_app_from_env()
