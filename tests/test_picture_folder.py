"""A folder of pictures is one request for each, the same on every face; what cannot be is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from bowerbird.errors import PictureFolderError, RequestError
from bowerbird.picture_folder import for_each_picture, pictures_of
from bowerbird.request import PaintRequest


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures, and what is none of them."""
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for name in ("two.JPG", "one.png", "three.webp", ".hidden.png", "deeper/four.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def masks_for(folder: Path, *stems: str) -> Path:
    folder.mkdir()
    for stem in stems:
        Image.new("L", (8, 8)).save(folder / f"{stem}.png")
    return folder


def test_each_picture_is_asked_for_alone_and_alike(photos: Path) -> None:
    """In the order of their names; all else of the request is as it was."""
    request = PaintRequest(prompt="a nest", seed=7, strength=0.3, image=photos)
    each = for_each_picture(request)
    assert [one.image.name for one in each if one.image] == ["one.png", "three.webp", "two.JPG"]
    assert all(one.model_copy(update={"image": photos}) == request for one in each)
    for alone in (PaintRequest(prompt="a nest"), each[0]):
        assert for_each_picture(alone) == [alone]


def test_places_are_files_and_folders(photos: Path) -> None:
    """Files as they are named, whatever they are: who names one is told when it is no picture."""
    assert pictures_of([photos / "notes.txt", photos]) == [photos / name for name in ("notes.txt", "one.png", "three.webp", "two.JPG")]


def test_masks_go_by_their_names_and_one_mask_is_for_all(photos: Path, tmp_path: Path) -> None:
    masks = masks_for(tmp_path / "masks", "one", "two", "three", "more")
    each = for_each_picture(PaintRequest(image=photos, mask=masks))
    assert [one.mask for one in each] == [masks / f"{one.image.stem}.png" for one in each if one.image]
    alike = for_each_picture(PaintRequest(image=photos, mask=masks / "one.png"))
    assert {one.mask for one in alike} == {masks / "one.png"} and len(alike) == 3


def test_what_is_missing_is_one_sentence(photos: Path, tmp_path: Path) -> None:
    masks = masks_for(tmp_path / "masks", "one")
    with pytest.raises(RequestError, match=r"masks' has no mask for 'three.webp' \(2 of 3 have none\)"):
        for_each_picture(PaintRequest(image=photos, mask=masks))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PictureFolderError, match=r"there is no picture in '.*empty'\. Supported: \.png"):
        for_each_picture(PaintRequest(image=tmp_path / "empty"))
