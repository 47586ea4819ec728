"""Where a picture is to be learnt, in another of its name and size: `cat.mask.png` beside `cat.jpg`, white there and black elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bowerbird.data.layouts.layout import Files, Said
from bowerbird.data.layouts.sidecars import NO_PICTURES

_END = ".mask.png"


@dataclass(frozen=True)
class Masks:
    of: Mapping[str, str]  # a mask's path, by the path of its picture without the suffix
    name: str = "masks beside the pictures"

    @property
    def lists(self) -> frozenset[str]:
        return frozenset(self.of.values())

    def read(self, root: Path, files: Files, pictures: Sequence[str]) -> Said:
        stems = {picture: os.path.splitext(picture)[0] for picture in pictures}  # noqa: PTH122
        return Said(masks={picture: self.of[stem] for picture, stem in stems.items() if stem in self.of})


def find(files: Files) -> Masks | None:
    """The .mask.png files of which another file, no list, has the stem."""
    stems = {os.path.splitext(path)[0] for path in files if not path.lower().endswith((*NO_PICTURES, _END))}  # noqa: PTH122
    found = {path.removesuffix(_END): path for path in files if path.endswith(_END) and path.removesuffix(_END) in stems}
    return Masks(found) if found else None
