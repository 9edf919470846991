"""What DAGs hand to each other without knowing each other."""

from airflow.sdk import Asset

MODEL = Asset("model")
"""A model that passed the gate and has a version; an event carries ``{"version": N}``."""
