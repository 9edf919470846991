"""The gunicorn worker: threads that, told to stop, first answer whoever has already come in."""

from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]


class PoliteWorker(ThreadWorker):  # type: ignore[misc]
    """A thread worker that empties its backlog when it stops, and then refuses at once.

    gunicorn's own worker stops accepting but leaves the socket open until its last answer is given, and
    whoever connects meanwhile is reset: up to 16 of 16 busy clients when a replica was restarted.
    """

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
