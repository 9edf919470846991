import pandas as pd
import pytest

from pipelines.model.recipe import TrainConfig
from pipelines.model.train import train
from pipelines.release import preflight
from pipelines.release.preflight import check

CONFIG = TrainConfig(seed=1, svd_factors=2, svd_epochs=1, trending_half_life_days=2.0)


@pytest.fixture
def model_dir(tmp_path):
    """Thirty movies, ten users who rated three each."""
    rows = [
        (f"u{user}", f"m{(user + place) % 30}", 4.0, 100 + user) for user in range(10) for place in range(3)
    ]
    rows += [(f"w{movie}", f"m{movie}", 3.0, 200 + movie) for movie in range(30)]
    ratings = pd.DataFrame(rows, columns=["user_id", "movie_id", "rating", "timestamp"])
    out = tmp_path / "model"
    train(ratings, None, out, config=CONFIG, scale=(1, 5), judge=None, provenance={})
    return out


def test_sound_model_has_nothing_wrong(model_dir, monkeypatch):
    assert check(model_dir, version=None) == ""


def test_model_of_another_version_is_named(model_dir):
    assert "holds version None, version 7 was wanted" in check(model_dir, version=7)


def test_model_with_a_missing_file_is_named(model_dir):
    next(model_dir.glob("neighbour*.npy")).unlink()
    assert str(model_dir) in check(model_dir, version=None)


def test_short_list_is_named(model_dir, monkeypatch):
    monkeypatch.setattr(preflight, "LIST_LENGTH", 20)
    real = preflight.load(model_dir)
    monkeypatch.setattr(preflight, "load", lambda folder: Bent(real, lambda ids: ids[:3]))
    assert "gets 3 distinct movies, 20 were wanted" in check(model_dir, version=None)


def test_repeated_movie_is_named(model_dir, monkeypatch):
    real = preflight.load(model_dir)
    monkeypatch.setattr(preflight, "load", lambda folder: Bent(real, lambda ids: [ids[0]] * len(ids)))
    assert "gets 1 distinct movies" in check(model_dir, version=None)


def test_seen_movie_is_named(model_dir, monkeypatch):
    real = preflight.load(model_dir)
    monkeypatch.setattr(preflight, "load", lambda folder: Bent(real, lambda ids: [*ids[:-1], "m0"]))
    monkeypatch.setattr(preflight, "_STRANGERS", ())
    assert "is offered 'm0', which that user has seen" in check(model_dir, version=None)


class Bent:
    """A model whose lists go through ``bend``."""

    def __init__(self, model, bend):
        self._model = model
        self._bend = bend

    def __getattr__(self, name):
        return getattr(self._model, name)

    def recommend(self, user_id, k):
        answer = self._model.recommend(user_id, k)
        movies = [movie for movie in answer.movie_ids if movie != "m0"]
        return type(answer)(self._bend([*movies, "m0"][: len(answer.movie_ids)]), answer.source)
