"""The record of a run, metrics.jsonl: one line an update, one a snapshot.  Everything people look at is made from it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from bowerbird.errors import RunError
from bowerbird.reading import open_regular, parse_json
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
        """All whole lines; one that a kill cut in half, or that something else wrote there, is left out."""
        try:
            with open_regular(self.path) as file:
                texts = file.read().decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(f"cannot read {str(self.path)!r}: {error.strerror}. Restore it, or remove it.") from error
        return [line for line in map(_parsed, texts) if line is not None]

    def cut_back(self, disk: Disk, seen: int) -> None:
        """Forget what happened after the checkpoint at `seen`."""
        kept = [json.dumps(line) for line in self.lines() if line["seen"] <= seen]
        write_file(disk, self.path, "".join(f"{line}\n" for line in kept).encode())


def _parsed(text: str) -> dict[str, Any] | None:
    """A line of the record, or None when it is none: `seen` and what people look at are numbers, or not there."""
    try:
        line = parse_json(text.encode())
    except ValueError:
        return None
    if not isinstance(line, dict) or not isinstance(line.get("seen"), int):
        return None
    numbers = (line.get(key) for key in ("loss", "grad_norm", "lr", "held_out", "painted", "copied", "unseen", "unseen_copied"))
    return line if all(isinstance(number, int | float | None) for number in numbers) else None
