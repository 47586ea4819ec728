"""Stopping on request: SIGTERM and Ctrl-C ask, the loop answers between two pieces of work.

A second signal ends the process at once; what was saved before stays whole, because saving is crash-safe by itself.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

STOPPED_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try the same command again


class StopRequested(Exception):  # noqa: N818 - a request, not an error
    """Raised where work may be dropped without harm."""


class StopSignals:
    """`with StopSignals() as stop:` listens; `stop.check()` raises StopRequested once somebody asked."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # only there does Python deliver signals
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        if self.requested:
            raise StopRequested

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(STOPPED_EXIT_CODE)
        self.requested = True
