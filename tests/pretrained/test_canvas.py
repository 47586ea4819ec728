"""Sizes, seams and tiles: pure geometry, checked against exact answers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bowerbird.canvas import (
    blend,
    border_step,
    close_up,
    extend,
    join,
    membrane,
    region_at,
    region_to_repaint,
    tiles,
    working_size,
)

BIRDS = Path(__file__).parents[2] / "examples" / "birds"


def bird(number: int) -> Image.Image:
    with Image.open(sorted(BIRDS.glob("*.webp"))[number]) as file:
        return file.convert("RGB")


@given(st.integers(8, 8192), st.integers(8, 8192), st.sampled_from([512, 768, 1024]))
def test_the_working_size_suits_the_network(width: int, height: int, native: int):
    """Multiples of 8, an area the network knows, and the asked shape within one multiple."""
    w, h = working_size((width, height), native)
    assert w % 8 == h % 8 == 0
    assert 0.45 * native**2 <= w * h
    if max(width, height) < 20 * min(width, height):
        assert w * h <= 2.6 * native**2
        assert abs(w / h / (width / height) - 1) < 0.1


def test_native_sizes_are_left_alone():
    for size in ((512, 512), (512, 768), (768, 512), (640, 448)):
        assert working_size(size, 512) == size


def test_a_membrane_continues_a_plane_exactly():
    """Linear functions solve Laplace's equation, so a hole in a plane is filled with the plane."""
    y, x = np.mgrid[:97, :130].astype(np.float32)
    plane = np.stack([x, y, 2 * x - y], -1)
    known = np.ones((97, 130), bool)
    known[30:60, 40:90] = False
    assert np.abs(membrane(plane * known[..., None], known) - plane).max() < 1


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_a_membrane_stays_between_its_border_values(height: int, width: int, seed: int):
    """The maximum principle: no overshoot, wherever the known pixels lie."""
    dice = np.random.default_rng(seed)
    values = dice.random((height, width, 2), np.float32)
    known = dice.random((height, width)) < 0.3
    known[0, 0] = True
    filled = membrane(values, known)
    assert (filled[known] == values[known]).all()
    assert filled.min() >= values[known].min() - 1e-5 and filled.max() <= values[known].max() + 1e-5


@pytest.mark.parametrize("number", [0, 40, 80, 120])
def test_joining_hides_a_shift_of_colour(number: int):
    """The autoencoder's shift, made here on purpose: a hard paste shows it at the border, joining does not, and kept pixels stay."""
    picture = bird(number)
    mask = Image.new("L", picture.size)
    mask.paste(255, (60, 70, 190, 200))
    shifted = Image.fromarray((np.asarray(picture, np.float32) * 0.85 + 20).clip(0, 255).astype(np.uint8))
    pasted = picture.copy()
    pasted.paste(shifted, mask=mask)
    joined = join(picture, shifted, mask)
    natural = border_step(picture, mask)
    assert border_step(pasted, mask) > natural + 3
    assert border_step(joined, mask) < natural + 0.5
    kept = np.asarray(mask) < 128
    assert (np.asarray(joined)[kept] == np.asarray(picture)[kept]).all()


def test_extending_leaves_the_picture_and_continues_it_smoothly():
    picture = bird(3)
    canvas, mask = extend(picture, left=40, bottom=24)
    assert canvas.size == mask.size == (picture.width + 40, picture.height + 24)
    assert canvas.crop((40, 0, 40 + picture.width, picture.height)).tobytes() == picture.tobytes()
    assert np.asarray(mask).sum() == 255 * (canvas.width * canvas.height - picture.width * picture.height)
    assert border_step(canvas, mask) < 3


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_tiles_cover_everything_and_overlap(width: int, height: int):
    boxes = tiles((width, height), 256, 32)
    for low, high, length in ((0, 2, width), (1, 3, height)):
        spans = sorted({(box[low], box[high]) for box in boxes})
        assert spans[0][0] == 0 and spans[-1][1] == length
        assert all(end - start <= 256 for start, end in spans)
        assert all(one[1] - other[0] >= 32 for one, other in pairwise(spans))


def test_blending_the_parts_of_a_picture_gives_the_picture():
    """Weights that sum to anything but one at some pixel would show."""
    picture = bird(7)
    boxes = tiles(picture.size, 100, 20)
    parts = [picture.crop(box).resize(((box[2] - box[0]) * 2, (box[3] - box[1]) * 2), Image.Resampling.NEAREST) for box in boxes]
    whole = picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST)
    assert np.abs(np.asarray(blend(parts, boxes, 2, 20), int) - np.asarray(whole, int)).max() <= 1


@given(st.data())
def test_the_region_to_repaint_holds_the_mask(data: Any):
    width, height = data.draw(st.integers(64, 1200)), data.draw(st.integers(64, 1200))
    left, top = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    mask = Image.new("L", (width, height))
    mask.paste(255, (left, top, right, bottom))
    box = region_to_repaint(mask, 256)
    assert 0 <= box[0] <= left and 0 <= box[1] <= top and right <= box[2] <= width and bottom <= box[3] <= height
    assert box[2] - box[0] >= min(width, 256) and box[3] - box[1] >= min(height, 256)


# Regions


def flooded(alike: np.ndarray[Any, Any], start: tuple[int, int]) -> np.ndarray[Any, Any]:
    """One pixel after the other, as a bucket of paint goes."""
    found, todo = np.zeros_like(alike), [start]
    while todo:
        row, column = todo.pop()
        if 0 <= row < alike.shape[0] and 0 <= column < alike.shape[1] and alike[row, column] and not found[row, column]:
            found[row, column] = True
            todo += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    return found


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 24), st.integers(1, 24), st.floats(0.2, 0.95))
def test_a_region_is_what_a_bucket_of_paint_fills(seed: int, height: int, width: int, share: float):
    draw = np.random.default_rng(seed)
    alike = draw.random((height, width)) < share
    row, column = int(draw.integers(height)), int(draw.integers(width))
    alike[row, column] = True
    picture = Image.fromarray(np.where(alike, 100 + draw.integers(-16, 17, alike.shape), 200).astype(np.uint8))
    mask = np.asarray(region_at(picture, (column, row), 32)) > 0
    filled = np.pad(flooded(alike, (row, column)), 1)
    grown = np.any([np.roll(filled, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)], 0)[1:-1, 1:-1]
    assert (mask == grown).all()


@given(st.integers(1, 300), st.integers(1, 300), st.data())
def test_a_close_up_holds_the_mask_and_its_surroundings(width: int, height: int, data: Any):
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    mask = Image.new("L", (width, height))
    mask.paste(255, (left, top, right, bottom))
    box = close_up(mask)
    assert 0 <= box[0] <= left and 0 <= box[1] <= top and right <= box[2] <= width and bottom <= box[3] <= height
    for low, high, limit, side in ((box[0], box[2], width, right - left), (box[1], box[3], height, bottom - top)):
        assert high - low >= min(limit, 2 * side)
