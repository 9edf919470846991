import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.process import BaseProcess

import pytest

from marquee_airflow import executor
from marquee_airflow.executor import SturdyLocalExecutor, TaskQueue
from pipelines.local.airflow import airflow_environment
from pipelines.settings import read

PATIENCE_S = 30.0


@pytest.fixture
def queue() -> Iterator[TaskQueue]:
    tasks = TaskQueue()
    yield tasks
    tasks.close()


@pytest.fixture
def worker(queue: TaskQueue) -> Iterator[Callable[[], BaseProcess]]:
    """Start a worker that takes one task and ends with it as its exit code."""
    with ExitStack() as stack:

        def start() -> BaseProcess:
            process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(queue.get()))
            process.start()
            stack.callback(process.join, PATIENCE_S)
            stack.callback(process.kill)
            return process

        yield start


def ended(process: BaseProcess) -> int | None:
    process.join(PATIENCE_S)
    return process.exitcode


def test_tasks_are_taken_in_order(queue, worker):
    for task in (3, 4):
        queue.put(task)
    assert not queue.empty()
    assert [ended(worker()), ended(worker())] == [3, 4]
    assert queue.empty()


def test_any_idle_worker_may_be_killed_and_the_others_work_on(queue, worker):
    workers = [worker() for _ in range(4)]
    # Whoever holds the lock is one of the first three.
    for killed in workers[:3]:
        killed.kill()
        assert ended(killed) == -signal.SIGKILL
    queue.put(5)
    assert ended(workers[3]) == 5


def test_a_worker_that_joins_later_gets_its_turn(queue, worker):
    first = worker()
    first.kill()
    assert ended(first) == -signal.SIGKILL
    queue.put(6)
    assert ended(worker()) == 6


def test_a_worker_goes_when_its_scheduler_is_gone(queue, monkeypatch):
    monkeypatch.setattr(executor, "LOOK_UP_S", 0.01)
    # To this process the queue's owner, itself, is not its parent: as if the parent had been another.
    with pytest.raises(EOFError, match="the scheduler is gone"):
        queue.get()


def test_a_task_that_was_sent_is_still_done_when_the_scheduler_is_gone(queue):
    queue.put("last")
    assert queue.get() == "last"


def test_the_executor_starts_its_workers_on_such_a_queue_and_keeps_it(monkeypatch):
    monkeypatch.setattr(SturdyLocalExecutor, "_spawn_worker", lambda self: self.workers.update({1: None}))
    sturdy = SturdyLocalExecutor(parallelism=1)
    sturdy.start()
    tasks = sturdy.activity_queue
    assert isinstance(tasks, TaskQueue)
    # All of them were killed: what they had not taken yet is for the next ones.
    sturdy.workers = {}
    sturdy._spawn_workers_with_gc_freeze(1)
    assert sturdy.activity_queue is tasks
    tasks.close()


def test_the_airflow_of_one_machine_runs_on_it(tmp_path):
    named = airflow_environment(read(), tmp_path)["AIRFLOW__CORE__EXECUTOR"]
    assert named == f"{SturdyLocalExecutor.__module__}.{SturdyLocalExecutor.__qualname__}"
