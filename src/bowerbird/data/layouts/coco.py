"""Captions as COCO has them (Chen et al. 2015): one JSON for many pictures, several sentences each.

annotations/captions_train2017.json    {"images": [{"id": 9, "file_name": "000000000009.jpg"}, ...],
                                        "annotations": [{"image_id": 9, "caption": "..."}, ...]}
train2017/000000000009.jpg             pictures may lie in any folder: a name is looked for as a path, then alone

Files named val or test hold out their pictures where another one is for training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bowerbird.data.decode import Rejected
from bowerbird.data.layouts.layout import Files, Said
from bowerbird.data.layouts.lists import clean, distinct, json_object
from bowerbird.data.names import printable


@dataclass(frozen=True)
class Coco:
    lists: frozenset[str]
    name: str = "COCO captions"

    def read(self, root: Path, files: Files, pictures: Sequence[str]) -> Said:
        said = Said()
        known = set(pictures)
        by_name: dict[str, list[str]] = {}
        for picture in pictures:
            by_name.setdefault(picture.rpartition("/")[2], []).append(picture)
        sides = {}
        for path in sorted(self.lists):
            try:
                names, captions = _read(root, path, files)
            except Rejected as error:
                said.problems.append(f"{printable(path)}: {error.reason}")
                continue
            for number, texts in captions.items():
                meant = _picture(names.get(number, ""), path, known, by_name)
                if meant is None:
                    said.orphans += len(texts)
                elif cleaned := distinct([clean(text) for text in texts]):
                    said.captions[meant] = distinct([*said.captions.get(meant, ()), *cleaned])
                    sides[meant] = _is_held(path)
        if set(sides.values()) == {False, True}:
            said.held = sides
        return said


def find(files: Files) -> Coco | None:
    """Every .json that has 'caption' in its name."""
    found = frozenset(path for path in files if path.lower().endswith(".json") and "caption" in PurePosixPath(path).name.lower())
    return Coco(found) if found else None


def _is_held(path: str) -> bool:
    name = PurePosixPath(path).stem.lower()
    return "val" in name or "test" in name


def _read(root: Path, path: str, files: Files) -> tuple[dict[Any, str], dict[Any, list[str]]]:
    """File names, and captions, by picture id."""
    document = json_object(root, path, files[path])
    names = {row["id"]: row["file_name"] for row in _rows(document, "images", {"id": int | str, "file_name": str})}
    captions: dict[Any, list[str]] = {}
    for row in _rows(document, "annotations", {"image_id": int | str, "caption": str}):
        captions.setdefault(row["image_id"], []).append(row["caption"])
    return names, captions


def _rows(document: dict[str, Any], name: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
    rows = document.get(name)
    if not isinstance(rows, list):
        raise Rejected("E_FORMAT", f"it is no COCO captions file: it has no list {name!r}")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not all(isinstance(row.get(field), kind) for field, kind in fields.items()):
            raise Rejected("E_FORMAT", f"entry {number} of its {name!r} lacks {' or '.join(fields)}")
    return rows


def _picture(name: str, path: str, known: set[str], by_name: dict[str, list[str]]) -> str | None:
    """The picture a name means: a path below the root or the file's own folder, or the only file so called.

    Of several so called, the one in a folder that the file's name ends with: captions_train2017.json means train2017/.
    """
    name = name.replace("\\", "/").removeprefix("./")
    folder = path.rpartition("/")[0]
    for place in (name, f"{folder}/{name}"):
        if place in known:
            return place
    same = by_name.get(name.rpartition("/")[2], [])
    if len(same) > 1:
        same = [one for one in same if len(parts := one.split("/")) > 1 and PurePosixPath(path).stem.endswith(parts[-2])]
    return same[0] if len(same) == 1 else None
