"""Jobs in processes of their own, which never outlive the one that started them."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, Final, TypeVar

from pipelines.errors import DataError

Job = TypeVar("Job")
Result = TypeVar("Result")
_TOLD_EVERY_S: Final = 0.2

Tell = Callable[[int], None]
"""Called by a job with how far it has come."""


def run(
    work: Callable[[Job, Tell], Result],
    jobs: Sequence[Job],
    processes: int,
    reached: Callable[[int, int], None],
) -> list[Result]:
    """Do all jobs, ``processes`` at a time; return their results in the order of the jobs.

    A single process, or a single job, is done here and now. Otherwise ``work``, jobs and results are pickled.
    When this process dies, even by kill -9, the others end at once.

    Args:
        work: does one job; may be told nothing but the job.
        jobs: what to do.
        processes: most processes at a time.
        reached: called with (number of the job, what the job told).

    Raises:
        DataError: a process was killed.
        Exception: whatever a job raised; the other jobs are stopped where they are.
    """
    if min(processes, len(jobs)) <= 1:
        return [work(job, partial(reached, number)) for number, job in enumerate(jobs)]
    waiting = deque(enumerate(jobs))
    results: dict[int, Result] = {}
    with ExitStack() as stack:
        pipes: dict[Connection, BaseProcess] = {}
        for _ in range(min(processes, len(jobs))):
            pipe, process = _start(work, stack)
            pipe.send(waiting.popleft())
            pipes[pipe] = process
        while len(results) < len(jobs):
            ready = wait(list(pipes))
            for pipe in (pipe for pipe in pipes if pipe in ready):
                if (finished := _take(pipe, pipes[pipe], reached)) is not None:
                    results.update(finished)
                    if waiting:
                        pipe.send(waiting.popleft())
    return [results[number] for number in range(len(jobs))]


def _start(work: Callable[..., Any], stack: ExitStack) -> tuple[Connection, BaseProcess]:
    # A fork would inherit locks that threads of this process hold, and the writer's lock on the batches.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_worker, args=(work, theirs), daemon=True)
    with _nameless_main():
        process.start()
    theirs.close()
    stack.callback(process.join)
    stack.callback(process.terminate)
    stack.callback(ours.close)
    return ours, process


@contextmanager
def _nameless_main() -> Iterator[None]:
    """Keep a process that is started from running the main program of this one again.

    In a task that is Airflow's, which takes seconds and fails: tasks are not shown Airflow's database.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _take(
    pipe: Connection, process: BaseProcess, reached: Callable[[int, int], None]
) -> dict[int, Any] | None:
    """Receive one message: progress is passed on, a result returned, an error raised."""
    try:
        kind, number, value = pipe.recv()
    except (EOFError, ConnectionResetError) as error:
        process.join()
        raise DataError(
            f"process {process.pid} ended with code {process.exitcode} at its work (-9: killed, "
            "maybe for lack of memory); what it had finished is kept: see the system's log, then try again"
        ) from error
    if kind == "error":
        raise value
    if kind == "result":
        return {number: value}
    reached(number, value)
    return None


def _worker(work: Callable[..., Any], pipe: Connection) -> None:
    # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError):  # there are no more jobs
        while True:
            number, job = pipe.recv()
            tell = _Teller(pipe, number)
            try:
                result = work(job, tell)
                tell.the_rest()
                pipe.send(("result", number, result))
            except Exception as error:
                pipe.send(("error", number, error))


class _Teller:
    """Passes on how far a job has come, now and then: every message wakes the other process up."""

    def __init__(self, pipe: Connection, number: int) -> None:
        self._pipe = pipe
        self._number = number
        self._told: int | None = None
        self._next_s = 0.0

    def __call__(self, told: int) -> None:
        self._told = told
        if time.monotonic() >= self._next_s:
            self.the_rest()

    def the_rest(self) -> None:
        """Pass on what was told last, unless that was done."""
        if self._told is not None:
            self._pipe.send(("told", self._number, self._told))
            self._told = None
            self._next_s = time.monotonic() + _TOLD_EVERY_S


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)
