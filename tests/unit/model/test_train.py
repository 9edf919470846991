from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from pipelines.data import batches
from pipelines.errors import DataError, ModelError
from pipelines.model import artifact
from pipelines.model.evaluate import evaluate
from pipelines.model.train import evaluate_and_train, load_ratings, load_viewings, train

HEADER = "user_id,movie_id,rating,timestamp"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def load(tmp_path):
    """Write text to a CSV and load it; rows as tuples."""

    def write_and_load(text):
        path = tmp_path / "ratings.csv"
        path.write_text(text)
        return list(load_ratings(path).itertuples(index=False, name=None))

    return write_and_load


def test_rows_come_in_order_of_time_user_and_movie(load):
    rows = load(f"{HEADER}\nb,x,1,9\na,y,2,9\na,x,3,9\nc,x,4,1\n")
    assert [row[:2] for row in rows] == [("c", "x"), ("a", "x"), ("a", "y"), ("b", "x")]


def test_all_ratings_of_a_movie_come_in_the_order_of_time_then_of_lines(load):
    assert load(f"{HEADER}\nu,m,1,20\nu,m,2,10\nv,m,3,5\nv,m,4,5\n") == [
        ("v", "m", 3, 5),
        ("v", "m", 4, 5),
        ("u", "m", 2, 10),
        ("u", "m", 1, 20),
    ]


def test_a_folder_is_read_as_batches(tmp_path, monkeypatch):
    assert load_ratings(tmp_path).empty
    monkeypatch.setattr("pipelines.model.train.read_viewings", lambda folder: ("viewings of", folder))
    assert load_viewings(tmp_path) == ("viewings of", tmp_path)
    assert load_viewings(tmp_path / "ratings.csv") is None
    assert list(load_ratings(tmp_path).columns) == list(batches.read_ratings(tmp_path).columns)


def test_training_twice_gives_the_same_files(two_camps, tmp_path, config):
    for name in ("one", "two"):
        train(
            two_camps,
            None,
            tmp_path / name,
            config=config,
            scale=(1, 5),
            judge=None,
            provenance={"batches": ["b1"]},
            trained_on=NOON,
        )
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_only_the_time_of_training_differs_by_itself(two_camps, tmp_path, config):
    metas = [
        train(two_camps, None, tmp_path / "m", config=config, scale=None, judge=None, provenance={})
        for _ in "12"
    ]
    times = [datetime.fromisoformat(meta.pop("trained_on")) for meta in metas]
    assert metas[0] == metas[1]
    assert times[0] <= times[1] <= datetime.now(UTC)


def test_model_json_says_where_the_model_comes_from(make_ratings, make_viewings, tmp_path, config):
    ratings = make_ratings([("u", "a", 2, 60), ("u", "b", 4, 120), ("v", "a", 3, 90)])
    judged = evaluate(ratings, None, config=config, holdout_share=0.1, serving=None)
    meta = train(
        ratings,
        make_viewings([("w", "c"), ("w", "a"), ("u", "a")]),
        tmp_path / "m",
        config=config,
        scale=None,
        judge=judged,
        provenance={"offsets": {"0": [0, 99]}},
        trained_on=NOON.astimezone(timezone(timedelta(hours=2))),
    )
    assert artifact.load(tmp_path / "m", verify=True).meta == meta
    assert meta["version"] is None
    assert meta["trained_on"] == "2026-03-01T12:00:00+00:00"
    assert meta["data_creation"] == "1970-01-01T00:02:00+00:00"
    assert meta["seed"] == meta["config"]["seed"] == 20
    assert (meta["scale"], meta["mean"]) == ([2.0, 4.0], 3.0)
    assert meta["provenance"] == {"offsets": {"0": [0, 99]}}
    assert meta["metrics"]["rmse"] is None, "three ratings leave none to hold out, and JSON has no NaN"
    assert set(meta["libraries"]) == {"python", "numpy", "pandas", "scikit-surprise", "scipy"}
    assert meta["counts"] == {
        "users": 3,
        "raters": 2,
        "movies": 3,
        "ratings": 3,
        "viewings": 3,
        "interactions": 3 + 2,
        "neighbours": 3 * 2 + 3,
    }


def test_users_of_one_movie_each_make_a_model(make_ratings, tmp_path, config):
    """There is nobody to tune the ranker on, and JSON has no NaN."""
    ratings = make_ratings([("u", "a", 2), ("v", "a", 3), ("w", "b", 4)])
    meta = train(ratings, None, tmp_path / "m", config=config, scale=None, judge=None, provenance={})
    assert meta["ranker"]["validation_ndcg_at_10"] is None
    assert artifact.load(tmp_path / "m").recommend("u").movie_ids == ["b"]


def test_progress_counts_the_epochs_of_both_fits(two_camps, tmp_path, config):
    seen = []
    evaluate_and_train(
        two_camps,
        None,
        tmp_path / "m",
        config=config,
        holdout_share=0.1,
        scale=None,
        serving=None,
        provenance={},
        progress=lambda *told: seen.append(told),
    )
    epochs = config.svd_epochs
    both = [*range(epochs + 1), *range(epochs, 2 * epochs + 1)]
    assert seen == [(done, 2 * epochs) for done in both]


def test_nothing_is_written_when_there_is_nothing_to_train_on(make_ratings, tmp_path, config):
    with pytest.raises(DataError, match="no ratings to train on"):
        train(make_ratings([]), None, tmp_path / "m", config=config, scale=None, judge=None, provenance={})
    assert not list(tmp_path.iterdir())


def test_an_id_that_cannot_be_stored_is_an_error(make_ratings, tmp_path, config):
    with pytest.raises(ModelError, match="cannot be stored"):
        train(
            make_ratings([("u\0", "m", 3)]),
            None,
            tmp_path / "m",
            config=replace(config, svd_epochs=1),
            scale=None,
            judge=None,
            provenance={},
        )
