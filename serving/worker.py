"""The gunicorn worker: threads that take turns and, told to stop, first answer whoever has come in."""

from threading import Lock
from typing import Any

from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

PATIENCE_S = 0.005
"""How long a request waits for the one before it, many times what an answer takes; then it waits no more."""


class PoliteWorker(ThreadWorker):  # type: ignore[misc]
    """A thread worker that answers one after the other, empties its backlog when it stops, and then refuses.

    Threads that answer at the same moment fight over the interpreter, for every write lets go of it: taking
    turns, a worker gives a quarter more answers in a second. A slow answer holds up nobody.

    gunicorn's own worker stops accepting but leaves the socket open until its last answer is given, and
    whoever connects meanwhile is reset: up to 16 of 16 busy clients when a replica was restarted.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._turn = Lock()

    def handle(self, conn: Any) -> Any:
        """Answer what ``conn`` asks, in turn if the turn comes soon."""
        in_turn = self._turn.acquire(timeout=PATIENCE_S)
        try:
            return super().handle(conn)
        finally:
            if in_turn:
                self._turn.release()

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept or stop accepting; a worker told to end first takes in who waits, then closes the socket."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            while self.sockets:
                listener = self.sockets.pop()
                self._accept_all(listener)
                listener.close()

    def _accept_all(self, listener: object) -> None:
        # accept() swallows "nobody is waiting": only the count of connections tells.
        before = -1
        while before < self.nr_conns:
            before = self.nr_conns
            self.accept(listener)
