"""Pictures before and after the network: sizes it likes, room to paint outward, and borders without a seam."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Size = tuple[int, int]  # width, height
Box = tuple[int, int, int, int]  # left, top, right, bottom
Pixels = NDArray[np.float32]  # (H, W, C), 0..255

MULTIPLE = 8  # latents are eight times smaller than pictures
MOST, LEAST = 2.25, 0.5  # times the native area; beyond, these models repeat or lose their subject


def working_size(wanted: Size, native: int, multiple: int = MULTIPLE) -> Size:
    """The size to paint at for a picture of `wanted` size: itself where the model can, else the same shape at the native area.

    Rounded up to `multiple`, so the picture is cut, never stretched.
    """
    area, native_area = wanted[0] * wanted[1], native**2
    scale = 1.0 if LEAST * native_area <= area <= MOST * native_area else math.sqrt(native_area / area)
    width, height = (max(multiple, math.ceil(side * scale / multiple - 1e-6) * multiple) for side in wanted)
    return width, height


def region_to_repaint(mask: Image.Image, native: int) -> Box:
    """The part of a large picture to work on: what the mask covers with surroundings, at least `native` on each side.

    A large photo scaled down as a whole would get its small repainted part at a fraction of its resolution.
    """
    whole = (0, 0, mask.width, mask.height)
    if mask.width * mask.height <= MOST * native**2:
        return whole
    left, top, right, bottom = mask.getbbox() or whole
    spans = []
    for low, high, limit in ((left, right, mask.width), (top, bottom, mask.height)):
        length = min(limit, max(native, 2 * (high - low)))
        start = min(max(0, (low + high - length) // 2), limit - length)
        spans.append((start, start + length))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def squared(box: Box, whole: Size) -> Box:
    """The box grown towards a square, as far as the picture reaches; for models that paint squares."""
    side = max(box[2] - box[0], box[3] - box[1])
    spans = []
    for low, high, limit in ((box[0], box[2], whole[0]), (box[1], box[3], whole[1])):
        length = min(limit, side)
        start = min(max(0, (low + high - length) // 2), limit - length)
        spans.append((start, start + length))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def close_up(mask: Image.Image) -> Box:
    """The part of a picture to look at closely: what the mask covers and as much again around it, at most twice as long as wide."""
    left, top, right, bottom = mask.getbbox() or (0, 0, mask.width, mask.height)
    longest = max(right - left, bottom - top)
    spans = []
    for low, high, limit in ((left, right, mask.width), (top, bottom, mask.height)):
        length = min(limit, max(2 * (high - low), longest, 2 * MULTIPLE))
        start = min(max(0, (low + high - length) // 2), limit - length)
        spans.append((start, start + length))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def region_at(picture: Image.Image, point: tuple[int, int], tolerance: int) -> Image.Image:
    """The mask of what is connected to `point` (x, y) and differs from it by at most `tolerance` (0..255) in every channel.

    Grown by a pixel, so that the soft border of a thing belongs to it.
    """
    pixels = np.asarray(picture.convert("RGB"), np.int16)
    alike = (np.abs(pixels - pixels[point[1], point[0]]) <= tolerance).all(-1)
    found = np.zeros_like(alike)
    found[point[1], point[0]] = True
    area = 0
    while found.sum() > area:  # each round goes on along whole rows and columns, so there are as many as the region has bends
        area = found.sum()
        for axis in (1, 0):
            found = _spread(found, alike, axis)
    return Image.fromarray(np.where(found, 255, 0).astype(np.uint8)).filter(ImageFilter.MaxFilter(3))


def _spread(found: NDArray[np.bool_], alike: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Every unbroken run of `alike` pixels along an axis in which one is found."""
    found, alike = np.swapaxes(found, 0, axis), np.swapaxes(alike, 0, axis)
    begins = alike & ~np.pad(alike, ((1, 0), (0, 0)))[:-1]
    runs = begins.cumsum(0) + np.arange(alike.shape[1]) * (alike.shape[0] + 1)  # a number of its own for each run of each line
    hit = np.zeros(runs.max() + 1, bool)
    hit[runs[found]] = True
    return np.swapaxes(alike & hit[runs], 0, axis)


def extend(picture: Image.Image, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> tuple[Image.Image, Image.Image]:
    """A larger canvas with the picture in it, and the mask of what is new; new parts begin as a smooth continuation of the border."""
    old = np.asarray(picture.convert("RGB"), np.float32)
    sides = ((top, bottom), (left, right))
    known = np.pad(np.ones(old.shape[:2], bool), sides)
    filled = membrane(np.pad(old, (*sides, (0, 0))), known)
    return _picture(filled), Image.fromarray(np.where(known, 0, 255).astype(np.uint8))


def join(original: Image.Image, painted: Image.Image, mask: Image.Image) -> Image.Image:
    """Put the painted part (mask >= 128) into the original so that no step shows at the border; the rest keeps its pixels.

    The autoencoder shifts colours a little everywhere.  Outside the mask that shift is known, original - painted; its
    smooth continuation into the mask (a membrane) is added there, which makes both sides meet (Perez, Gangnet and
    Blake 2003, "Poisson image editing").
    """
    old, new = np.asarray(original.convert("RGB"), np.float32), np.asarray(painted.convert("RGB"), np.float32)
    kept = np.asarray(mask.convert("L")) < 128
    if not kept.any():
        return painted
    return _picture(np.where(kept[..., None], old, new + membrane(old - new, kept)))


def membrane(values: Pixels, known: NDArray[np.bool_], sweeps: int = 16) -> Pixels:
    """Fill the unknown pixels so that each is the mean of its neighbours (Laplace's equation), from coarse to fine."""
    if known.all() or not known.any() or max(known.shape) == 1:
        return values
    filled = np.where(known[..., None], values, _double(membrane(*_halve(values, known), sweeps), known.shape))
    for _ in range(sweeps):
        padded = np.pad(filled, ((1, 1), (1, 1), (0, 0)), mode="edge")
        mean = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        filled = np.where(known[..., None], values, mean)
    return filled.astype(np.float32)


def tiles(size: Size, side: int, overlap: int) -> list[Box]:
    """Boxes of at most `side`, neighbours overlapping by at least `overlap`, that cover a picture of `size`."""
    return [(left, top, right, bottom) for top, bottom in _spans(size[1], side, overlap) for left, right in _spans(size[0], side, overlap)]


def _spans(length: int, side: int, overlap: int) -> list[tuple[int, int]]:
    if length <= side:
        return [(0, length)]
    count = math.ceil((length - overlap) / (side - overlap))
    return [(start, start + side) for start in (round(i * (length - side) / (count - 1)) for i in range(count))]


def blend(parts: list[Image.Image], boxes: list[Box], scale: int, overlap: int) -> Image.Image:
    """The picture whose `boxes`, enlarged by `scale`, the parts are; each fades out over its `overlap`."""
    width, height = (max(box[i] for box in boxes) * scale for i in (2, 3))
    total, weights = np.zeros((height, width, 3), np.float32), np.zeros((height, width, 1), np.float32)
    for part, box in zip(parts, boxes, strict=True):
        left, top, right, bottom = (edge * scale for edge in box)
        fade = np.minimum.outer(_ramp(bottom - top, overlap * scale), _ramp(right - left, overlap * scale))[..., None]
        total[top:bottom, left:right] += fade * np.asarray(part.resize((right - left, bottom - top)), np.float32)
        weights[top:bottom, left:right] += fade
    return _picture(total / weights)


def _ramp(length: int, overlap: int) -> NDArray[np.float32]:
    """Rises from the ends of a part to 1 where its neighbours end."""
    from_end = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1
    return np.minimum(from_end / (overlap + 1), 1).astype(np.float32)


def border_step(picture: Image.Image, mask: Image.Image) -> float:
    """Mean absolute difference, 0..255, between neighbouring pixels across the mask's border."""
    pixels, inside = np.asarray(picture.convert("RGB"), np.float32), np.asarray(mask.convert("L")) >= 128
    across = [
        np.abs(np.diff(pixels, axis=0))[inside[1:] != inside[:-1]],
        np.abs(np.diff(pixels, axis=1))[inside[:, 1:] != inside[:, :-1]],
    ]
    return float(np.concatenate(across).mean()) if any(map(len, across)) else 0.0


def _halve(values: Pixels, known: NDArray[np.bool_]) -> tuple[Pixels, NDArray[np.bool_]]:
    """Half the size: each pixel the mean of the known ones among the four it stands for."""
    to_even = (*((0, side % 2) for side in known.shape), (0, 0))
    weights = np.pad(known[..., None].astype(np.float32), to_even)
    total, count = _sum_of_four(np.pad(values, to_even) * weights), _sum_of_four(weights)
    return (total / np.maximum(count, 1)).astype(np.float32), count[..., 0] > 0


def _sum_of_four(pixels: Pixels) -> Pixels:
    height, width, channels = pixels.shape
    return pixels.reshape(height // 2, 2, width // 2, 2, channels).sum((1, 3))  # type: ignore[no-any-return]


def _double(values: Pixels, shape: tuple[int, int]) -> Pixels:
    size = (2 * values.shape[1], 2 * values.shape[0])
    channels = [Image.fromarray(channel).resize(size, Image.Resampling.BILINEAR) for channel in np.moveaxis(values, -1, 0)]
    return np.stack([np.asarray(channel, np.float32) for channel in channels], -1)[: shape[0], : shape[1]]


def _picture(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
