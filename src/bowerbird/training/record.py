"""The record of a run, metrics.jsonl: one line an update, one a snapshot.  Everything people look at is made from it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from bowerbird.storage import Disk, disk_error, write_file


class Record:
    """Append-only lines of JSON, each with `seen`; on resume it is cut back to the checkpoint, so no step stands twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, **line: Any) -> None:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        text = json.dumps(finite) + "\n"
        try:
            with self.path.open("a") as file:
                file.write(text)
        except OSError as error:
            raise disk_error(error, self.path, len(text)) from error

    def sync(self) -> None:
        """Make all lines durable: a checkpoint that survives a power cut must not outlive the record of how it came to be."""
        if self.path.exists():
            with self.path.open("a") as file:
                os.fsync(file.fileno())

    def lines(self) -> list[dict[str, Any]]:
        """All whole lines; one that a kill cut in half is left out."""
        if not self.path.exists():
            return []
        lines = []
        for text in self.path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
        return lines

    def cut_back(self, disk: Disk, seen: int) -> None:
        """Forget what happened after the checkpoint at `seen`."""
        kept = [json.dumps(line) for line in self.lines() if line["seen"] <= seen]
        write_file(disk, self.path, "".join(f"{line}\n" for line in kept).encode())
