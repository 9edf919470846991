"""The steps of a training on a real registry (git and DVC), from an archived log."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from pipelines import retrain
from pipelines.checks.profile import Profile, describe
from pipelines.data.batches import list_batches
from pipelines.errors import NothingNew, Refused
from pipelines.events.grammar import Rating
from pipelines.local.audience.history import history
from pipelines.records.tables import tracking
from pipelines.release import world
from pipelines.release.entries import State
from pipelines.release.plan import Plan
from pipelines.settings import read

USERS = 60


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "movielog.log"
    history(path, seed=1, users=USERS)
    return path


@pytest.fixture
def config(tmp_path, log):
    return read(_env_file=None, var_dir=tmp_path / "var", event_source="file", event_file=log, svd_epochs=5)


@pytest.fixture
def alerts():
    return []


def numbers(config) -> list[int]:
    return [info.number for info in world.registry(config).versions()]


def tracked(config) -> list[tuple]:
    with world.records(config).connect() as connection:
        return [
            tuple(row) for row in connection.execute(select(tracking.c.version_number, tracking.c.run_id))
        ]


def add_ratings(log, stars) -> None:
    """Append one rating a second, newer than everything in ``log``."""
    at = datetime.now(UTC) + timedelta(seconds=1)
    lines = [
        Rating(at + timedelta(seconds=n), 1 + n % USERS, f"film+{n % 7}+2001", star).line()
        for n, star in enumerate(stars)
    ]
    with log.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def promote(config, version) -> None:
    ledger = world.ledger(config)
    opened = ledger.open(version, previous=None, plan=Plan.of(config), requested_by="test")
    ledger.decide(opened.release_id, State.PROMOTING, verdict="pass", reason="fine")
    ledger.end(opened.release_id, State.PROMOTED)


def test_first_training_makes_version_one_and_a_second_one_finds_nothing_new(config, alerts):
    assert retrain.run(config, run_id="one", announce=alerts.append) == 1
    assert (numbers(config), tracked(config), alerts) == ([1], [(1, "one")], [])
    with pytest.raises(NothingNew, match="there is nothing to do"):
        retrain.run(config, run_id="two", announce=alerts.append)
    assert numbers(config) == [1]


def test_next_version_is_trained_on_all_batches(config, log, alerts):
    retrain.run(config, run_id="one", announce=alerts.append)
    add_ratings(log, [3, 4, 4, 5] * 20)
    assert retrain.run(config, run_id="two", announce=alerts.append) == 2
    folder = world.registry(config).export_batches(2, config.var_dir / "looked-at")
    assert len(list(folder.glob("*.parquet"))) == 2


def test_the_model_in_an_old_runs_folder_goes_and_its_version_stays(config, log, alerts, monkeypatch):
    monkeypatch.setattr(retrain, "KEEP_MODELS", 1)
    retrain.run(config, run_id="one", announce=alerts.append)
    add_ratings(log, [3, 4, 4, 5] * 20)
    retrain.run(config, run_id="two", announce=alerts.append)
    assert [model.parent.name for model in (config.var_dir / "runs").glob("*/model")] == ["two"]
    assert retrain.run_dir(config, "one").joinpath("report.json").exists()
    assert (world.registry(config).export(1, config.models_dir) / "model.json").exists()


def test_new_data_are_compared_with_those_that_the_serving_model_was_trained_on(config, log, alerts):
    retrain.run(config, run_id="one", announce=alerts.append)
    first = json.loads((retrain.run_dir(config, "one") / "report.json").read_text())
    assert first["compared_with"].startswith("no model serves")
    promote(config, 1)
    add_ratings(log, [2, 3] * 100)
    retrain.collect(config, announce=alerts.append)
    validated = retrain.validate(config, run_id="two", announce=alerts.append)
    assert json.loads(Path(validated["report"]).read_text())["compared_with"] == "the data of version 1"
    warned = {line.split(": ")[1] for line in validated["warnings"]}
    assert {"drift.rating_shift", "drift.new_movie_excess"} <= warned
    # No user is new: the archive has the users 1 to 60, and so has what came now.
    assert "drift.new_user_excess" not in warned
    assert any(
        line.startswith("not looked at: drift.popularity_shift") for line in validated["not_looked_at"]
    )


def test_version_carries_a_small_profile_of_its_data(config, alerts):
    retrain.run(config, run_id="one", announce=alerts.append)
    meta = world.registry(config).meta(1, config.models_dir)
    names = [batch.name for batch in list_batches(config.batches_dir)]
    assert Profile.of_json(meta["provenance"]["profile"]) == describe(config.batches_dir, names)
    assert len(json.dumps(meta["provenance"]["profile"])) < 10_000


def test_what_comes_after_the_check_is_left_to_the_next_training(config, log, alerts):
    told = {"announce": alerts.append}
    checked = retrain.collect(config, **told)["batches"]
    retrain.validate(config, run_id="one", **told)
    add_ratings(log, [3, 4, 4, 5] * 20)
    came = retrain.collect_new(config, **told)["batches"]
    retrain.train(config, run_id="one")
    retrain.gate(config, run_id="one", **told)
    retrain.version(config, run_id="one", **told)
    folder = world.registry(config).export_batches(1, config.var_dir / "looked-at")
    assert [path.name for path in folder.glob("*.parquet")] == checked
    assert retrain.untrained(config) == came


def test_refused_model_is_told_with_its_rmse_and_gets_no_version(config, alerts):
    strict = config.model_copy(update={"max_rmse": 0.1})
    with pytest.raises(Refused, match=r"is not below 0\.1"):
        retrain.run(strict, run_id="one", announce=alerts.append)
    assert [alert.title.split(",")[0] for alert in alerts] == ["Marquee: model refused"]
    assert numbers(config) == []
    # The data is still there: with the right limit the next run goes on.
    assert retrain.run(config, run_id="two", announce=alerts.append) == 1


def test_refused_data_is_told_with_the_failed_checks_and_nothing_is_trained(config, log, alerts):
    with log.open("a") as file:
        file.write("nonsense\n" * 40_000)
    with pytest.raises(Refused, match="data refused"):
        retrain.run(config, run_id="one", announce=alerts.append)
    assert "reject_share" in alerts[0].body
    assert not (retrain.run_dir(config, "one") / "model").exists()


def test_every_step_may_be_run_again(config, alerts):
    told = {"announce": alerts.append}
    retrain.collect(config, **told)
    for step, more in (
        (retrain.validate, {"run_id": "one", **told}),
        (retrain.train, {"run_id": "one"}),
        (retrain.gate, {"run_id": "one", **told}),
        (retrain.version, {"run_id": "one", **told}),
    ):
        assert step(config, **more) == step(config, **more)
    assert numbers(config) == [1]
    assert tracked(config) == [(1, "one")]


def test_what_was_collected_before_a_kill_is_trained_without_a_new_event(config, alerts):
    retrain.collect(config, announce=alerts.append)
    collected = retrain.collect(config, announce=alerts.append)
    assert (collected["lines"], len(collected["untrained"])) == (0, 1)


def test_unreachable_remote_is_an_alert_and_the_version_stays_local(config, tmp_path, alerts):
    away = config.model_copy(update={"registry_git_remote": str(tmp_path / "nowhere" / "models.git")})
    assert retrain.run(away, run_id="one", announce=alerts.append) == 1
    assert [alert.title for alert in alerts] == ["Marquee: version 1 could not be pushed"]
