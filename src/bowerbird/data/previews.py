"""Whole pictures, decoded as safely as for training and not kept: for people to look at, and for captioners."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bowerbird.data.decode import Examined
from bowerbird.data.picture_set import Pictures
from bowerbird.data.workers import DecodePool, Job


def decode_whole(
    pictures: Pictures, paths: Sequence[str], side: int, lenient: bool = False
) -> dict[str, tuple[NDArray[np.uint8], Examined]]:
    """Of each path that holds a picture: (side, side, 3) with the whole of it on white, and what was found.

    paths: of any files below the root; `lenient` as in `decode.examine`.
    """
    seen: dict[str, tuple[NDArray[np.uint8], Examined]] = {}
    with tempfile.TemporaryDirectory() as folder:
        pack = Path(folder) / "previews.u8"
        pack.touch()
        jobs = [Job(path, pictures.seen[path], slot) for slot, path in enumerate(paths)]
        with DecodePool(pictures.root, pack, side, "pad", 1, lenient) as pool:
            for job, verdict in pool.run(jobs):
                if not verdict.code:
                    pixels = np.fromfile(pack, np.uint8, count=side * side * 3, offset=job.slot * side * side * 3)
                    seen[job.path] = pixels.reshape(side, side, 3), verdict
    return seen


def stretched(pixels: NDArray[np.uint8], found: Examined, side: int) -> NDArray[np.uint8]:
    """A picture from `decode_whole` without its white, stretched over a square of `side`."""
    whole = len(pixels)
    scale = whole / max(found.width, found.height)
    width, height = max(1, round(found.width * scale)), max(1, round(found.height * scale))
    left, top = (whole - width) // 2, (whole - height) // 2
    image = Image.fromarray(pixels).crop((left, top, left + width, top + height))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
