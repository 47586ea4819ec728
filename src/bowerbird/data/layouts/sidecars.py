"""A caption for one picture in a text of its name: `cat.txt` beside `cat.jpg`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bowerbird.data.decode import Rejected, read
from bowerbird.data.layouts.layout import Files, Said
from bowerbird.data.layouts.lists import clean, decoded
from bowerbird.data.names import printable

_MAX_BYTES = 64 * 1024
NO_PICTURES = (".txt", ".csv", ".json", ".jsonl")


@dataclass(frozen=True)
class Sidecars:
    lists: frozenset[str]
    name: str = "texts beside the pictures"

    def read(self, root: Path, files: Files, pictures: Sequence[str]) -> Said:
        said = Said()
        for picture in pictures:
            path = os.path.splitext(picture)[0] + ".txt"  # noqa: PTH122
            if path not in files:
                continue
            try:
                data = read(root / path, files[path])
            except Rejected as error:
                said.problems.append(f"{printable(path)}: {error.reason}")
                continue
            if len(data) > _MAX_BYTES:
                said.problems.append(f"{printable(path)}: {len(data):,} bytes is more than a caption; at most {_MAX_BYTES:,}")
            elif caption := clean(decoded(data)):
                said.captions[picture] = (caption,)
        return said


def find(files: Files) -> Sidecars | None:
    """The .txt files of which another file has the stem."""
    stems = {os.path.splitext(path)[0] for path in files if not path.lower().endswith(NO_PICTURES)}  # noqa: PTH122
    texts = (os.path.splitext(path) for path in files)  # noqa: PTH122
    found = frozenset(stem + suffix for stem, suffix in texts if suffix.lower() == ".txt" and stem in stems)
    return Sidecars(found) if found else None
