"""Folders that name classes (Hugging Face's and torchvision's ImageFolder), and folders called train and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from bowerbird.data.layouts.layout import Files, Said
from bowerbird.data.names import printable

SPLIT_FOLDERS = {"train": False, "training": False, "test": True, "testing": True, "val": True, "valid": True, "validation": True}


@dataclass(frozen=True)
class Folders:
    """Every listing has folders."""

    name: str = "folders"
    lists: frozenset[str] = frozenset()

    def read(self, root: Path, files: Files, pictures: Sequence[str]) -> Said:
        return Said(labels=labels_from_folders(pictures), held=split_by_folder(pictures))


def labels_from_folders(pictures: Sequence[str]) -> dict[str, str]:
    """Each picture's label: the first folder in which the pictures differ.  Folders named train, test and the like are looked through."""
    folders = {picture: picture.split("/")[:-1] for picture in pictures}
    if split_by_folder(pictures):
        folders = {picture: parts[1:] for picture, parts in folders.items()}
    first, last = min(folders.values(), default=[]), max(folders.values(), default=[])
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    labels = {picture: printable(parts[shared]) for picture, parts in folders.items() if len(parts) > shared}
    return labels if len(set(labels.values())) > 1 else {}


def split_by_folder(pictures: Sequence[str]) -> dict[str, bool]:
    """Whether each picture is held out, when the top folders are a split (train and test, or val) and nothing else; else {}."""
    tops = {picture: picture.split("/")[0].lower() if "/" in picture else "" for picture in pictures}
    names = set(tops.values())
    if not names <= SPLIT_FOLDERS.keys() or {SPLIT_FOLDERS[name] for name in names} != {False, True}:
        return {}
    return {picture: SPLIT_FOLDERS[top] for picture, top in tops.items()}
