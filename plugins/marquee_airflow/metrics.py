"""Airflow's own metrics on their way to the StatsD exporter."""

import socket
import time
from math import inf

from statsd import StatsClient

LOOK_UP_S = 30.0
"""How often the exporter is looked for again."""


class PatientStatsClient(StatsClient):  # type: ignore[misc]
    """StatsD by UDP to a server that may come later than Airflow, or come back with another address.

    The library's own client looks its server up once, when Airflow starts; where there is none by then,
    Airflow sends nothing until it is started again.
    """

    def __init__(self, host: str, port: int, prefix: str | None = None, ipv6: bool = False) -> None:
        self._server = (host, port)
        self._family = socket.AF_INET6 if ipv6 else socket.AF_INET
        self._sock = socket.socket(self._family, socket.SOCK_DGRAM)
        self._prefix = prefix
        self._maxudpsize = 512
        self._addr: tuple[object, ...] | None = None
        self._looked_up_s = -inf

    def _send(self, data: str) -> None:
        if time.monotonic() - self._looked_up_s >= LOOK_UP_S:
            self._look_up()
        if self._addr:
            super()._send(data)

    def _look_up(self) -> None:
        self._looked_up_s = time.monotonic()
        try:
            self._addr = socket.getaddrinfo(*self._server, self._family, socket.SOCK_DGRAM)[0][4]
        except OSError:
            self._addr = None
