"""Airflow's LocalExecutor with workers that may be killed, and that go when their scheduler is."""

import fcntl
import multiprocessing
import os
import tempfile
from typing import Any

from airflow.executors.local_executor import LocalExecutor

LOOK_UP_S = 5.0
"""How often an idle worker looks whether its scheduler is still there."""


class TaskQueue:
    """Tasks on their way from the scheduler to whichever worker is idle.

    Idle workers take turns under a lock of the kernel, which lets go of it when its holder dies. That of a
    ``SimpleQueue``, which Airflow 3.3.2 uses, dies locked: one idle worker killed with -9, and no task
    is ever started again.
    """

    def __init__(self) -> None:
        """Belong to this process, the scheduler; it alone may put, its children alone may get."""
        self._reader, self._writer = multiprocessing.Pipe(duplex=False)
        self._turn = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the queue
        self._scheduler = os.getpid()

    def put(self, task: Any) -> None:
        """Hand one task over."""
        self._writer.send(task)

    def get(self) -> Any:
        """Wait for the next task.

        Raises:
            EOFError: the scheduler is gone, nobody will ever send one.
        """
        fcntl.lockf(self._turn, fcntl.LOCK_EX)
        try:
            while not self._reader.poll(LOOK_UP_S):
                if os.getppid() != self._scheduler:
                    raise EOFError("the scheduler is gone")
            return self._reader.recv()
        finally:
            fcntl.lockf(self._turn, fcntl.LOCK_UN)

    def empty(self) -> bool:
        """Return whether every task has been taken."""
        return not self._reader.poll()

    def close(self) -> None:
        """Take no more tasks."""
        self._reader.close()
        self._writer.close()
        self._turn.close()


class SturdyLocalExecutor(LocalExecutor):
    """The LocalExecutor, on a queue that survives its workers."""

    def _spawn_workers_with_gc_freeze(self, spawn_number: int) -> None:
        if not isinstance(self.activity_queue, TaskQueue):
            self.activity_queue = TaskQueue()  # type: ignore[assignment]
        super()._spawn_workers_with_gc_freeze(spawn_number)  # type: ignore[no-untyped-call]
