"""CUB-200-2011 (Wah et al. 2011) as its archive lays it out: class names for labels, the official test split held out.

CUB_200_2011/images.txt             1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg
CUB_200_2011/train_test_split.txt   1 0                       (1: training picture)
CUB_200_2011/images/001.Black_footed_Albatross/*.jpg
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bowerbird.data.decode import Rejected, Signature, read
from bowerbird.errors import PictureFolderError

_LISTS = ("images.txt", "train_test_split.txt")


@dataclass(frozen=True)
class Cub:
    """What the lists say, by path below the root."""

    folder: str  # ends with '/' unless it is the root itself
    labels: dict[str, str]
    held: dict[str, bool]


def find_cub(files: Iterable[str]) -> str | None:
    """The folder that holds CUB's lists, '' for the root; None when the pictures are not CUB."""
    known = set(files)
    folders = sorted(path.removesuffix(_LISTS[1]) for path in known if path.rpartition("/")[2] == _LISTS[1])
    return next((folder for folder in folders if folder + _LISTS[0] in known), None)


def is_cub_list(path: str, folder: str | None) -> bool:
    """Whether a file is one of CUB's own texts: lists, attributes, part locations."""
    return folder is not None and path.startswith(folder) and path.endswith(".txt") and not path.startswith(folder + "images/")


def read_cub(root: Path, files: dict[str, Signature], folder: str) -> Cub:
    """Labels ('Black footed Albatross') and the official split of every listed picture."""
    images = {number: f"{folder}images/{path}" for number, path in _read_pairs(root, folder + _LISTS[0], files)}
    labels = {path: _class_name(path.split("/")[-2]) for path in images.values()}
    held = {images[number]: flag == "0" for number, flag in _read_pairs(root, folder + _LISTS[1], files) if number in images}
    return Cub(folder, labels, held)


def _class_name(folder: str) -> str:
    return re.sub(r"^\d+\.", "", folder).replace("_", " ")


def _read_pairs(root: Path, path: str, files: dict[str, Signature]) -> list[tuple[str, str]]:
    try:
        text = read(root / path, files[path]).decode("utf-8", "replace")
    except Rejected as error:
        raise PictureFolderError(f"{path!r}, a list of CUB-200-2011, cannot be read: {error.reason}. Unpack the archive again.") from error
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise PictureFolderError(f"{path!r}, a list of CUB-200-2011, has a line without two columns. Unpack the archive again.")
    return [(number, rest.strip()) for number, rest in pairs]
