"""Captions from what is known: words that the lists say, the same for the same picture, always in a new file."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bowerbird.captioning import KNOWN, OWN, Captions, captions_of, from_what_is_known, write_captions
from bowerbird.data import open_pictures
from bowerbird.errors import PictureFolderError, RequestError
from tests.data.small_cub import CUB_IMAGES, small_cub


def folder_of(home: Path, *paths: str) -> Path:
    """Pictures that differ, at these paths."""
    for number, path in enumerate(paths):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + number, 30), (10 * number, 200, 90)).save(home / path)
    return home


def known(folder: Path) -> dict[str, tuple[str, ...]]:
    pictures = open_pictures(folder, 16)
    return dict(zip(pictures.names, from_what_is_known(pictures), strict=True))


@pytest.fixture(scope="module")
def cub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = small_cub(tmp_path_factory.mktemp("cub"))
    shutil.rmtree(home / "text_c10")
    return home


def test_class_folders_become_sentences_with_the_right_article(tmp_path: Path) -> None:
    paths = (
        "snowyOwl/a.png",
        "014.Grey_hen/b.png",
        "UNICORNS/c.png",
        "eagle/d.jpg",
        "unicorn/e.png",
        "7/f.png",
        "hourglass/g.png",
        "class 1/h.png",
    )
    said = {path: texts[1] for path, texts in known(folder_of(tmp_path, *paths)).items()}
    assert said == {
        "snowyOwl/a.png": "a picture of a snowy owl",
        "014.Grey_hen/b.png": "a picture of a grey hen",
        "UNICORNS/c.png": "a picture of unicorns",
        "eagle/d.jpg": "a photo of an eagle",
        "unicorn/e.png": "a picture of a unicorn",
        "7/f.png": "a picture of 7",
        "hourglass/g.png": "a picture of an hourglass",
        "class 1/h.png": "a picture of class 1",
    }


def test_a_folder_below_the_class_is_the_subject_and_the_class_follows(tmp_path: Path) -> None:
    said = known(folder_of(tmp_path, "birds/owl/a.png", "birds/b.png", "fish/01/c.png"))
    assert said["birds/owl/a.png"] == ("an owl", "a picture of an owl", "a picture of an owl, birds")
    assert said["birds/b.png"] == ("birds", "a picture of birds")
    assert said["fish/01/c.png"] == ("a fish", "a picture of a fish")


def test_cubs_attributes_are_told_where_they_are_sure_and_to_be_seen(cub: Path) -> None:
    """certainty 2 is a guess and is not told; picture 1's crown is not visible, so nothing is said of it."""
    said = known(cub)
    bunting = said[f"CUB_200_2011/images/{CUB_IMAGES[1]}"]
    assert bunting[:2] == ("an indigo bunting", "a photo of an indigo bunting")
    assert bunting[-1] == "a photo of an indigo bunting, a small blue perching bird with a blue crown, a blue breast and a cone-shaped bill"
    hidden = " ".join(said[f"CUB_200_2011/images/{CUB_IMAGES[0]}"])
    assert "cone-shaped bill" in hidden and "crown" not in hidden and "spotted" not in hidden
    albatross = said[f"CUB_200_2011/images/{CUB_IMAGES[3]}"][-1]
    assert albatross == "a photo of a laysan albatross, a large gull-like bird with a white crown and a hooked bill"


def test_the_same_picture_gets_the_same_sentences_wherever_it_lies(cub: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(cub / "CUB_200_2011", tmp_path / "elsewhere")
    (moved / "attributes.txt").write_bytes((cub / "attributes.txt").read_bytes())
    assert list(known(moved).values()) == list(known(cub).values())


def test_own_captions_come_before_written_ones_and_data_json_tells_which(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "owl/a.png", "hen/b.png")
    pictures = open_pictures(folder, 16)
    assert captions_of(pictures).written_by == KNOWN == pictures.report["captions"]["for_text"]
    (folder / "owl/a.txt").write_text("an owl at night")
    pictures = open_pictures(folder, 16)
    assert captions_of(pictures) == Captions(((), ("an owl at night",)), OWN)
    assert pictures.report["captions"]["for_text"] == OWN


def test_without_captions_and_classes_there_is_nothing_to_learn(tmp_path: Path) -> None:
    pictures = open_pictures(folder_of(tmp_path, "a.png"), 16)
    assert pictures.report["captions"]["for_text"] == "none"
    with pytest.raises(PictureFolderError, match="neither captions nor class folders"):
        captions_of(pictures)
    with pytest.raises(PictureFolderError, match="no class folders"):
        write_captions(tmp_path, tmp_path / "new.csv")


def test_which_caption_a_sample_shows_follows_from_its_number_alone() -> None:
    """And each of a picture's captions comes as often as the others."""
    captions = Captions((("a", "b", "c"), ("d",), ()), OWN)
    samples = np.arange(3000)
    drawn = captions.drawn(0, samples % 3, samples)
    assert drawn[100:200] == captions.drawn(0, samples[100:200] % 3, samples[100:200])
    assert {drawn.count(letter) / 1000 for letter in "d"} == {1.0} and drawn[2] == ""
    assert all(abs(drawn.count(letter) / 1000 - 1 / 3) < 0.05 for letter in "abc")
    assert captions.first(np.array([2, 0, 1])) == ["", "a", "d"]
    assert drawn != captions.drawn(1, samples % 3, samples)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_the_new_table_is_read_back_as_it_was_written(suffix: str, tmp_path: Path) -> None:
    """From elsewhere by `captions`, and from the folder itself once the user puts it there; who wrote it is told."""
    names = ("owl/a, b.png", 'hen/"c".png', os.fsdecode(b"hen/\xff.png"))
    folder = folder_of(tmp_path / "pictures", *names)
    before = sorted(folder.rglob("*"))
    done = write_captions(folder, tmp_path / "made" / f"metadata{suffix}")
    assert sorted(folder.rglob("*")) == before
    assert (done.pictures, done.captions, done.without) == (3, 6, 0)
    elsewhere = open_pictures(folder, 16, captions=done.file)
    shutil.copy(done.file, folder)
    inside = open_pictures(folder, 16)
    assert elsewhere.captions == inside.captions == from_what_is_known(inside)
    assert inside.report["captions"]["written_by"] == {done.by: 3}
    assert inside.report["captions"]["problems"] == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", "owl/a.png", "hen/b.png")
    (folder / "metadata.csv").write_text("mine")
    with pytest.raises(RequestError, match="is there already"):
        write_captions(folder, folder / "metadata.csv")
    assert (folder / "metadata.csv").read_text() == "mine"
    with pytest.raises(RequestError, match=r"not as 'captions.txt'"):
        write_captions(folder, tmp_path / "captions.txt")


def test_a_captioner_sees_whole_pictures_and_its_words_are_cleaned(tmp_path: Path) -> None:
    """A wide picture is stretched over the square, without the white that filled it; bad characters do not get through."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (60, 20), (0, 0, 250)).save(folder / "wide.png")
    Image.new("RGB", (20, 60), (250, 0, 0)).save(folder / "high.png")
    seen: list[NDArray[np.uint8]] = []

    def captioner(pixels: NDArray[np.uint8]) -> list[str]:
        seen.extend(pixels)
        return ["a\nblue\0 bar " if one[0, 0, 2] > 128 else "" for one in pixels]

    done = write_captions(folder, tmp_path / "out.csv", captioner, by="a test", size=32)
    assert [one.shape for one in seen] == [(32, 32, 3)] * 2
    assert all(np.ptp(one.reshape(-1, 3), axis=0).max() == 0 for one in seen)
    assert list(csv.reader(done.file.open())) == [["file_name", "text", "written_by"], ["wide.png", "a blue bar", "a test"]]
    assert done.without == 1


def test_a_captions_file_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", "a.png")
    with pytest.raises(PictureFolderError, match="cannot read the captions"):
        open_pictures(folder, 16, captions=tmp_path / "gone.csv")
    (tmp_path / "bad.jsonl").write_text(json.dumps({"name": 1}))
    with pytest.raises(PictureFolderError, match="no rows with a file_name"):
        open_pictures(folder, 16, captions=tmp_path / "bad.jsonl")
