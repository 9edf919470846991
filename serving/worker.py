"""The gunicorn worker: quick answers at once, and a stop that first answers whoever has come in."""

import re
import socket
import time
from concurrent.futures import Future
from typing import Any

from gunicorn.http.message import Request  # type: ignore[import-untyped]
from gunicorn.http.parser import RequestParser  # type: ignore[import-untyped]
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

SLOW_S = 0.05
"""An answer that takes longer belongs into a thread, and so do those that come after it."""
CALM_S = 5.0
"""For so long."""
LINGER_S = 0.5
"""How long an idle connection that is kept open may still bring a question when the worker stops."""

_LONGEST_REQUEST_BYTES = 65_536
_NOT_ASCII = re.compile(rb"[\x80-\xff]")


class _Question(Request):  # type: ignore[misc]
    """A question whose user id may have bytes that ought to be percent-encoded.

    NGINX hands them on as they came, and gunicorn by itself answers them with 400.
    """

    def parse_request_line(self, line_bytes: bytes) -> None:
        super().parse_request_line(_NOT_ASCII.sub(lambda byte: b"%%%02X" % byte[0][0], line_bytes))


class PoliteWorker(ThreadWorker):  # type: ignore[misc]
    """A thread worker that spares quick answers the threads, and empties its backlog when it stops.

    Handing a request to a thread and its connection back takes longer than an answer. So what has wholly
    come in is answered where it is noticed, unless an answer has just been slow: that one holds up the
    others once, and for `CALM_S` none does.

    gunicorn's own worker, when it stops, stops accepting but leaves the socket open until its last answer is
    given, and whoever connects meanwhile is reset: up to 16 of 16 busy clients when a replica was restarted.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._calm_until_s = float("-inf")

    def init_process(self) -> None:
        """Prepare the worker and serve; returns when it has been stopped."""
        # There is no setting for it.
        RequestParser.mesg_class = _Question
        super().init_process()

    def enqueue_req(self, conn: Any) -> None:
        """Answer what ``conn`` asks, here or in a thread; runs in the main thread."""
        began_s = time.monotonic()
        # While it stops, connections are counted to see who is still waiting: none may come and go.
        if not self.alive or began_s < self._calm_until_s or not _is_whole(conn.sock):
            super().enqueue_req(conn)
            return
        done: Future[Any] = Future()
        done.set_result(self.handle(conn))
        ended_s = time.monotonic()
        if ended_s - began_s > SLOW_S:
            self._calm_until_s = ended_s + CALM_S
        self.finish_request(conn, done)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept or stop accepting; a worker told to end first takes in who waits, then closes the socket."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            while self.sockets:
                listener = self.sockets.pop()
                self._accept_all(listener)
                listener.close()

    def _cap_keepalive(self, deadline: float) -> None:
        # gunicorn's own 2 s are most of what a replica takes to move to another version. NGINX asks the next
        # replica when a connection goes under its question.
        super()._cap_keepalive(min(deadline, time.monotonic() + LINGER_S))

    def _accept_all(self, listener: object) -> None:
        # accept() swallows "nobody is waiting": only the count of connections tells.
        before = -1
        while before < self.nr_conns:
            before = self.nr_conns
            self.accept(listener)


def _is_whole(connection: socket.socket) -> bool:
    """Whether a question has come in to its end; who dawdles, or has a body to send, holds up nobody."""
    try:
        waiting = connection.recv(_LONGEST_REQUEST_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return False
    return waiting.startswith(b"GET ") and waiting.endswith(b"\r\n\r\n")
