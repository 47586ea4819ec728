"""What training learns from: pictures as an array, with all that is known of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bowerbird.data.decode import Box, Examined, Signature, nearest_shape, signature
from bowerbird.data.names import printable
from bowerbird.errors import PictureFolderError

State = Literal["accepted", "changed", "duplicate", "rejected", "description"]


@dataclass(frozen=True, slots=True)
class FileState:
    """The one state a file ended in."""

    path: str  # below the source
    state: State
    code: str = ""
    reason: str = ""
    changes: tuple[str, ...] = ()
    same_as: str = ""  # a path

    @property
    def name(self) -> str:
        return printable(self.path)


@dataclass(frozen=True)
class Pictures:
    """What training learns from: n accepted pictures, in the order of their paths.

    pixels (n, size, size, 3) uint8 sRGB 0..255, read-only; train, held int64 rows of it; labels (n,) int64, -1 for none.
    """

    pixels: NDArray[np.uint8]
    train: NDArray[np.int64]
    held: NDArray[np.int64]
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]  # any number each
    names: tuple[str, ...]  # printable paths below the source
    fingerprint: str  # of contents, order, size and fit
    files: tuple[FileState, ...]  # every file of the source
    examined: tuple[Examined, ...]  # of each picture
    groups: NDArray[np.int64]  # (n,): near-duplicates share a number
    report: dict[str, Any]  # for data.json
    root: Path  # the folder read; of an archive, the one it was unpacked to
    paths: tuple[str, ...]  # of the pictures, below the root
    seen: dict[str, Signature] = field(repr=False)  # every file's, by path, when the folder was listed
    masks: dict[str, str]  # by path, that of the picture which shows where it is to be learnt
    boxes: dict[str, Box] = field(repr=False)  # what fit "box" frames, by path; {} for another fit

    def report_json(self, place: Path | None = None) -> bytes:
        """`report` as the bytes of data.json; a run's says where the pictures lie, too."""
        report = self.report if place is None else {**self.report, "place": str(place)}
        return json.dumps(report, indent=1, ensure_ascii=False).encode("utf-8", "replace")

    def shapes(self, size: int) -> NDArray[np.int64]:
        """Width and height, (n, 2), that fit "shape" gives each picture for a size of `size` pixels."""
        return np.array([nearest_shape(one.width, one.height, size) for one in self.examined], np.int64).reshape(-1, 2)

    def verify_unchanged(self, indices: Iterable[int] | None = None) -> None:
        """PictureFolderError names the first picture (of `indices`, or of all) that vanished or changed since it was read."""
        for index in range(len(self.paths)) if indices is None else indices:
            path = self.paths[index]
            try:
                fate = "" if signature(os.lstat(self.root / path)) == self.seen[path] else "changed"
            except OSError:
                fate = "vanished"
            if fate:
                raise PictureFolderError(f"{self.names[index]!r} has {fate} since the pictures were read. Put it back, or begin a new run.")
