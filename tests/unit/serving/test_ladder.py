import logging

import pytest
from flask import Flask

from serving.ladder import Answer, Ladder
from serving.metrics import Metrics
from tests.fakes import ToyModel


@pytest.fixture
def model() -> ToyModel:
    return ToyModel()


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Metrics:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    return Metrics(Flask(__name__), version=7, arm="stable", timed_rule="/recommend/<userid>")


@pytest.fixture
def ladder(model: ToyModel, recents, metrics: Metrics) -> Ladder:
    return Ladder(model, recents, metrics)


def test_the_model_is_asked_first(ladder: Ladder, model: ToyModel) -> None:
    assert ladder.answer("1") == Answer(",".join(model.personal[:20]), "personal")


def test_what_the_user_has_watched_since_is_taken_into_account(
    ladder: Ladder, model: ToyModel, recents
) -> None:
    recents.movies["1"] = (model.personal[1], model.personal[0])

    assert ladder.answer("1") == Answer(",".join(model.personal[2:22]), "personal", recents.movies["1"])


def test_before_it_is_warm_there_is_no_last_rung(ladder: Ladder) -> None:
    assert ladder.answer("666") == Answer("", "popular")


def test_warming_up_fetches_the_last_rung(ladder: Ladder, model: ToyModel) -> None:
    assert ladder.warm_up()
    assert ladder.answer("666") == Answer(",".join(model.ever[:20]), "popular")


def test_whoever_has_seen_everything_is_shown_the_best_again(ladder: Ladder, model: ToyModel) -> None:
    ladder.warm_up()

    assert ladder.answer("full") == Answer(",".join(model.ever[:20]), "popular")


def test_an_empty_list_is_not_ready(ladder: Ladder, model: ToyModel) -> None:
    model.lately = []

    assert not ladder.warm_up()


def test_a_model_that_fell_ill_is_not_ready_but_its_popular_list_stays(
    ladder: Ladder, model: ToyModel
) -> None:
    ladder.warm_up()
    model.healthy = False

    assert not ladder.warm_up()
    assert ladder.answer("1").line == ",".join(model.ever[:20])


def test_a_failing_model_is_counted_and_logged_with_the_users_name_cut_short(
    ladder: Ladder, model: ToyModel, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    model.healthy = False
    with caplog.at_level(logging.ERROR):
        ladder.answer("x\n" * 500)

    assert metrics.ladder_failures._value.get() == 1
    assert "FloatingPointError" in caplog.text
    assert len(caplog.messages[0]) < 200
    assert "\n" not in caplog.messages[0]


def test_without_the_recents_lists_are_given_all_the_same_and_it_is_told_once_an_outage(
    ladder: Ladder, model: ToyModel, metrics: Metrics, recents, caplog: pytest.LogCaptureFixture
) -> None:
    recents.movies["1"] = (model.personal[0],)
    lines = []
    for recents.broken in (True, True, False, True):
        lines.append(ladder.answer("1").line.split(",")[0])

    assert lines == [model.personal[0], model.personal[0], model.personal[1], model.personal[0]]
    assert metrics.recents_failures._value.get() == 3
    assert len(caplog.records) == 2
