from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred

from marquee_airflow import sensors
from marquee_airflow.sensors import CanarySensor, EnoughEvents
from pipelines import retrain
from pipelines.errors import NothingNew, TooEarly
from pipelines.settings import read


def test_the_sensor_hands_its_watch_to_the_triggerer_however_long_it_takes(monkeypatch):
    monkeypatch.setattr(sensors, "settings", lambda: read(look_every_s=30.0))
    with pytest.raises(TaskDeferred) as deferred:
        CanarySensor(task_id="watch_canary", release_id=7).execute({})
    _, arguments = deferred.value.trigger.serialize()
    assert arguments == {"release_id": 7, "look_every_s": 30.0}
    assert deferred.value.timeout is None, "a person may extend a watch by days"


@pytest.fixture
def collect(monkeypatch):
    """What a training collects, by whether a first one waits; raises `TooEarly` when it does."""
    asked = []

    def collected(config, *, announce, first_waits):
        asked.append(first_waits)
        if first_waits:
            raise TooEarly("12 ratings have come so far")
        raise NothingNew("no event has come")

    monkeypatch.setattr(retrain, "collect", collected)
    return asked


def context_of(run_type):
    return {"dag_run": SimpleNamespace(run_type=run_type)}


def test_a_first_training_that_came_by_itself_looks_again_without_a_worker(collect):
    sensor = EnoughEvents(task_id="collect")
    assert not sensor.poke(context_of("scheduled"))
    assert (sensor.reschedule, sensor.poke_interval) == (True, 60.0)
    assert sensor.timeout > 300 * 86_400, "a stream may begin long after the stack"
    assert collect == [True]


def test_who_triggers_a_training_is_told_at_once_that_nothing_came(collect):
    with pytest.raises(AirflowSkipException, match="no event has come"):
        EnoughEvents(task_id="collect").poke(context_of("manual"))
    assert collect == [False]


def test_what_came_is_handed_on(monkeypatch):
    monkeypatch.setattr(retrain, "collect", lambda config, **others: {"lines": 3})
    gathered = EnoughEvents(task_id="collect").poke(context_of("scheduled"))
    assert (bool(gathered), gathered.xcom_value) == (True, {"lines": 3})
