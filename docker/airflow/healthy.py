"""Whether one part of Airflow, in this container, is at work: the health check of its service.

``airflow jobs check --local`` asks the same of the same table, and takes two seconds of a processor for it;
this takes a twentieth of one. Exit status 0: healthy; anything else, with the reason: not.
"""

import json
import os
import socket
import sys
from http.client import HTTPConnection

JOBS = {
    "scheduler": "SchedulerJob",
    "dag-processor": "DagProcessorJob",
    "triggerer": "TriggererJob",
}
PORT = 8080
OLDEST_HEARTBEAT_S = 45
"""They write one every few seconds; on a busy machine the scheduler may be late."""
_TIMEOUT_S = 5


def apiserver() -> bool:
    """Ask the API about itself; it also says whether it reaches the database."""
    connection = HTTPConnection("127.0.0.1", PORT, timeout=_TIMEOUT_S)
    connection.request("GET", "/api/v2/monitor/health")
    answer = connection.getresponse()
    return answer.status == 200 and json.load(answer)["metadatabase"]["status"] == "healthy"


def job(kind: str) -> bool:
    """Look for a heartbeat of this container."""
    import psycopg2

    url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "", 1)
    with psycopg2.connect(url, connect_timeout=_TIMEOUT_S) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select exists (select from job where state = 'running' and job_type = %s and hostname = %s"
            " and latest_heartbeat > now() - %s * interval '1 second')",
            (kind, socket.gethostname(), OLDEST_HEARTBEAT_S),
        )
        return bool(cursor.fetchone()[0])


def worker() -> bool:
    """Ask the worker itself, by way of the broker."""
    from celery import Celery

    app = Celery(broker=os.environ["AIRFLOW__CELERY__BROKER_URL"])
    return bool(app.control.ping([f"celery@{socket.gethostname()}"], timeout=_TIMEOUT_S, limit=1))


if __name__ == "__main__":
    part = sys.argv[1]
    well = job(JOBS[part]) if part in JOBS else {"apiserver": apiserver, "worker": worker}[part]()
    sys.exit(None if well else f"{part} of {socket.gethostname()} is not at work")
