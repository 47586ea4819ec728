"""Starting the workers, and starting them again when they die.  One process does it for each queue."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

import filelock

from bowerbird.errors import ResourceError
from bowerbird.jobs.queue import Queue

LOOK_SECONDS = 0.1
QUICK_DEATH_SECONDS = 10.0  # one that dies so soon after its start waits before it is started again
MAX_WAIT_SECONDS = 30.0
STOP_SECONDS = 35.0  # a training saves within 30
STALE_SECONDS = 120.0  # without a sign of life a worker counts as stuck; opening a large model may take a while


@dataclass
class _Lane:
    """One worker's place: the process in it, and how it fares."""

    lane: str
    device: str | None
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0  # quick ones in a row
    next_start: float = field(default=0.0)


class Supervisor:
    """`with Supervisor(queue): ...`: workers run, and are restarted, until the block ends.

    devices: a painting worker for each; trainings use the first.  None is the best there is.
    ResourceError when another process runs the workers of this queue.
    """

    def __init__(self, queue: Queue, devices: Sequence[str | None] = (None,), precision: str = "auto") -> None:
        self.queue, self._precision = queue, precision
        self._lanes = [*(_Lane("painting", device) for device in devices), _Lane("training", devices[0])]
        self._lock = filelock.FileLock(queue.home / "workers.lock", timeout=0)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Supervisor:
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise ResourceError(
                f"another Bowerbird works on the queue in {str(self.queue.home)!r}. "
                "Use that one, stop it, or name another folder with --home."
            ) from None
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask the workers to end, wait until they have, and let go of the queue.  A training saves first."""
        if self._ending.is_set():
            return
        self._ending.set()
        self._thread.join()
        running = [lane.process for lane in self._lanes if lane.process is not None and lane.process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._lock.release()

    def problem(self) -> str:
        """Why nothing can be painted just now, in words; empty when all is well."""
        seen = self.queue.workers()
        for lane in self._lanes:
            if lane.lane != "painting":
                continue
            if lane.process is None or lane.process.poll() is not None:
                return "the worker is being started again"
            silent, doing = seen.get(_name(lane), (0.0, "opening"))
            if silent > STALE_SECONDS:
                return f"the worker has given no sign of life for {silent:.0f} seconds ({doing})"
            if time.time() - silent < lane.started or doing == "opening":
                return "the worker is starting"
        return ""

    def pids(self) -> dict[str, int]:
        """The processes of the workers, by name."""
        return {_name(lane): lane.process.pid for lane in self._lanes if lane.process is not None and lane.process.poll() is None}

    def _watch(self) -> None:
        while not self._ending.wait(LOOK_SECONDS):
            for lane in self._lanes:
                if lane.process is not None and lane.process.poll() is not None:
                    self._bury(lane)
                if lane.process is None and time.time() >= lane.next_start and (lane.lane == "painting" or self._training_waits()):
                    self._start(lane)

    def _training_waits(self) -> bool:
        return bool(self.queue.jobs(states=("queued", "running"), kinds=("train", "tune", "evaluate"), limit=1))

    def _start(self, lane: _Lane) -> None:
        command = [sys.executable, "-m", "bowerbird.jobs.worker", str(self.queue.home), lane.lane, "--precision", self._precision]
        command += ["--device", lane.device] if lane.device else []
        lane.started = time.time()
        with (self.queue.home / f"{_name(lane)}.log").open("ab") as log:
            # The pipe is never written to: it ends when this process does, however it ends, and the worker then ends too.
            lane.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def _bury(self, lane: _Lane) -> None:
        assert lane.process is not None and lane.process.stdin is not None
        lane.process.stdin.close()
        failed = lane.process.returncode != 0
        quick = failed and time.time() - lane.started < QUICK_DEATH_SECONDS
        lane.deaths = lane.deaths + 1 if quick else 0
        lane.next_start = time.time() + (min(MAX_WAIT_SECONDS, 2.0 ** (lane.deaths - 2)) if lane.deaths > 1 else 0.0)
        lane.process = None


def _name(lane: _Lane) -> str:
    return f"{lane.lane}-{lane.device or 'best'}"
