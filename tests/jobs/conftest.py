"""A queue in an empty folder, a small model, and a worker in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bowerbird.jobs.queue import Queue
from bowerbird.jobs.worker import LANES, Worker


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "home", max_waiting=50)


def work(queue: Queue, lane: str = "painting") -> Worker:
    """Do what waits in one lane, in this thread."""
    worker = Worker(queue, lane, "cpu", "auto")
    while True:
        lease, jobs = queue.claim(worker.name, LANES[lane])
        if not jobs:
            return worker
        worker._do(lease, jobs)


def in_threads(count: int, action: Callable[[int], None]) -> None:
    """Run `action(0)` ... `action(count - 1)` at the same time; an exception in any of them is raised here."""
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            action(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
