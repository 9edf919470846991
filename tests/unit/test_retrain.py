import json
import os
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import retrain
from pipelines.data import quarantine
from pipelines.data.collect import Collected, collect
from pipelines.data.quarantine import Quarantined
from pipelines.errors import DataError, Locked, MarqueeError, NothingNew, TooEarly
from pipelines.events.sources import FileSource
from pipelines.release import world
from pipelines.release.entries import State
from pipelines.release.ledger import Ledger
from pipelines.release.plan import Plan
from pipelines.settings import EventSource, read

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
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


def meta(*batches, written_as=TODAY, without=()):
    quarantined = [entry(first, last).as_json() for first, last in without]
    return {"format": written_as, "provenance": {"batches": list(batches), "quarantined": quarantined}}


def entry(first, last):
    return Quarantined("movielog4", 1, 0, first, last, "a stuck client", "ann", NOON)


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
        ledger.end(opened.release_id, State.PROMOTED)

    yield promote
    world.records(config).dispose()


def test_a_run_id_of_airflow_becomes_a_folder_name(config):
    folder = retrain.run_dir(config, "manual__2026-11-22T05:06:01.06+00:00")
    assert folder == config.var_dir / "runs" / "manual__2026-11-22T05-06-01.06-00-00"


@given(st.text(max_size=80))
def test_no_run_id_leaves_its_folder(run_id):
    name = retrain.run_dir(read(_env_file=None), run_id).name
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name)


@pytest.fixture
def collected(monkeypatch):
    """Nothing comes."""
    monkeypatch.setattr("pipelines.data.collect.collect", lambda source, out, **others: Collected())


@pytest.fixture
def locked(monkeypatch):
    def collect(source, out, *, patience_s, **others):
        raise Locked(f"process 7 is collecting into {out}; waited {patience_s:g} s")

    monkeypatch.setattr("pipelines.data.collect.collect", collect)


def test_a_training_takes_what_is_there_when_another_collects_for_long(config, registered, locked, caplog):
    registered(v1=meta(batch(0, 9)))
    collected = retrain.collect(config, announce=print)
    assert (collected["lines"], collected["untrained"]) == (0, [batch(10, 19)])
    assert "process 7 is collecting" in caplog.text
    assert f"waited {retrain.PATIENCE_S:g} s; the training takes what is there by now" in caplog.text


def test_a_training_without_anything_does_not_go_on_beside_another_that_collects(config, registered, locked):
    registered(v1=meta(batch(0, 9), batch(10, 19)))
    with pytest.raises(Locked, match="process 7"):
        retrain.collect(config, announce=print)


def test_the_hourly_collect_waits_for_nobody(config, locked):
    with pytest.raises(Locked, match="waited 0 s"):
        retrain.collect_new(config, announce=print)


def test_the_hourly_collect_returns_what_came_or_that_nothing_did(config, tmp_path):
    log = tmp_path / "day.log"
    log.write_text("2022-11-14T12:24,1,GET /rate/heat+1995=4\n")
    config = config.model_copy(update={"event_source": EventSource.FILE, "event_file": log})
    collected = retrain.collect_new(config, announce=print)
    assert (collected["lines"], collected["partitions"]["0"]["last_offset"]) == (1, 0)
    with pytest.raises(NothingNew, match="no event has come to 'day' since the last time"):
        retrain.collect_new(config, announce=print)


@pytest.fixture
def stream(tmp_path):
    """Settings under which a log with so many ratings is the stream."""

    def with_ratings(ratings):
        log = tmp_path / "day.log"
        lines = [f"2022-11-14T12:24,{user},GET /rate/heat+1995=4\n" for user in range(1, ratings + 1)]
        log.write_text("".join(lines))
        return read(
            _env_file=None,
            var_dir=tmp_path,
            event_source=EventSource.FILE,
            event_file=log,
            min_holdout=5,
            holdout_share=0.1,
        )

    return with_ratings


@pytest.mark.parametrize("ratings", [0, 49])
def test_a_first_training_by_itself_waits_for_enough_ratings_to_be_judged_by(registered, stream, ratings):
    registered()
    with pytest.raises(TooEarly, match=f"^{ratings} ratings have come so far; a first version takes 50, so"):
        retrain.collect(stream(ratings), announce=print, first_waits=True)


def test_a_first_training_begins_with_enough_ratings(registered, stream):
    registered()
    stream(49)
    with pytest.raises(TooEarly):
        retrain.collect(stream(49), announce=print, first_waits=True)
    assert retrain.collect(stream(50), announce=print, first_waits=True)["lines"] == 1


def test_who_asks_for_a_first_training_gets_it_with_what_there_is(registered, stream):
    registered()
    assert retrain.collect(stream(1), announce=print)["lines"] == 1


def test_a_training_after_the_first_waits_for_nothing(registered, stream):
    registered(v1={"format": TODAY, "provenance": {"batches": ["day~1-0-000000000000-000000000000.parquet"]}})
    assert retrain.collect(stream(2), announce=print, first_waits=True)["lines"] == 2


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


def test_an_archived_log_is_trained_on_like_the_stream(config, registered):
    registered(v1=meta(batch(0, 9), batch(10, 19)))
    archived = batch(0, 99).replace("movielog4", "monday")
    (config.batches_dir / archived).touch()
    assert retrain.untrained(config) == [archived]


def test_a_batch_of_which_nothing_is_left_counts_for_nothing(config, registered):
    registered(v1=meta(batch(0, 9)))
    quarantine.add(config.batches_dir, entry(10, 19))
    assert (retrain.untrained(config), retrain.emptied(config)) == ([], [])


def test_a_batch_in_which_something_else_is_out_was_trained_on_by_nobody(config, registered):
    registered(v1=meta(batch(0, 9), batch(10, 19)))
    quarantine.add(config.batches_dir, entry(5, 12))
    assert retrain.untrained(config) == [batch(0, 9), batch(10, 19)]
    registered(v1=meta(batch(0, 9), batch(10, 19), without=[(5, 12)]))
    assert retrain.untrained(config) == []
    quarantine.lift(config.batches_dir, entry(5, 12))
    assert retrain.untrained(config) == [batch(0, 9), batch(10, 19)]


def test_the_same_ranges_cut_otherwise_change_nothing(config, registered):
    registered(v1=meta(batch(0, 9), batch(10, 19), without=[(5, 7), (8, 12)]))
    quarantine.add(config.batches_dir, entry(5, 12))
    assert retrain.untrained(config) == []


def test_a_batch_that_is_out_since_the_newest_version_is_a_reason_to_train(config, registered):
    quarantine.add(config.batches_dir, entry(10, 19))
    registered(v1=meta(batch(0, 9), batch(10, 19)))
    assert (retrain.untrained(config), retrain.emptied(config)) == ([], [batch(10, 19)])
    registered(v1=meta(batch(0, 9), batch(10, 19)), v2=meta(batch(0, 9), without=[(10, 19)]))
    assert (retrain.untrained(config), retrain.emptied(config)) == ([], [])
    # Taken out between the checks and the training, it is named though nothing of it was read.
    registered(v1=meta(batch(0, 9), batch(10, 19), without=[(10, 19)]))
    assert (retrain.untrained(config), retrain.emptied(config)) == ([], [])


def test_what_was_taken_out_alone_goes_on_to_the_training(config, registered, collected):
    registered(v1=meta(batch(0, 9), batch(10, 19)))
    with pytest.raises(NothingNew):
        retrain.collect(config, announce=print)
    quarantine.add(config.batches_dir, entry(10, 19))
    assert retrain.collect(config, announce=print)["untrained"] == []
    assert retrain.validate(config, run_id="one", announce=print)["rows"] == {}
    assert json.loads(retrain.batches_path(config, "one").read_text()) == [batch(0, 9)]


def test_a_quarantine_that_changes_while_batches_are_read_stops_the_step(config, monkeypatch):
    def read_and_interfere(folder, names):
        quarantine.add(folder, entry(0, 3))

    monkeypatch.setattr("pipelines.data.batches.read_ratings", read_and_interfere)
    monkeypatch.setattr("pipelines.data.batches.read_viewings", lambda folder, names: None)
    path = retrain.batches_path(config, "one")
    path.parent.mkdir(parents=True)
    path.write_text("[]")
    with pytest.raises(DataError, match="changed while its batches were read; run this step again"):
        retrain.train(config, run_id="one")


class TestFollowing:
    """From where on users' latest viewings are followed."""

    @pytest.fixture
    def stream(self, config, tmp_path):
        """Collects a log under the topic's name, ten lines a batch; returns settings that follow it."""

        def collected(folder, user):
            log = tmp_path / folder / "movielog4.log"
            log.parent.mkdir()
            log.write_text(
                "".join(f"2022-11-14T12:24,{user},GET /data/m/heat+1995/{n}.mpg\n" for n in range(20))
            )
            for fake in config.batches_dir.glob("*.parquet"):
                if not fake.stat().st_size:
                    fake.unlink()
            collect(FileSource(log), config.batches_dir, batch_lines=10)
            return config.model_copy(update={"event_source": EventSource.FILE, "event_file": log})

        return collected

    def test_it_begins_after_the_data_of_the_version_that_serves(self, stream, registered, serves):
        config = stream("live", user=1)
        registered(v1=meta(batch(0, 9)), v2=meta(batch(0, 9), batch(10, 19)))
        assert retrain.trained_up_to(config) == {}
        serves(1)
        assert retrain.trained_up_to(config) == {0: 10}

    def test_an_archived_log_of_the_same_name_does_not_disturb_it(self, stream, registered, serves):
        live, archived = stream("live", user=1), stream("archived", user=2)
        again = batch(0, 9).replace("~1-", "~2-")
        registered(v1=meta(batch(0, 9), batch(10, 19), again))
        serves(1)
        assert retrain.trained_up_to(live) == {0: 20}
        assert retrain.trained_up_to(archived) == {0: 10}

    def test_a_stream_that_nothing_was_collected_from_is_followed_from_its_start(
        self, stream, registered, serves, tmp_path
    ):
        config = stream("live", user=1)
        registered(v1=meta(batch(0, 9)))
        serves(1)
        config.event_file.write_text("another stream\n")
        assert retrain.trained_up_to(config) == {}


def test_following_begins_somewhere_when_nobody_can_say_where(config, monkeypatch, caplog):
    def away(config):
        raise MarqueeError("the database is away")

    monkeypatch.setattr(world, "ledger", away)
    assert retrain.trained_up_to(config) == {}
    assert "the database is away" in caplog.text


# --- what new data are compared with ------------------------------------------------------------------


@pytest.mark.parametrize("provenance", [{}, {"profile": {"lines": 9}}])
def test_a_model_that_left_no_profile_of_its_data_is_not_compared_with(config, monkeypatch, provenance):
    serving = type("Serving", (), {"version": 7, "meta": {"provenance": provenance}})
    monkeypatch.setattr(retrain, "serving_model", lambda config: serving)
    why = retrain.reference(config)
    assert re.match("version 7, which serves, has no profile .* the next training leaves one", why)


def test_without_a_serving_model_there_is_nothing_to_compare_with(config, monkeypatch):
    monkeypatch.setattr(retrain, "serving_model", lambda config: None)
    assert retrain.reference(config).startswith("no model serves")


def test_models_of_old_runs_go_and_what_was_said_of_them_stays(config):
    for age in range(4):
        folder = retrain.run_dir(config, f"run-{age}")
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "factors.npy").touch()
        (folder / "report.json").touch()
        os.utime(folder / "model", (1_000 - age, 1_000 - age))
    retrain.forget_models(config, keep=2)
    runs = config.var_dir / "runs"
    assert sorted(model.parent.name for model in runs.glob("*/model")) == ["run-0", "run-1"]
    assert len(list(runs.glob("*/report.json"))) == 4


def test_no_model_goes_while_there_are_few(config):
    retrain.forget_models(config, keep=2)
    (retrain.run_dir(config, "one") / "model").mkdir(parents=True)
    retrain.forget_models(config, keep=2)
    assert (retrain.run_dir(config, "one") / "model").is_dir()
