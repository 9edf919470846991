"""Viewers that ask a server for recommendations over kept-alive connections, and a watch in their hands.

Raw sockets in one thread, in a process of its own: a real HTTP client would be what is measured.
"""

import json
import random
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass

BUSY_CONNECTIONS = 8
"""All of them ask all the time."""
FREE_CONNECTIONS = 64
"""Enough that at a steady rate nobody waits for somebody else's answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of asking."""

    per_second: float
    """Good answers."""
    p50_ms: float
    p99_ms: float
    """Of the good answers, from when each should have been asked: a late question counts as waiting."""
    failed: int
    """Answers with another status, and connections that broke off."""


class _Connection:
    """One viewer's connection; asks one question at a time."""

    def __init__(self, port: int, selector: selectors.BaseSelector) -> None:
        self._port = port
        self._selector = selector
        self._due_s: float | None = None
        self._connect()

    def ask(self, question: bytes, due_s: float) -> None:
        self._due_s, self._received = due_s, b""
        self._socket.sendall(question)

    def take_in(self) -> tuple[float, int] | None:
        """Take in what has come; when the answer is complete, return when it was due and its status."""
        try:
            data = self._socket.recv(65_536)
        except OSError:
            data = b""
        self._received += data
        status = _status(self._received) if data else 0
        if status is None:
            return None
        due_s, self._due_s = self._due_s, None
        if not data or b"\r\nConnection: close\r\n" in self._received:
            self.close()
            self._connect()
        # A connection that was closed while nobody waited has cost nothing.
        return None if due_s is None else (due_s, status)

    def close(self) -> None:
        self._selector.unregister(self._socket)
        self._socket.close()

    def _connect(self) -> None:
        self._received = b""
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(self._socket, selectors.EVENT_READ, self)


def _status(received: bytes) -> int | None:
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return None
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head[9:12]) if len(body) >= length else None


def ask(port: int, *, seconds: float, users: int, seed: int, rate: float | None = None) -> Outcome:
    """Ask from a process of its own.

    Args:
        port: of the server, on this machine.
        seconds: how long.
        users: each question is of one of the users ``1 .. users``, drawn anew.
        seed: of the draw.
        rate: questions per second, whether answers come or not; None: the next as soon as one is answered.
    """
    options = {"port": port, "seconds": seconds, "users": users, "seed": seed, "rate": rate}
    command = [sys.executable, "-m", "tests.benchmarks.load", json.dumps(options)]
    return Outcome(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def main() -> None:
    """Ask as the only argument says."""
    print(json.dumps(asdict(_ask(**json.loads(sys.argv[1])))))


def _ask(port: int, seconds: float, users: int, seed: int, rate: float | None) -> Outcome:
    questions, latencies_s, failed = _questions(users, seed), [], 0
    connections = FREE_CONNECTIONS if rate else BUSY_CONNECTIONS
    with selectors.DefaultSelector() as selector:
        free = deque(_Connection(port, selector) for _ in range(connections))
        start = now = time.perf_counter()
        asked = 0
        while now < start + seconds or len(free) < connections:
            while free and now < start + seconds and (due_s := start + asked / rate if rate else now) <= now:
                free.popleft().ask(next(questions), due_s)
                asked += 1
            wait_s = start + asked / rate - now if rate and free else 0.1
            for key, _ in selector.select(timeout=max(wait_s, 0.0)):
                if answer := key.data.take_in():
                    now = time.perf_counter()
                    free.append(key.data)
                    due_s, status = answer
                    failed += status != 200
                    if status == 200:
                        latencies_s.append(now - due_s)
            now = time.perf_counter()
        for connection in free:
            connection.close()
    return _outcome(latencies_s, failed, now - start)


def _questions(users: int, seed: int) -> Iterator[bytes]:
    draw = random.Random(seed)
    while True:
        # As NGINX asks its replicas.
        yield (
            f"GET /recommend/{draw.randint(1, users)} HTTP/1.1\r\nHost: marquee\r\n"
            f"X-Request-Id: {draw.getrandbits(128):032x}\r\nX-Marquee-Canary-Percent: 20\r\n\r\n"
        ).encode()


def _outcome(latencies_s: list[float], failed: int, seconds: float) -> Outcome:
    ordered = sorted(latencies_s)

    def percentile_ms(percent: int) -> float:
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1_000

    return Outcome(len(ordered) / seconds, percentile_ms(50), percentile_ms(99), failed)


if __name__ == "__main__":
    main()
