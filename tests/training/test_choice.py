"""Without --recipe: captions, else classes, else neither; the device and the number of pictures choose the size; said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from bowerbird.data.pictures import Survey, survey
from bowerbird.recipe import built_in_recipes, read_recipe
from bowerbird.training.choice import choose
from tests.data.small_cub import small_cub

KNOWN = ["latent-64", "pixel-64", "text-64"]


@pytest.mark.parametrize(
    ("found", "device", "recipe", "settings", "why", "runner_up"),
    [
        (Survey(500, 400, 0), "cpu", "text-64", (), "400 of 500 pictures have captions", "unconditional"),
        (Survey(500, 400, 5), "cpu", "text-64", (), "400 of 500", "condition.label=true"),
        (Survey(500, 200, 5), "cpu", "latent-64", ("condition.label=true",), "5 classes of 100 pictures", "unconditional"),
        (Survey(500, 0, 1), "cpu", "latent-64", (), "neither captions nor classes", "pixel-64"),
        (Survey(500, 0, 400), "cpu", "latent-64", (), "too few pictures of each: 500 of 400", "pixel-64"),
        (Survey(0, 0, 0), "cpu", "latent-64", (), "neither captions nor classes", "pixel-64"),
        (Survey(500, 0, 5), "cuda", "latent-64", ("condition.label=true",), "need no larger network", "unconditional"),
        (Survey(50_000, 0, 0), "cuda", "latent-64", ("transformer.size=small", "train.init="), "a GPU carry a larger", "pixel-64"),
        (Survey(50_000, 0, 0), "cpu", "latent-64", (), "a CPU has time for the small network", "pixel-64"),
    ],
)
def test_the_rule(found: Survey, device: str, recipe: str, settings: tuple[str, ...], why: str, runner_up: str) -> None:
    choice = choose(found, device, KNOWN)
    assert (choice.recipe, choice.settings) == (recipe, settings)
    assert why in choice.why and runner_up in choice.runner_up
    line = choice.line()
    assert "\n" not in line and line.startswith(f"recipe {recipe}") and line.endswith(".")


@pytest.mark.parametrize("found", [Survey(500, 500, 5), Survey(500, 0, 5), Survey(50_000, 0, 0), Survey(3, 0, 0)])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_chosen_is_a_recipe_that_can_be_read(found: Survey, device: str) -> None:
    choice = choose(found, device, built_in_recipes())
    read_recipe(choice.recipe, choice.settings)


def test_a_survey_counts_without_decoding(tmp_path: Path) -> None:
    """From the listing and the lists: here CUB's captions and classes; a broken picture still counts, a text does not."""
    assert survey(small_cub(tmp_path / "cub")) == Survey(6, 6, 2)
    plain = tmp_path / "plain"
    for number in range(3):
        path = plain / ("owl" if number else "hen") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 0, 0)).save(path)
    (plain / "hen/broken.jpg").write_bytes(b"no picture")
    (plain / "notes.md").write_text("words")
    (tmp_path / "captions.csv").write_text("file_name,text\nowl/1.png,an owl\n")
    assert survey(plain) == Survey(4, 0, 2)
    assert survey(plain, tmp_path / "captions.csv") == Survey(4, 1, 2)
