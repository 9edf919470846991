import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import retrain
from pipelines.errors import MarqueeError
from pipelines.release import world
from pipelines.release.ledger import Ledger, State
from pipelines.release.plan import Plan
from pipelines.settings import read

TODAY, OLD = 2, 1
"""Formats of artifacts."""


class Registry:
    """Versions by their ``model.json``."""

    def __init__(self, **metas):
        self.metas = {int(name[1:]): meta for name, meta in metas.items()}

    def versions(self):
        return [type("Info", (), {"number": number}) for number in self.metas]

    def meta(self, version, models_dir):
        return self.metas[version]

    def export(self, version, models_dir):
        raise AssertionError("nothing needs to be laid out")


def meta(*batches, written_as=TODAY):
    return {"format": written_as, "provenance": {"batches": list(batches)}}


def batch(first, last):
    return f"movielog4~1-0-{first:012d}-{last:012d}.parquet"


@pytest.fixture
def config(tmp_path):
    config = read(_env_file=None, var_dir=tmp_path)
    config.batches_dir.mkdir()
    for name in (batch(0, 9), batch(10, 19)):
        (config.batches_dir / name).touch()
    return config


@pytest.fixture
def registered(monkeypatch):
    return lambda **metas: monkeypatch.setattr(world, "registry", lambda config: Registry(**metas))


@pytest.fixture
def serves(config):
    def promote(version):
        ledger = Ledger(world.records(config))
        opened = ledger.open(version, previous=None, plan=Plan.of(config), requested_by="test")
        ledger.decide(opened.release_id, State.PROMOTING, verdict="pass", reason="fine")
        ledger.move(opened.release_id, State.PROMOTED)

    yield promote
    world.records(config).dispose()


def test_a_run_id_of_airflow_becomes_a_folder_name(config):
    folder = retrain.run_dir(config, "manual__2026-11-22T05:06:01.06+00:00")
    assert folder == config.var_dir / "runs" / "manual__2026-11-22T05-06-01.06-00-00"


@given(st.text(max_size=80))
def test_no_run_id_leaves_its_folder(run_id):
    name = retrain.run_dir(read(_env_file=None), run_id).name
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name)


def test_what_the_newest_version_was_trained_on_is_not_new(config, registered):
    registered(v1=meta(batch(0, 9), batch(10, 19)), v2=meta(batch(0, 9)))
    assert retrain.untrained(config) == [batch(10, 19)]


def test_without_a_version_everything_is_new(config, registered):
    registered()
    assert retrain.untrained(config) == [batch(0, 9), batch(10, 19)]


def test_a_version_that_replicas_cannot_read_any_more_counts_for_nothing(config, registered):
    registered(v1=meta(batch(0, 9), batch(10, 19), written_as=OLD))
    assert retrain.untrained(config) == [batch(0, 9), batch(10, 19)]


def test_a_serving_model_of_another_format_is_a_warning(config, registered, serves, caplog):
    registered(v1=meta(written_as=OLD))
    serves(1)
    assert retrain.serving_model(config) is None
    assert "version 1, which serves, has format 1" in caplog.text


def test_following_begins_after_the_data_of_the_version_that_serves(config, registered, serves):
    registered(v1=meta(batch(0, 9)), v2=meta(batch(0, 9), batch(10, 19)))
    assert retrain.trained_up_to(config) == {}
    serves(1)
    assert retrain.trained_up_to(config) == {0: 10}


def test_following_begins_somewhere_when_nobody_can_say_where(config, monkeypatch, caplog):
    def away(config):
        raise MarqueeError("the database is away")

    monkeypatch.setattr(world, "ledger", away)
    assert retrain.trained_up_to(config) == {}
    assert "the database is away" in caplog.text
