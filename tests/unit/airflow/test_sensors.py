from datetime import timedelta

import pytest
from airflow.sdk.exceptions import TaskDeferred

from marquee_airflow import sensors
from marquee_airflow.sensors import CanarySensor, patience
from pipelines.settings import read


def test_the_sensor_hands_its_watch_to_the_triggerer(monkeypatch):
    config = read(look_every_s=30.0)
    monkeypatch.setattr(sensors, "settings", lambda: config)
    with pytest.raises(TaskDeferred) as deferred:
        CanarySensor(task_id="watch_canary", release_id=7).execute({})
    _, arguments = deferred.value.trigger.serialize()
    assert arguments == {"release_id": 7, "look_every_s": 30.0}
    assert deferred.value.timeout == patience(config)


@pytest.mark.parametrize("window_s", [10.0, 43_200.0, 604_800.0])
def test_patience_outlasts_window_and_extension(window_s):
    config = read(canary_window_s=window_s, canary_extension_s=3_600.0)
    assert patience(config) == timedelta(seconds=2 * (window_s + 3_600.0) + 3_600.0)
