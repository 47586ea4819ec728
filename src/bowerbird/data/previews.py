"""Pictures decoded once more, as safely as the first time, and not kept: for people, for captioners, and for encoders that keep latents."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bowerbird.data.decode import Examined, Fit, nearest_shape
from bowerbird.data.picture_set import Pictures
from bowerbird.data.workers import DecodePool, Job
from bowerbird.errors import PictureFolderError


def decode_whole(
    pictures: Pictures, paths: Sequence[str], side: int, lenient: bool = False
) -> dict[str, tuple[NDArray[np.uint8], Examined]]:
    """Of each path that holds a picture: (side, side, 3) with the whole of it on white, and what was found.

    paths: of any files below the root; `lenient` as in `decode.examine`.
    """
    return _decoded(pictures, paths, side, "pad", lenient)


def decode_shaped(pictures: Pictures, chosen: Sequence[int], size: int) -> NDArray[np.uint8]:
    """Pictures of one shape, (n, h, w, 3), as fit "shape" shows them.  PictureFolderError where one is not what it was."""
    paths = [pictures.paths[index] for index in chosen]
    found = _decoded(pictures, paths, size, "shape")
    lacking = [index for index, path in zip(chosen, paths, strict=True) if path not in found]
    if lacking:
        pictures.verify_unchanged(lacking)
        raise PictureFolderError(f"{pictures.names[lacking[0]]!r} could be read before and cannot be now. Try again, or take it out.")
    return np.stack([found[path][0] for path in paths])


def _decoded(
    pictures: Pictures, paths: Sequence[str], size: int, fit: Fit, lenient: bool = False
) -> dict[str, tuple[NDArray[np.uint8], Examined]]:
    seen: dict[str, tuple[NDArray[np.uint8], Examined]] = {}
    with tempfile.TemporaryDirectory() as folder:
        pack = Path(folder) / "previews.u8"
        pack.touch()
        jobs = [Job(path, pictures.seen[path], slot) for slot, path in enumerate(paths)]
        with DecodePool(pictures.root, pack, size, fit, 1, lenient) as pool:
            for job, verdict in pool.run(jobs):
                if not verdict.code:
                    wide, high = nearest_shape(verdict.width, verdict.height, size) if fit == "shape" else (size, size)
                    pixels = np.fromfile(pack, np.uint8, count=wide * high * 3, offset=job.slot * size * size * 3)
                    seen[job.path] = pixels.reshape(high, wide, 3), verdict
    return seen


def stretched(pixels: NDArray[np.uint8], found: Examined, side: int) -> NDArray[np.uint8]:
    """A picture from `decode_whole` without its white, stretched over a square of `side`."""
    whole = len(pixels)
    scale = whole / max(found.width, found.height)
    width, height = max(1, round(found.width * scale)), max(1, round(found.height * scale))
    left, top = (whole - width) // 2, (whole - height) // 2
    image = Image.fromarray(pixels).crop((left, top, left + width, top + height))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
