"""Everything that knows Airflow."""
