"""Registers what Airflow's server processes must know by name. The loader imports this file, nothing beside it."""

from airflow.plugins_manager import AirflowPlugin

from marquee_airflow.timetables import EveryDays


class MarqueePlugin(AirflowPlugin):  # type: ignore[misc]
    """The timetable of the DAG ``retrain``."""

    name = "marquee"
    timetables = (EveryDays,)
