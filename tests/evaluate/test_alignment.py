"""Whether pictures show what was asked for: real ones do, and by others' captions they do so by chance."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bowerbird import weights
from bowerbird.data import open_pictures
from bowerbird.evaluate import alignment, evaluate
from bowerbird.evaluate.alignment import ranks, retrieval
from bowerbird.evaluate.judge import PictureSet, paint_like
from bowerbird.models.features import Features, extract
from bowerbird.picture_files import Painted
from bowerbird.pixels import Pixels
from bowerbird.progress import OnProgress
from bowerbird.request import PaintRequest
from tests.conftest import EXAMPLES

BIRDS = EXAMPLES / "birds"


@pytest.fixture(scope="module")
def birds() -> tuple[list[str], Pixels, Features]:
    """Captions, pixels and features of 164 drawings."""
    pictures = open_pictures(BIRDS, 64, held_out=0.0)
    return [said[0] for said in pictures.captions], pictures.pixels, extract(pictures.pixels)


def test_pictures_find_their_captions_and_not_others(birds: tuple[list[str], Pixels, Features]) -> None:
    """All are birds, so the captions differ in little; yet by far more than chance are found, and shuffled ones by chance alone.

    Chance is the mean over all pairings, 10 / 160 for the ten best; three standard deviations of 164 trials around it.
    """
    captions, _, shown = birds
    different, chance = len(set(captions)), 10 / len(set(captions))
    found = ranks(captions, shown, captions)
    assert found.max() < different
    assert (found < 10).mean() > 5 * chance
    shuffled = [captions[row] for row in np.random.default_rng(0).permutation(len(captions))]
    lost = ranks(shuffled, shown, captions)
    assert (lost < 10).mean() == pytest.approx(chance, abs=3 * np.sqrt(chance / len(captions)))


def test_what_is_found_depends_on_the_captions_alone(birds: tuple[list[str], Pixels, Features]) -> None:
    """Not on their order, nor on how often each is there; more to choose from makes nothing easier."""
    captions, _, shown = birds[0][:40], birds[1], birds[2][:40]
    found = ranks(captions, shown, captions)
    assert np.array_equal(ranks(captions, shown, captions[::-1] * 2), found)
    more = ranks(captions, shown, [*captions, *birds[0][40:], ""])
    assert (more >= found).all() and more.sum() > found.sum()


def test_equal_captions_are_one(birds: tuple[list[str], Pixels, Features]) -> None:
    shown = birds[2][:5]
    assert not ranks(["a bird"] * 5, shown, ["a bird"] * 9).any()


def test_shares_have_margins(birds: tuple[list[str], Pixels, Features]) -> None:
    """Few pictures say little, even where all or none of them are right; for more the margin falls as their root."""
    captions, _, shown = birds
    (all_right,) = retrieval((captions, shown), (captions, shown), [len(captions)])
    assert all_right.value == all_right.floor == 1 and 0 < all_right.margin < 0.05
    (few,), (many,) = (retrieval((captions[:n], shown[:n]), (captions, shown), [5]) for n in (41, 164))
    assert few.margin / many.margin == pytest.approx(2, rel=0.35)


def test_the_file_is_small_and_says_what_it_is() -> None:
    assert alignment.WEIGHTS.stat().st_size <= 1_000_000
    about = json.loads(weights.read_header(alignment.WEIGHTS).metadata["about"])
    assert about["trained_on"] and about["licence"] == "Apache-2.0"


class Reader:
    """A painter that reads text, and has a picture for each caption."""

    def __init__(self, pictures: dict[str, Image.Image]) -> None:
        self.pictures = pictures
        self.asked: list[PaintRequest] = []

    def describe(self) -> dict[str, Any]:
        return {"conditions": {"text": {}}}

    def resolve(self, request: PaintRequest) -> PaintRequest:
        return request

    def paint(self, request: PaintRequest, on_progress: OnProgress | None = None) -> Iterator[Painted]:
        self.asked.append(request)
        yield Painted(self.pictures.get(request.prompt, Image.new("RGB", (64, 64))), request.seed or 0, request)


def test_a_painter_that_reads_is_asked_for_the_captions_of_the_real_pictures() -> None:
    """All of them in turn, or evenly chosen, each picture with its own seed and the label of the one its caption is of."""
    captions = tuple(f"[[red|blue]] bird ({n}:1.2)" for n in range(30))
    real = PictureSet("real", np.zeros((31, 8, 8, 3), np.uint8), tuple(f"{n // 10}" for n in range(31)), (*captions, ""))
    for count, rows in ((10, range(0, 30, 3)), (45, [*range(30), *range(15)])):
        reader = Reader({})
        painted = paint_like(reader, real, count, seed=7)
        assert [one.prompt for one in reader.asked] == [captions[row] for row in rows]
        assert [one.seed for one in reader.asked] == list(range(7, 7 + count))
        assert painted.labels == tuple(f"{row // 10}" for row in rows)
        assert painted.captions == tuple(captions[row] for row in rows)
        assert "arrays" in reader.asked[0].literal  # a caption is no prompt language: each is one picture


@pytest.fixture(scope="module")
def some_birds(birds: tuple[list[str], Pixels, Features], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 of them, with their captions."""
    folder = tmp_path_factory.mktemp("birds")
    for number in range(60):
        Image.fromarray(birds[1][number]).save(folder / f"{number:02d}.png")
    rows = "".join(f'{number:02d}.png,"{birds[0][number]}"\n' for number in range(60))
    (folder / "metadata.csv").write_text("file_name,text\n" + rows)
    return folder


def test_the_report_tells_whether_words_are_followed(birds: tuple[list[str], Pixels, Features], some_birds: Path) -> None:
    """Painted right, pictures reach what real ones do; painted each by another's caption, they fall to chance, and the style goes too."""
    captions, pictures = birds[0][:60], [Image.fromarray(each) for each in birds[1][:60]]
    assert len(set(captions)) == 60
    right, wrong = (evaluate(Reader(dict(zip(captions, each, strict=True))), some_birds, count=60) for each in (pictures, pictures[::-1]))
    for best in (1, 5, 10):
        score = right.score(f"caption_top_{best}")
        assert score.value == score.floor
    assert wrong.score("caption_top_10").value < 0.5 * wrong.score("caption_top_10").floor
    assert wrong.score("style_shown").value < right.score("style_shown").value - 0.2
    assert any("find their caption" in said for said in wrong.verdict())


def test_a_set_with_captions_is_asked_too(some_birds: Path, tmp_path: Path) -> None:
    """A folder as `generate --prompts` leaves it; without captions, nothing is said of words."""
    for file in some_birds.glob("*.png"):
        shutil.copy(file, tmp_path)
    plain = evaluate(tmp_path, some_birds)
    assert not any(line.key.startswith(("caption", "style")) for line in plain.lines)
    shutil.copy(some_birds / "metadata.csv", tmp_path)
    score = evaluate(tmp_path, some_birds).score("caption_top_10")
    assert score.value == score.floor > 0.3
