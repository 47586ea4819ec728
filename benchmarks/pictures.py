"""The pictures every entrant gets: `bench` to train on, `held` to be judged against, by the splits file."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bowerbird.data import open_pictures
from bowerbird.pixels import Pixels


@dataclass(frozen=True)
class BenchPictures:
    """`folder` holds `train` as PNG files already at their size: no entrant pays for resizing, and all see the same pixels."""

    folder: Path
    train: Pixels
    held: Pixels


def prepare(pictures: Path, splits: Path, size: int, work: Path) -> BenchPictures:
    """Pictures by split.  `splits` is a CSV with file_name (below `pictures`) and split; rows of other splits are left out."""
    split_of = read_column(splits, "split")
    found = open_pictures(pictures, size, held_out=0.0)
    rows = {split: [i for i, name in enumerate(found.names) if split_of.get(name) == split] for split in ("bench", "held")}
    for split, indices in rows.items():
        if not indices:
            raise SystemExit(f"{splits} names no picture of {pictures} as {split!r}.")
    folder = work / f"bench-{size}"
    if not folder.exists():
        unfinished = work / f"bench-{size}.tmp"
        unfinished.mkdir(parents=True, exist_ok=True)
        for i in rows["bench"]:
            Image.fromarray(found.pixels[i]).save(unfinished / f"{i:06d}.png")
        unfinished.rename(folder)
    return BenchPictures(folder, np.ascontiguousarray(found.pixels[rows["bench"]]), np.ascontiguousarray(found.pixels[rows["held"]]))


def read_column(splits: Path, column: str) -> dict[str, str]:
    """{file_name: value}"""
    with splits.open(newline="", encoding="utf-8") as file:
        return {row["file_name"]: row[column] for row in csv.DictReader(file)}
