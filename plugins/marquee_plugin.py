"""Registers what Airflow must know by name. Of this folder, its loader imports this file only."""

from airflow.plugins_manager import AirflowPlugin

from marquee_airflow.timetables import EveryDays


class MarqueePlugin(AirflowPlugin):
    """The timetable of the DAG ``retrain``."""

    name = "marquee"
    timetables = [EveryDays]  # noqa: RUF012 - declared so by Airflow
