import logging

import pytest

from serving.ladder import Answer, Ladder
from tests.fakes import ToyModel


@pytest.fixture
def model() -> ToyModel:
    return ToyModel()


def test_the_model_is_asked_first(model: ToyModel) -> None:
    assert Ladder(model).answer("1") == Answer(",".join(model.personal[:20]), "personal")


def test_before_it_is_warm_there_is_no_last_rung(model: ToyModel) -> None:
    assert Ladder(model).answer("666") == Answer("", "fallback")


def test_warming_up_fetches_the_last_rung(model: ToyModel) -> None:
    ladder = Ladder(model)

    assert ladder.warm_up()
    assert ladder.answer("666") == Answer(",".join(model.popular[:20]), "fallback")


def test_an_empty_list_is_not_ready(model: ToyModel) -> None:
    model.popular = ()

    assert not Ladder(model).warm_up()


def test_a_model_that_fell_ill_is_not_ready_but_its_last_general_list_stays(model: ToyModel) -> None:
    ladder = Ladder(model)
    ladder.warm_up()
    model.healthy = False

    assert not ladder.warm_up()
    assert ladder.answer("1").line == ",".join(model.popular[:20])


def test_a_failing_model_is_logged_with_the_users_name_cut_short(
    model: ToyModel, caplog: pytest.LogCaptureFixture
) -> None:
    model.healthy = False
    with caplog.at_level(logging.ERROR):
        Ladder(model).answer("x\n" * 500)

    assert "FloatingPointError" in caplog.text
    assert len(caplog.messages[0]) < 200
    assert "\n" not in caplog.messages[0]
