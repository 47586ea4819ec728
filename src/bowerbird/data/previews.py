"""Pictures decoded once more, as safely as the first time, and not kept: for people, for captioners, and for encoders that keep latents."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bowerbird.data.decode import Box, Examined, Fit, nearest_shape
from bowerbird.data.names import printable
from bowerbird.data.picture_set import Pictures
from bowerbird.data.workers import DecodePool, Job
from bowerbird.errors import PictureFolderError


def decode_whole(
    pictures: Pictures, paths: Sequence[str], side: int, lenient: bool = False
) -> dict[str, tuple[NDArray[np.uint8], Examined]]:
    """Of each path that holds a picture: (side, side, 3) with the whole of it on white, and what was found.

    paths: of any files below the root; `lenient` as in `decode.examine`.
    """
    found = _decoded(pictures, paths, side, "pad", lenient=lenient)
    return {path: (pixels, verdict) for path, (pixels, verdict) in found.items() if pixels is not None}


def decode_shaped(pictures: Pictures, chosen: Sequence[int], size: int) -> NDArray[np.uint8]:
    """Pictures of one shape, (n, h, w, 3), as fit "shape" shows them.  PictureFolderError where one is not what it was."""
    found = _decoded(pictures, [pictures.paths[index] for index in chosen], size, "shape")
    shown = {index: found[pictures.paths[index]] for index in chosen}
    for index, (pixels, verdict) in shown.items():
        if pixels is None:
            pictures.verify_unchanged([index])
            raise PictureFolderError(
                f"{pictures.names[index]!r} cannot be read a second time: {verdict.reason}. Try again, or take it out."
            )
    return np.stack([pixels for pixels, _ in shown.values() if pixels is not None])


def decode_masks(pictures: Pictures, chosen: Sequence[int], size: int, fit: Fit) -> Iterator[tuple[NDArray[np.uint8], str]]:
    """The masks of those pictures as each is shown, (h, w) grey 0..255, and the hashes of their files.

    PictureFolderError where one is no picture, or not as large as the one it is for.
    """
    paths = {index: pictures.masks[pictures.paths[index]] for index in chosen}
    boxes = {paths[index]: box for index in chosen if (box := pictures.boxes.get(pictures.paths[index]))}
    found = _decoded(pictures, list(paths.values()), size, fit, boxes)
    for index, path in paths.items():
        (pixels, mask), one, name = found[path], pictures.examined[index], printable(path)
        if pixels is None:
            raise PictureFolderError(f"the mask {name!r} cannot be used: {mask.reason}. Mend it, or take it out.")
        if (mask.width, mask.height) != (one.width, one.height):
            raise PictureFolderError(
                f"the mask {name!r} is {mask.width}x{mask.height} px and its picture {one.width}x{one.height}. Make both as large."
            )
        yield pixels.mean(-1).round().astype(np.uint8), mask.sha256


def _decoded(
    pictures: Pictures, paths: Sequence[str], size: int, fit: Fit, boxes: Mapping[str, Box] | None = None, lenient: bool = False
) -> dict[str, tuple[NDArray[np.uint8] | None, Examined]]:
    """Pixels of each path, (h, w, 3), and what was found; None of what is no picture."""
    seen: dict[str, tuple[NDArray[np.uint8] | None, Examined]] = {}
    with tempfile.TemporaryDirectory() as folder:
        pack = Path(folder) / "previews.u8"
        pack.touch()
        jobs = [Job(path, pictures.seen[path], slot, (boxes or {}).get(path)) for slot, path in enumerate(paths)]
        with DecodePool(pictures.root, pack, size, fit, 1, lenient) as pool:
            for job, verdict in pool.run(jobs):
                if verdict.code:
                    seen[job.path] = None, verdict
                    continue
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
