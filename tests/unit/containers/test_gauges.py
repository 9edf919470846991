import json
import shutil
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.containers import gauges
from pipelines.containers.gauges import Gauges, wanted
from pipelines.errors import MarqueeError
from pipelines.records.database import migrate
from pipelines.release.entries import State
from pipelines.settings import read

EVENTS = "2026-11-22T12:00:00,1,GET /rate/heat+1995=4\n" * 3


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    file = tmp_path_factory.mktemp("migrated") / "records.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture
def config(tmp_path, migrated):
    shutil.copy(migrated, tmp_path / "records.db")
    (tmp_path / "spool").mkdir()
    (tmp_path / "events.log").write_text(EVENTS)
    return read(_env_file=None, var_dir=tmp_path, event_source="file", event_file=tmp_path / "events.log")


def scraped(source):
    """Scrape as Prometheus does; return the values by name and labels."""
    registry = CollectorRegistry()
    registry.register(source)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name.removeprefix("marquee_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def ledger_with(*, stable=None, state=None, version=4):
    release = SimpleNamespace(state=state, version=version) if state else None
    return SimpleNamespace(stable=lambda: stable, under_way=lambda: release)


def test_nothing_is_wanted_before_the_first_release():
    assert wanted(ledger_with(state=State.OPEN)) == []


@pytest.mark.parametrize(
    ("state", "canary"),
    [
        (None, False),
        (State.OPEN, False),
        (State.WATCHING, True),
        (State.ASKING, True),
        (State.ABORTING, False),
        (State.GUARDING, False),
    ],
)
def test_a_canary_is_wanted_while_it_has_viewers(state, canary):
    stable = [("stable-1", "stable", "3"), ("stable-2", "stable", "3")]
    assert wanted(ledger_with(stable=3, state=state)) == stable + canary * [("canary", "canary", "4")]


def test_every_source_says_what_it_is_like(config, monkeypatch):
    monkeypatch.setattr(gauges, "EVERY_S", 0.0)
    age = timedelta(minutes=20)
    line = json.dumps({"served_at": (datetime.now(UTC) - age).isoformat()}) + "\n"
    (config.spool_dir / "canary-7-1.jsonl").write_text(line * 2)
    source = Gauges(config)
    scraped(source)  # from now on it is known what has been shipped
    seen = scraped(source)
    free = [seen.pop(("disk_free_ratio", volume)) for volume in ("state", "spool")]
    assert all(0 < share < 1 for share in free)
    assert seen.pop(("spool_oldest_seconds",)) == pytest.approx(age.total_seconds(), abs=10)
    assert seen == {
        ("spool_bytes",): 2 * len(line),
        ("spool_waiting_bytes",): 2 * len(line),
        ("spool_files",): 1,
        ("stream_end_offset", "0"): 3,
        **{("gauge_errors_total", name): 0 for name in ("records", "spool", "stream", "disks")},
    }


def test_a_source_that_fails_costs_its_own_gauges_and_is_counted(config):
    config.event_file.unlink()
    seen = scraped(Gauges(config))
    assert ("stream_end_offset", "0") not in seen
    assert seen["spool_files",] == 0
    assert (seen["gauge_errors_total", "stream"], seen["gauge_errors_total", "records"]) == (1, 0)


def test_what_waits_is_known_while_the_database_is_away(config, monkeypatch):
    file = config.spool_dir / "canary-7-1.jsonl"
    file.write_text("x" * 1_000)

    def away(_):
        raise MarqueeError("gone")

    monkeypatch.setattr(gauges, "EVERY_S", 0.0)
    monkeypatch.setattr(gauges, "shipped_bytes", lambda _: {"canary-7-1": 600})
    source = Gauges(config)
    scraped(source)
    monkeypatch.setattr(gauges, "shipped_bytes", away)
    file.write_text("x" * 1_500)
    seen = scraped(source)
    assert (seen["spool_waiting_bytes",], seen["gauge_errors_total", "records"]) == (1_500 - 600, 1)


def test_a_slow_source_holds_no_scrape_up_and_is_asked_once_at_a_time(config, monkeypatch):
    asked, go_on = [], threading.Event()

    def slow(_):
        asked.append(1)
        go_on.wait(5)
        return {}

    monkeypatch.setattr(gauges, "PATIENCE_S", 0.05)
    monkeypatch.setattr(gauges, "EVERY_S", 0.0)
    monkeypatch.setattr(gauges, "shipped_bytes", slow)
    source = Gauges(config)
    scraped(source)
    assert scraped(source)["gauge_errors_total", "records"] == 2
    assert asked == [1]
    go_on.set()


def test_many_scrapes_ask_a_source_once_in_a_while(config, monkeypatch):
    asked = []
    monkeypatch.setattr(gauges, "shipped_bytes", lambda _: asked.append(1) or {})
    source = Gauges(config)
    for _ in range(5):
        scraped(source)
    assert asked == [1]
