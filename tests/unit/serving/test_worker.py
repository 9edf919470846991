import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from serving import worker
from serving.worker import CALM_S, SLOW_S, PoliteWorker

REQUEST = b"GET /recommend/1 HTTP/1.1\r\nHost: here\r\n\r\n"


class Watched(PoliteWorker):
    """Notes where requests are answered; its clock goes on by ``takes_s`` with each answer."""

    def __init__(self) -> None:
        self.alive = True
        self.now_s = 100.0
        self.takes_s = 0.001
        self.here: list[Any] = []
        self.in_threads: list[Any] = []
        self._calm_until_s = float("-inf")
        self.tpool = SimpleNamespace(submit=lambda _, conn: self.in_threads.append(conn) or self)

    def add_done_callback(self, _: object) -> None:
        """The pool's future is asked for this."""

    def handle(self, conn: Any) -> bool:
        self.now_s += self.takes_s
        self.here.append(conn)
        return True

    def finish_request(self, conn: Any, done: Any) -> None:
        assert done.result() is True


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    one = Watched()
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: one.now_s))
    return one


@pytest.fixture
def pair() -> Iterator[tuple[Any, socket.socket]]:
    """A connection as the worker has it, and the client's end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield SimpleNamespace(sock=ours), theirs


def test_a_request_that_has_wholly_come_in_is_answered_at_once(watched: Watched, pair: Any) -> None:
    conn, client = pair
    client.sendall(REQUEST)
    watched.enqueue_req(conn)
    assert (watched.here, watched.in_threads) == ([conn], [])
    assert conn.sock.recv(100) == REQUEST


@pytest.mark.parametrize(
    "sent", [b"", b"GET", REQUEST[:-1], REQUEST + b"GET", b"POST /x HTTP/1.1\r\nContent-Length: 9\r\n\r\n"]
)
def test_who_dawdles_waits_in_a_thread(watched: Watched, pair: Any, sent: bytes) -> None:
    conn, client = pair
    client.sendall(sent)
    watched.enqueue_req(conn)
    assert (watched.here, watched.in_threads) == ([], [conn])


def test_after_a_slow_answer_threads_answer_for_a_while(watched: Watched, pair: Any) -> None:
    conn, client = pair
    client.sendall(REQUEST)
    watched.takes_s = SLOW_S * 2
    watched.enqueue_req(conn)
    watched.enqueue_req(conn)
    assert (len(watched.here), len(watched.in_threads)) == (1, 1)
    watched.now_s += CALM_S
    watched.enqueue_req(conn)
    assert (len(watched.here), len(watched.in_threads)) == (2, 1)


def test_a_worker_that_stops_leaves_everything_to_threads(watched: Watched, pair: Any) -> None:
    conn, client = pair
    client.sendall(REQUEST)
    watched.alive = False
    watched.enqueue_req(conn)
    assert (watched.here, watched.in_threads) == ([], [conn])


def test_a_connection_that_broke_off_is_left_to_a_thread(watched: Watched, pair: Any) -> None:
    conn, client = pair
    client.close()
    watched.enqueue_req(conn)
    assert watched.in_threads == [conn]
