"""Pictures that keep their shapes: which shapes there are, and that nothing is stretched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bowerbird.data.decode import MAX_SHAPE_ASPECT, SHAPE_STEP, frame, nearest_shape, shapes
from bowerbird.data.pictures import open_pictures
from bowerbird.data.previews import decode_shaped
from bowerbird.errors import PictureFolderError


@pytest.mark.parametrize("size", [512, 768, 1024])
def test_shapes_take_no_more_than_a_square_and_little_less(size: int) -> None:
    found = shapes(size)
    assert (size, size) in found and {(high, wide) for wide, high in found} == set(found)
    for wide, high in found:
        assert wide % SHAPE_STEP == high % SHAPE_STEP == 0 and max(wide, high) <= MAX_SHAPE_ASPECT * min(wide, high)
        assert 0.78 * size**2 <= wide * high <= size**2


def test_the_nearest_shape_loses_little() -> None:
    """Between shapes of 64 px steps less than a sixth lies outside; a ribbon is cut to 4:1."""
    for width, height in ((3000, 2000), (2000, 3000), (1920, 1080), (640, 480), (501, 500), (1000, 260)):
        left, top, right, bottom = frame(width, height, nearest_shape(width, height, 512))
        assert (right - left) * (bottom - top) > 5 / 6 * width * height
    assert nearest_shape(2000, 100, 512) == (1024, 256)


def test_no_picture_is_stretched(tmp_path: Path) -> None:
    """A circle stays one, whatever the shape, upright or turned by its metadata; and most of the picture is there."""
    kinds = {"wide": (600, 300), "tall": (300, 560), "square": (400, 400), "ribbon": (900, 100), "small": (90, 60)}
    for name, (width, height) in kinds.items():
        picture, radius = Image.new("RGB", (width, height), "white"), min(width, height) // 3
        centre = (width // 2, height // 2)
        ImageDraw.Draw(picture).ellipse([*(c - radius for c in centre), *(c + radius for c in centre)], fill="black")
        picture.save(tmp_path / f"{name}.png")
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / f"{name}-turned.jpg", exif=exif, quality=95)
    pictures = open_pictures(tmp_path, 256, "shape")
    assert pictures.pixels.shape == (10, 256, 256, 3)
    for number, path in enumerate(pictures.paths):
        wide, high = pictures.shapes(256)[number].tolist()
        assert (wide, high) == nearest_shape(*kinds[path.partition(".")[0].removesuffix("-turned")], 256)
        (pixels,) = decode_shaped(pictures, [number], 256)
        assert pixels.shape == (high, wide, 3)
        dark = pixels.mean(-1) < 128
        across, down = dark.any(0).sum(), dark.any(1).sum()
        assert abs(int(across) - int(down)) <= 1 and across >= 0.4 * min(wide, high)


def test_a_picture_that_changed_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (100, 60), "red").save(tmp_path / "one.png")
    pictures = open_pictures(tmp_path, 128, "shape")
    Image.fromarray(np.zeros((60, 100, 3), np.uint8)).save(tmp_path / "one.png")
    with pytest.raises(PictureFolderError, match=r"'one.png' has changed since"):
        decode_shaped(pictures, [0], 128)
