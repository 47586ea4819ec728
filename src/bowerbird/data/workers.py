"""Decoding processes: a bound on time and memory for each file, and a name for each death.

The children are started as programs, not forked: a fork would inherit torch's threads and gigabytes of address space, and
`multiprocessing`'s spawn would run the user's script again.  They talk in lines of JSON, so that nothing a
broken child says is ever executed.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from bowerbird.data.decode import DISK_TROUBLE, MAX_CPU_SECONDS, Box, Examined, Fit, Signature
from bowerbird.errors import ResourceError

_PROGRAM = Path(__file__).with_name("decode.py")
_AHEAD = 8  # jobs a child holds: enough to keep it busy, few enough to fit any pipe


class Job(NamedTuple):
    """One file to decode: its path below the root, what the scan saw of it, the row of the pack its pixels go to, and what to show."""

    path: str
    signature: Signature
    slot: int
    box: Box | None = None  # for fit "box"


class _Child:
    def __init__(self, settings: str, answers: queue.SimpleQueue[tuple[_Child, str]]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM), settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders complain there, quoting what they read
            env=environment,
        )
        self.jobs: deque[Job] = deque()  # sent and not yet answered, in order: the first is the one at hand
        self.answered = 0
        threading.Thread(target=self._listen, args=(answers,), daemon=True).start()

    def _listen(self, answers: queue.SimpleQueue[tuple[_Child, str]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answers.put((self, line.decode("ascii", "replace")))
        answers.put((self, ""))  # end of file: the child is gone

    def send(self, job: Job) -> None:
        assert self.process.stdin is not None
        self.jobs.append(job)
        with contextlib.suppress(OSError):  # it just died: its end of file is on the way and names the job
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


class DecodePool:
    """`workers` children that decode files below `root` into rows of `pack`, a file that exists; `lenient` as in `decode.examine`."""

    def __init__(self, root: Path, pack: Path, size: int, fit: Fit, workers: int, lenient: bool = False) -> None:
        self._settings = json.dumps([str(root), str(pack), size, fit, lenient])
        self._answers: queue.SimpleQueue[tuple[_Child, str]] = queue.SimpleQueue()
        self._workers = workers
        self._children: set[_Child] = set()
        self._suspects: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for child in self._children:
            child.end()

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Examined]]:
        """Every job with its verdict, in the order they finish.  A child that dies rejects the file it held; the others are sent again."""
        waiting = deque(jobs)
        for _ in range(min(self._workers, -(-len(waiting) // _AHEAD))):  # no second child for a handful of files
            self._start(waiting)
        while any(child.jobs for child in self._children):
            child, line = self._answers.get()
            if line:
                child.answered += 1
                yield child.jobs.popleft(), Examined(*json.loads(line))
            else:
                yield from self._bury(child, waiting)
            if child in self._children and waiting:
                child.send(waiting.popleft())

    def _start(self, waiting: deque[Job]) -> None:
        child = _Child(self._settings, self._answers)
        self._children.add(child)
        for _ in range(min(_AHEAD, len(waiting))):
            child.send(waiting.popleft())

    def _bury(self, child: _Child, waiting: deque[Job]) -> Iterator[tuple[Job, Examined]]:
        self._children.remove(child)
        child.end()
        status = child.process.returncode
        if status == DISK_TROUBLE:
            raise ResourceError("the picture cache cannot be written; free some disk space or set BOWERBIRD_CACHE to another folder.")
        if status > 0 and not child.answered:
            raise ResourceError(f"the decoding process ends with status {status} before its first picture; is Pillow installed whole?")
        if child.jobs:
            culprit = child.jobs.popleft()
            waiting.extendleft(reversed(child.jobs))
            verdict = _verdict_of_death(status)
            if verdict.code == "E_CRASH" and culprit.path not in self._suspects:
                self._suspects.add(culprit.path)  # the system may have killed the child for its own reasons: a second try tells
                waiting.appendleft(culprit)
            else:
                yield culprit, verdict
        if waiting:
            self._start(waiting)


def _verdict_of_death(status: int) -> Examined:
    if -status in {getattr(signal, "SIGPROF", 0), getattr(signal, "SIGALRM", 0)}:
        return Examined(code="E_TIMEOUT", reason=f"decoding takes more than {MAX_CPU_SECONDS:.0f} seconds")
    return Examined(code="E_CRASH", reason="the decoder crashes on it")
