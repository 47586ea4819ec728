"""Workers as processes: killed, they come back and the job is done once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from bowerbird.errors import ResourceError
from bowerbird.jobs import Queue, Supervisor
from bowerbird.request import PaintRequest


def test_a_killed_worker_comes_back_and_the_job_is_done_once(queue: Queue, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL in the middle of a long picture; a second supervisor of the same queue is refused meanwhile."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (job,) = queue.submit("paint", [PaintRequest(model=str(model_folder), seed=1, steps=60, count=20)])
    with Supervisor(queue, ["cpu"]) as supervisor:
        with pytest.raises(ResourceError, match="another Bowerbird"), Supervisor(Queue(queue.home)):
            pass
        for seen in queue.follow(job.id, timeout=120):
            if seen.state == "running":
                break
        killed = supervisor.pids()["painting-cpu"]
        os.kill(killed, signal.SIGKILL)
        for seen in queue.follow(job.id, timeout=120):
            job = seen
        assert supervisor.pids()["painting-cpu"] != killed
        worker = supervisor.pids()["painting-cpu"]
    assert (job.state, job.attempts, len(job.paths)) == ("done", 1, 20)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_a_worker_ends_when_its_starter_does(queue: Queue) -> None:
    """Its standard input is a pipe that nobody writes to; when the other end is gone, however that came about, so is the worker."""
    supervisor = Supervisor(queue, ["cpu"])
    with supervisor:
        while "painting-cpu" not in supervisor.pids():
            time.sleep(0.01)
        process = supervisor._lanes[0].process
        assert process is not None and process.stdin is not None
        process.stdin.close()
        assert process.wait(60) is not None
