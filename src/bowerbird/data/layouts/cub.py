"""CUB-200-2011 (Wah et al. 2011) as its archive lays it out.

attributes.txt                                   1 has_bill_shape::curved_(up_or_down)      (here, or in CUB_200_2011/attributes)
CUB_200_2011/images.txt                          1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg
CUB_200_2011/train_test_split.txt                1 0                       (1: training picture)
CUB_200_2011/bounding_boxes.txt                  1 60.0 27.0 325.0 304.0   (x y width height, pixels)
CUB_200_2011/attributes/image_attribute_labels.txt   1 1 0 3 27.7080       (image attribute is_present certainty seconds)
CUB_200_2011/parts/parts.txt                     2 beak
CUB_200_2011/parts/part_locs.txt                 1 2 312.0 182.0 1         (image part x y visible)
CUB_200_2011/images/001.Black_footed_Albatross/*.jpg
text_c10/001.Black_footed_Albatross/*.txt        ten sentences a picture (Reed et al. 2016, arXiv:1605.05395), inside or beside it

A class is what its folder is called.  What is said of attributes and parts is read when captions are written of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bowerbird.data.decode import Box, Rejected, read, signature
from bowerbird.data.layouts.layout import Files, Said
from bowerbird.data.layouts.lists import clean, columns, decoded, distinct, read_bytes, shown, unreadable
from bowerbird.data.names import printable

_NAME = "CUB-200-2011"
_IMAGES, _SPLIT, _BOXES = "images.txt", "train_test_split.txt", "bounding_boxes.txt"
_LABELS = "attributes/image_attribute_labels.txt"
_PARTS, _PART_PLACES = "parts/parts.txt", "parts/part_locs.txt"
_SENTENCES = ("text_c10", "text")  # as Reed et al. named the folder, and as it was passed on later
_MAX_SENTENCES_BYTES = 64 * 1024

# A row is "image attribute is_present certainty seconds"; some rows of the real list have a stray column behind the fourth.
_LABEL_ROW = re.compile(rb"^(\d+) +(\d+) +([01]) +([1-4])\b", re.MULTILINE)
_PRESENT_ROW = re.compile(rb"^(\d+) +(\d+) +1 +([1-4])\b", re.MULTILINE)


class Attribute(NamedTuple):
    """One that somebody saw: has_bill_shape, cone; certainty 1 not visible, 2 guessing, 3 probably, 4 definitely."""

    kind: str
    value: str
    certainty: int


class Part(NamedTuple):
    """Where a part of the bird is, in pixels of the whole picture."""

    x: float
    y: float
    visible: bool


@dataclass(frozen=True)
class Cub:
    """folder: that of the lists, ends with '/' unless it is the root itself; sentences: that of the texts, below the root or beside it."""

    folder: str
    lists: frozenset[str]
    sentences: str | Path | None
    name: str = _NAME

    def read(self, root: Path, files: Files, pictures: Sequence[str]) -> Said:
        said = Said()
        images = self._images(root, files)
        said.labels = {path: _class_name(path) for path in images.values()}
        for number, flag in columns(root, self.folder + _SPLIT, files, "image_id is_training_image", _NAME):
            if flag not in ("0", "1"):
                raise unreadable(
                    self.folder + _SPLIT, _NAME, f"picture {shown(number)} has {shown(flag)} for is_training_image, which is 0 or 1"
                )
            if number in images:
                said.held[images[number]] = flag == "0"
            else:
                said.orphans += 1
        if self.sentences is not None:
            listed = set(images.values())
            said.captions = {path: found for path in pictures if path in listed and (found := self._sentences_of(root, path, files))}
        return said

    def boxes(self, root: Path, files: Files) -> dict[str, Box]:
        """Where the bird is: (left, top, width, height) in pixels, by picture; {} where the archive has no such list."""
        path = self.folder + _BOXES
        if path not in files:
            return {}
        images = self._images(root, files)
        found = {}
        for number, *words in columns(root, path, files, "image_id x y width height", _NAME):
            left, top, width, height = (_number(word, path) for word in words)
            if width <= 0 or height <= 0:
                raise unreadable(path, _NAME, f"picture {shown(number)} has a box of {width:g} x {height:g} px")
            if number in images:
                found[images[number]] = (left, top, width, height)
        return found

    def attributes(self, root: Path, files: Files) -> dict[str, list[Attribute]]:
        """The attributes seen in each picture, by path, in the order of the list; {} where the archive has no such lists."""
        names_path = next((path for path in self._attribute_names() if path in files), None)
        if names_path is None or self.folder + _LABELS not in files:
            return {}
        names = {}
        for number, name in columns(root, names_path, files, "attribute_id attribute_name", _NAME):
            kind, _, value = name.partition("::")
            names[number] = (clean(kind), clean(value))
        images = self._images(root, files)
        path = self.folder + _LABELS
        try:
            data = read_bytes(root, path, files[path])
        except Rejected as error:
            raise unreadable(path, _NAME, error.reason) from error
        lines = data.count(b"\n") + (not data.endswith(b"\n"))
        if (rows := sum(1 for _ in _LABEL_ROW.finditer(data))) != lines:
            raise unreadable(
                path, _NAME, f"{lines - rows:,} of {lines:,} lines are not 'image_id attribute_id is_present certainty_id time'"
            )
        found: dict[str, list[Attribute]] = {}
        for image, attribute, certainty in (map(bytes.decode, row) for row in _PRESENT_ROW.findall(data)):
            if image in images and attribute in names:
                found.setdefault(images[image], []).append(Attribute(*names[attribute], int(certainty)))
        return found

    def parts(self, root: Path, files: Files) -> dict[str, dict[str, Part]]:
        """Where the parts of each bird are, by picture and name of the part; {} where the archive has no such lists."""
        path = self.folder + _PART_PLACES
        if path not in files or self.folder + _PARTS not in files:
            return {}
        images = self._images(root, files)
        names = dict(columns(root, self.folder + _PARTS, files, "part_id part_name", _NAME))
        found: dict[str, dict[str, Part]] = {}
        for image, part, x, y, visible in columns(root, path, files, "image_id part_id x y visible", _NAME):
            if image in images and part in names:
                found.setdefault(images[image], {})[clean(names[part])] = Part(_number(x, path), _number(y, path), visible == "1")
        return found

    def _images(self, root: Path, files: Files) -> dict[str, str]:
        """Paths below the root by the numbers of images.txt."""
        rows = columns(root, self.folder + _IMAGES, files, "image_id image_name", _NAME)
        return {number: f"{self.folder}images/{path}" for number, path in rows}

    def _attribute_names(self) -> tuple[str, ...]:
        return _attribute_names(self.folder)

    def _sentences_of(self, root: Path, picture: str, files: Files) -> tuple[str, ...]:
        """The lines of the text that is called as the picture, in the folder that is called as its class; () where none can be read."""
        name = os.path.splitext("/".join(picture.split("/")[-2:]))[0] + ".txt"  # noqa: PTH122
        try:
            if isinstance(self.sentences, Path):
                path = self.sentences / name
                seen = signature(os.lstat(path))
            else:
                path, seen = root / f"{self.sentences}{name}", files[f"{self.sentences}{name}"]
            data = read(path, seen) if seen[2] <= _MAX_SENTENCES_BYTES else b""
        except (OSError, KeyError, Rejected):
            return ()
        return distinct([clean(line) for line in decoded(data).splitlines()])


def find(files: Files, source: Path | None = None) -> Cub | None:
    """CUB, when its lists are there: the folder that holds them may be the root.  `source`: what lies beside it may hold the sentences."""
    folders = sorted(path.removesuffix(_SPLIT) for path in files if path.rpartition("/")[2] == _SPLIT)
    folder = next((folder for folder in folders if folder + _IMAGES in files), None)
    if folder is None:
        return None
    own = {path for path in files if path.startswith(folder) and path.endswith(".txt") and not path.startswith(folder + "images/")}
    inside = re.compile(rf"(?:.*/)?(?:{'|'.join(_SENTENCES)})/(?=[^/]+/[^/]+\.txt$)")
    sentences: str | Path | None = None
    for path in files:
        if match := inside.match(path):
            sentences = sentences or match[0]
            own.add(path)
    if sentences is None and source is not None:
        beside = source.expanduser().resolve().parent
        places = (beside / name for name in (*_SENTENCES, *(f"cvpr2016_cub/{name}" for name in _SENTENCES)))
        sentences = next((place for place in places if place.is_dir() and any(place.glob("[0-9][0-9][0-9].*"))), None)
    return Cub(folder, frozenset(own | {path for path in _attribute_names(folder) if path in files}), sentences)


def _attribute_names(folder: str) -> tuple[str, ...]:
    """Where attributes.txt may lie: the archive has it beside its folder, copies have it within."""
    beside = folder.rstrip("/").rpartition("/")[0]
    return (f"{folder}attributes/attributes.txt", f"{folder}attributes.txt", f"{beside}/attributes.txt" if beside else "attributes.txt")


def _class_name(path: str) -> str:
    """'Black footed Albatross' of images/001.Black_footed_Albatross/x.jpg."""
    return printable(re.sub(r"^\d+\.", "", path.split("/")[-2]).replace("_", " "))


def _number(word: str, path: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e6:  # also not a number
        raise unreadable(path, _NAME, f"{shown(word)} is no number of pixels")
    return value
