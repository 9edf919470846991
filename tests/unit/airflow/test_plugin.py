"""The loader imports every file of the plugins folder under its bare stem: it must find one file only."""

from pathlib import Path

import pytest
from airflow._shared.module_loading import find_path_from_directory
from airflow.serialization.decoders import decode_timetable
from airflow.serialization.encoders import encode_timetable

from marquee_airflow.timetables import EveryDays
from pipelines.settings import PROJECT_DIR


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_the_loader_sees_the_plugin_and_not_the_package():
    found = find_path_from_directory(PROJECT_DIR / "plugins", ".airflowignore", "glob")
    assert [Path(path).name for path in found if path.endswith(".py")] == ["marquee_plugin.py"]


def test_airflow_knows_the_timetable_by_name(monkeypatch):
    from airflow import plugins_manager

    import marquee_plugin

    registered = {f"{EveryDays.__module__}.{EveryDays.__qualname__}": EveryDays}
    assert marquee_plugin.MarqueePlugin.timetables == [EveryDays]
    monkeypatch.setattr(plugins_manager, "get_timetables_plugins", lambda: registered)
    assert decode_timetable(encode_timetable(EveryDays(2))).serialize() == EveryDays(2).serialize()
