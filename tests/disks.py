"""A disk that fills up."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from bowerbird.storage import Disk


class FullDisk(Disk):
    """Space for so many writes and half of the next one."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def write(self, path: Path, data: bytes) -> None:
        if self.left == 0:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= 1
        super().write(path, data)
