import socket

import pytest

from marquee_airflow import metrics
from marquee_airflow.metrics import LOOK_UP_S, PatientStatsClient


def test_metrics_reach_an_exporter_that_comes_later_and_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, ports = 0.0, []
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now_s)

    def look_up(host: str, port: int, family: int, kind: int) -> list[tuple[object, ...]]:
        if not ports:
            raise socket.gaierror(f"{host} is not known")
        return [(family, kind, 17, "", ("127.0.0.1", ports[-1]))]

    monkeypatch.setattr(metrics.socket, "getaddrinfo", look_up)
    client = PatientStatsClient("statsd-exporter", 9125, "airflow", False)
    try:
        client.incr("lost")
        for _ in range(2):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
                exporter.bind(("127.0.0.1", 0))
                exporter.settimeout(1.0)
                ports.append(exporter.getsockname()[1])
                now_s += LOOK_UP_S
                client.incr("scheduler_heartbeat")
                assert exporter.recv(100) == b"airflow.scheduler_heartbeat:1|c"
    finally:
        client.close()
