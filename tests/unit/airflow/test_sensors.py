import pytest
from airflow.sdk.exceptions import TaskDeferred

from marquee_airflow import sensors
from marquee_airflow.sensors import CanarySensor
from pipelines.settings import read


def test_the_sensor_hands_its_watch_to_the_triggerer_however_long_it_takes(monkeypatch):
    monkeypatch.setattr(sensors, "settings", lambda: read(look_every_s=30.0))
    with pytest.raises(TaskDeferred) as deferred:
        CanarySensor(task_id="watch_canary", release_id=7).execute({})
    _, arguments = deferred.value.trigger.serialize()
    assert arguments == {"release_id": 7, "look_every_s": 30.0}
    assert deferred.value.timeout is None, "a person may extend a watch by days"
