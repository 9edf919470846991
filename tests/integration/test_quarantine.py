"""Events that nothing should be trained on: left out, and followed to those whom they reached."""

from datetime import UTC, datetime, timedelta

import pytest

from pipelines import retrain
from pipelines.audit.books import open_books
from pipelines.audit.origin import origin_of
from pipelines.audit.radius import blast_radius
from pipelines.data import quarantine
from pipelines.data.batches import read_ratings, read_viewings
from pipelines.data.quarantine import Quarantined, Span
from pipelines.errors import NothingNew, Refused
from pipelines.events.grammar import Rating, Watch
from pipelines.local.audience.history import history
from pipelines.model.artifact import load, read_meta
from pipelines.model.train import evaluate_and_train, load_ratings, load_viewings
from pipelines.records.recorder import ship_once
from pipelines.release import world
from pipelines.release.entries import State
from pipelines.release.plan import Plan
from pipelines.settings import read
from serving import app as serving_app
from serving.receipts import Spool

USERS = 60
FAKE = "bought+2026"
"""A movie that only a robot has seen."""


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "movielog.log"
    history(path, seed=1, users=USERS)
    return path


@pytest.fixture
def config(tmp_path, log):
    config = read(_env_file=None, var_dir=tmp_path / "var", event_source="file", event_file=log, svd_epochs=5)
    yield config
    world.records(config).dispose()


@pytest.fixture
def alerts():
    return []


def append(log, events):
    """Append events and return the offsets they get."""
    first = len(log.read_bytes().splitlines())
    with log.open("a") as file:
        file.writelines(f"{event}\n" for event in events)
    return first, first + len(events) - 1


def robot():
    """Everybody gives the movie five stars and watches it."""
    at = datetime.now(UTC) + timedelta(seconds=1)
    users = range(1, USERS + 1)
    stars = [Rating(at + timedelta(seconds=n), n, FAKE, 5).line() for n in users]
    return stars + [Watch(at + timedelta(seconds=USERS), n, FAKE, 1).line() for n in users]


def ratings(after_s):
    """Ratings as people give them, one a second; enough for the gate to judge by."""
    at = datetime.now(UTC) + timedelta(seconds=after_s)
    return [
        Rating(at + timedelta(seconds=n), 1 + n % USERS, f"film+{n % 7}+2001", (3, 4, 4, 5)[n % 4]).line()
        for n in range(80)
    ]


def out(config, first, last):
    entry = Quarantined("movielog", 1, 0, first, last, "a robot", "ann", datetime.now(UTC))
    assert quarantine.add(config.batches_dir, entry)
    return entry


def knows_the_fake(config, version):
    return bool(load(world.registry(config).export(version, config.models_dir)).knows_movies([FAKE])[0])


def answer(config, version, users):
    """Let a replica of ``version`` answer ``users``, and ship the receipts."""
    model = load(world.registry(config).export(version, config.models_dir))
    spool = Spool(config.spool_dir, "stable-1")
    replica = serving_app.create_app(model, version=version, arm="stable", replica="stable-1", receipts=spool)
    for user in users:
        assert replica.test_client().get(f"/recommend/{user}").status_code == 200
    ship_once(world.records(config), config.spool_dir)


def promote(config, version):
    ledger = world.ledger(config)
    opened = ledger.open(version, previous=None, plan=Plan.of(config), requested_by="test")
    ledger.decide(opened.release_id, State.PROMOTING, verdict="pass", reason="fine")
    ledger.end(opened.release_id, State.PROMOTED)


def test_a_range_goes_from_the_next_version_and_is_followed_to_those_it_reached(config, log, alerts):
    retrain.run(config, run_id="one", announce=alerts.append)
    first, last = append(log, robot())
    retrain.run(config, run_id="two", announce=alerts.append)
    assert knows_the_fake(config, 2)
    promote(config, 2)
    answer(config, 2, ["1", "2", "2"])

    entry = out(config, first, last)
    assert FAKE not in set(read_ratings(config.batches_dir).movie_id)
    assert FAKE not in set(read_viewings(config.batches_dir).movie_id)
    append(log, ratings(after_s=180))
    assert retrain.run(config, run_id="three", announce=alerts.append) == 3
    assert not knows_the_fake(config, 3)
    with pytest.raises(NothingNew):
        retrain.run(config, run_id="four", announce=alerts.append)

    books = open_books(config)
    found = blast_radius(books, config.batches_dir, Span("movielog", 1, 0, first + 5, last))
    (touched,) = found.versions
    assert (touched.version, touched.offsets, touched.serves) == (2, last - first - 4, True)
    assert found.clean == 3
    assert (touched.reach.answers, touched.reach.users) == (3, 2)
    assert [release.state for release in touched.releases] == [State.PROMOTED]
    (hole,) = [each for each in origin_of(books.engine, 3).offsets if "without" in each]
    assert (hole["first"], hole["last"], hole["without"]) == (first, last, "quarantined")
    assert hole["why"].startswith("by ann on ")
    assert hole["why"].endswith(": a robot")

    quarantine.lift(config.batches_dir, entry)
    assert retrain.run(config, run_id="five", announce=alerts.append) == 4
    assert knows_the_fake(config, 4)


def test_refused_data_no_longer_blocks_a_training_once_it_is_out(config, log, alerts):
    retrain.run(config, run_id="one", announce=alerts.append)
    first, last = append(log, ["nonsense"] * 40_000)
    with pytest.raises(Refused, match="data refused"):
        retrain.run(config, run_id="two", announce=alerts.append)
    append(log, robot())
    with pytest.raises(Refused, match="data refused"):
        retrain.run(config, run_id="three", announce=alerts.append)
    out(config, first, last)
    assert retrain.run(config, run_id="four", announce=alerts.append) == 2


def test_a_version_is_fitted_again_to_the_same_bytes_whatever_was_taken_out_since(
    config, log, alerts, tmp_path
):
    first, last = append(log, robot())
    retrain.collect(config, announce=alerts.append)
    out(config, first, first + 9)
    retrain.run(config, run_id="one", announce=alerts.append)
    made = read_meta(world.registry(config).export(1, config.models_dir))
    out(config, first + 10, last)
    folder = world.registry(config).export_batches(1, tmp_path / "batches")
    assert [(entry.first, entry.last) for entry in quarantine.read(folder)] == [(first, first + 9)]
    again = evaluate_and_train(
        load_ratings(folder),
        load_viewings(folder),
        tmp_path / "again",
        config=retrain.train_config(config),
        holdout_share=config.holdout_share,
        scale=retrain.STARS,
        serving=None,
        provenance={},
    )
    assert again["files"] == made["files"]
