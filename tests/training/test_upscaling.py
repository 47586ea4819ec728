"""Training an upscaler: what it is shown, and that a run is exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bowerbird import draws
from bowerbird.data.pictures import open_pictures
from bowerbird.enlarge import Enlarger
from bowerbird.errors import RecipeError, Stopped
from bowerbird.generate import open_model
from bowerbird.model_folder import open_model_folder
from bowerbird.models.upscaler import shrunk
from bowerbird.pixels import Pixels
from bowerbird.progress import Progress
from bowerbird.recipe import Recipe, check_recipe, read_recipe
from bowerbird.request import PaintRequest
from bowerbird.run_folder import model_of_run
from bowerbird.training.objectives.upscaling import Upscaling, small, wear
from tests.conftest import tiny_recipe
from tests.training.runs import assert_same_run, run_here

CPU = torch.device("cpu")


def upscaling(**upscaler: object) -> Recipe:
    settings = {"size": "micro", "factor": 2, "crop": 12, "perceptual": 0.0} | upscaler
    return tiny_recipe(model={"network": "upscaler"}, upscaler=settings)


def test_a_run_learns_and_its_model_enlarges(picture_folder: Path, tmp_path: Path) -> None:
    run = run_here(picture_folder, tmp_path / "run", upscaling())
    painter = open_model(run, CPU)
    assert isinstance(painter, Enlarger) and painter.describe()["kind"] == "upscaler"
    (painted,) = painter.paint(PaintRequest(model=str(run), image=next(picture_folder.glob("*/*.png"))))
    assert painted.picture.size == (32, 32)


def test_it_beats_the_nearest_pixel_it_begins_as(picture_folder: Path, tmp_path: Path) -> None:
    recipe = upscaling(worn=0.0, noise=0.0)
    train = recipe.train.model_copy(update={"pictures": 1920, "save_every": 1920, "lr": 5e-3})
    longer = recipe.model_copy(update={"train": train})
    run = run_here(
        picture_folder, tmp_path / "run", longer.model_copy(update={"sample": recipe.sample.model_copy(update={"every_epochs": 99})})
    )
    objective = Upscaling(recipe, open_pictures(picture_folder, 16), CPU, "fp32")
    learnt, begun = open_model_folder(*model_of_run(run, "latest")).network, objective.new_model()
    held = objective.pictures.held
    with torch.inference_mode():
        assert objective.held_out_losses(learnt, held, 0).mean() < 0.98 * objective.held_out_losses(begun, held, 0).mean()


@pytest.mark.parametrize("adversary", [0.0, 0.5])
def test_stopped_and_resumed_equals_unbroken(picture_folder: Path, tmp_path: Path, adversary: float) -> None:
    recipe = upscaling(adversary=adversary)
    unbroken = run_here(picture_folder, tmp_path / "unbroken", recipe)

    def stop(event: Progress) -> bool:
        return not (event.stage == "train" and event.done >= 40)

    with pytest.raises(Stopped):
        run_here(picture_folder, tmp_path / "run", recipe, on_progress=stop)
    run_here(picture_folder, tmp_path / "run", recipe)
    assert_same_run(unbroken, tmp_path / "run")


def test_an_adversary_pulls_and_what_is_told_stays_the_error(picture_folder: Path) -> None:
    """Losses with and without one can be compared; the gradients differ."""
    told, gradients = list[torch.Tensor](), list[torch.Tensor]()
    for adversary in (0.0, 0.5):
        objective = Upscaling(upscaling(adversary=adversary), open_pictures(picture_folder, 16), CPU, "fp32")
        torch.manual_seed(0)
        model = objective.new_model()
        losses = objective.losses(model, objective.draw(0, 4), slice(0, 4))
        losses.sum().backward()
        told.append(losses.detach())
        last = model.layers[-1]
        assert isinstance(last, torch.nn.Conv2d) and last.weight.grad is not None
        gradients.append(last.weight.grad)
    torch.testing.assert_close(*told)
    assert not torch.allclose(gradients[0], gradients[1])


def test_a_sample_is_a_function_of_its_number(picture_folder: Path) -> None:
    """Whatever batch it comes in; and its small picture is its crop, shrunk, with noise of the level that is told."""
    objective = Upscaling(upscaling(worn=0.5), open_pictures(picture_folder, 16), CPU, "fp32")
    alone, together = objective.draw(5, 6), objective.draw(2, 8)
    assert torch.equal(alone.low[0], together.low[3]) and torch.equal(alone.x0[0], together.x0[3]) and alone.noise[0] == together.noise[3]
    clean = Upscaling(upscaling(worn=0.0), objective.pictures, CPU, "fp32").draw(0, 64)
    noise = clean.low - clean.noise.view(-1, 1, 1, 1) * clean.eps - shrunk(clean.x0, 2).clamp(-1, 1)
    off = noise.abs()  # Pillow rounds to 8 bits, between its two passes too, and clips there what overshoots
    assert off.median() < 2 / 255 and (off < 6 / 255).float().mean() > 0.97 and off.max() < 0.2
    assert 0.3 < (clean.noise == 0).float().mean() < 0.7


def test_worn_pictures_are_near_what_plain_shrinking_gives(animals: Pixels) -> None:
    """Nothing is moved: half a pixel of drift between the small picture and its crop would teach blur."""
    for number, crop in enumerate(animals[:24]):
        plain = small(crop, 16)
        assert np.array_equal(wear(crop, 16, 0.0, draws.generator(0, "wear", number)), plain)
        worn = wear(crop, 16, 1.0, draws.generator(0, "wear", number))
        drift = [np.abs(np.roll(worn, by, axis=1)[:, 1:-1].astype(float) - plain[:, 1:-1]).mean() for by in (-1, 0, 1)]
        assert worn.shape == plain.shape and drift[1] == min(drift)


def test_a_run_begins_with_another_ones_weights(picture_folder: Path, tmp_path: Path) -> None:
    first = run_here(picture_folder, tmp_path / "first", upscaling())
    recipe = upscaling()
    begun = recipe.model_copy(update={"train": recipe.train.model_copy(update={"init": str(first), "lr": 1e-12})})
    second = run_here(picture_folder, tmp_path / "second", begun)
    one, other = (open_model(run, CPU).network.state_dict() for run in (first, second))  # type: ignore[attr-defined]
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"crop": 30, "factor": 4}, "divides upscaler.crop"),
        ({"crop": 128, "factor": 4}, "larger than data.size = 64"),
        ({"crop": 16}, "32 is the least"),
    ],
)
def test_impossible_crops_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        check_recipe({"model": {"network": "upscaler"}, "upscaler": fields})


def test_the_recipe_is_possible() -> None:
    assert read_recipe("upscale-256").model.network == "upscaler"
