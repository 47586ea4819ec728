"""A LoRA learnt from pictures that keep their shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from bowerbird.data.pictures import open_pictures
from bowerbird.data.previews import decode_shaped
from bowerbird.errors import RecipeError, Stopped
from bowerbird.model_folder import LORA
from bowerbird.pixels import to_x0
from bowerbird.recipe import Recipe, read_recipe
from bowerbird.run_folder import model_of_run
from bowerbird.training import Budget, forecast
from bowerbird.training.objectives import choose_objective
from bowerbird.training.objectives.adapting import Adapting, PairedBatch
from bowerbird.training.objectives.denoising import Denoising
from bowerbird.weights import read_header
from tests.pretrained.test_lora_training import plan
from tests.training.runs import CPU, assert_same_run, run_here

SIDE = "data.size=128"
KINDS = {"wide": (256, 128), "tall": (70, 210), "square": (90, 96)}  # learnt at 192x64, 64x192, 128x128
TOLD = {"wide": [128, 256, 16, 0, 64, 192], "tall": [210, 70, 0, 0, 192, 64], "square": [96, 90, 4, 0, 128, 128]}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures, three of each kind; each is another colour with a disc left of the middle."""
    folder = tmp_path_factory.mktemp("shapes")
    for number, (kind, size) in enumerate(list(KINDS.items()) * 3):
        picture = Image.new("RGB", size, (20 * number, 90, 255 - 20 * number))
        ImageDraw.Draw(picture).ellipse((10, 20, 50, 60), fill="white")
        picture.save(folder / f"{number}-{kind}.png")
    return folder


def shaped(base: Path, *settings: str) -> Recipe:
    return plan(base, SIDE, "lora.trigger=sks", *settings)


def objective_of(base: Path, folder: Path, *settings: str) -> Adapting:
    recipe = shaped(base, *settings)
    objective = choose_objective(recipe, open_pictures(folder, 128, recipe.data.fit), CPU, "fp32")
    assert isinstance(objective, Adapting)
    return objective


def kind_of(name: str) -> str:
    return name.partition("-")[2].removesuffix(".png")


def test_latents_are_those_of_the_picture_in_its_shape(tiny: Any, folder: Path) -> None:
    objective = objective_of(tiny("sd15").folder, folder)
    pictures, encode = objective.pictures, objective.space.autoencoder.encode
    assert objective.samples.shape == (4, 16, 16)
    for picture, name in enumerate(pictures.names):
        x0 = to_x0(decode_shaped(pictures, [picture], 128))
        assert x0.shape[2:] == torch.Size(TOLD[kind_of(name)][4:])
        mean = encode(x0)[0] / objective.space.std.cpu()
        torch.testing.assert_close(objective.samples.plain(np.array([picture])), mean, rtol=2e-3, atol=2e-3)  # kept in half precision


def test_a_batch_is_of_one_shape_and_every_row_is_told_its_own(tiny: Any, folder: Path) -> None:
    """XL's size and crop, of pictures that were scaled by 0.75, 0.92 and 1.42 to cover their shapes."""
    objective = objective_of(tiny("sdxl").folder, folder, "condition.text_drop=0.5")
    model, kinds = objective.new_model(), set()
    for start in range(0, 36, 4):
        batch = objective.draw(start, start + 4)
        (kind,) = {kind_of(objective.pictures.names[picture]) for picture in batch.pictures}
        assert batch.cond["sizes"].tolist() == [TOLD[kind]] * 4
        assert batch.x0.shape[2:] == torch.Size([side // 8 for side in TOLD[kind][4:]])
        assert torch.isfinite(objective.losses(model, batch, slice(1, 3))).all()
        kinds.add(kind)
    assert kinds == set(KINDS)


def test_what_is_told_of_squares_is_true_as_well(tiny: Any, folder: Path) -> None:
    for fit, told in (("crop", [128, 256, 0, 64, 128, 128]), ("pad", [128, 256, 0, 0, 128, 128])):
        objective = objective_of(tiny("sdxl").folder, folder, f"data.fit={fit}")
        wide = np.array([objective.pictures.names.index("0-wide.png")])
        assert objective._cond(wide, wide, drop=False)["sizes"].tolist() == [told]


def test_held_out_pictures_are_scored_in_their_shapes_whoever_is_beside_them(tiny: Any, folder: Path) -> None:
    objective = objective_of(tiny("sd15").folder, folder, "train.micro_batch=2")
    model = objective.new_model()
    together = objective.held_out_losses(model, np.arange(9), 5)
    apart = torch.cat([objective.held_out_losses(model, np.array([picture]), 5 + picture) for picture in range(9)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_stopped_and_resumed_equals_unbroken(tiny: Any, folder: Path, tmp_path: Path) -> None:
    """And what is said of the shapes in the file is what kohya's tools read."""
    recipe = shaped(tiny("sdxl").folder, "data.flip=true")
    whole = run_here(folder, tmp_path / "whole", recipe)
    with pytest.raises(Stopped):
        run_here(folder, tmp_path / "run", recipe, on_progress=lambda event: not (event.stage == "train" and event.done >= 12))
    assert_same_run(whole, run_here(folder, tmp_path / "run", recipe))
    told = read_header(model_of_run(whole)[0] / LORA).metadata
    buckets = json.loads(told["ss_bucket_info"])["buckets"].values()
    assert told["ss_enable_bucket"] == "True"
    assert sorted((each["resolution"], each["count"]) for each in buckets) == [([64, 192], 3), ([128, 128], 3), ([192, 64], 3)]


def test_a_prior_of_other_shapes_is_learnt_beside(tiny: Any, folder: Path, picture_folder: Path) -> None:
    settings = (f"lora.prior={picture_folder / 'cold'}", "lora.prior_caption=a disc", "lora.prior_weight=0.5")
    objective = objective_of(tiny("sd15").folder, folder, *settings)
    model = objective.new_model()
    batches = [objective.draw(start, start + 4) for start in range(0, 36, 4)]
    assert any(isinstance(batch, PairedBatch) and batch.prior.x0.shape != batch.x0.shape for batch in batches)
    for batch in batches[:3]:
        assert isinstance(batch, PairedBatch)
        own, prior = (Denoising.losses(objective, model, part, slice(1, 3)) for part in (batch, batch.prior))
        assert torch.equal(objective.losses(model, batch, slice(1, 3)), own + 0.5 * prior)


def test_the_forecast_counts_what_is_encoded_already(tiny: Any, folder: Path) -> None:
    objective = objective_of(tiny("sd15").folder, folder)
    assert objective.preparation_seconds(objective.pictures) == 0
    plan_of_run = forecast(folder, shaped(tiny("sd15").folder), Budget(), device=CPU)
    assert plan_of_run.pictures == 32


def test_shapes_are_for_stable_diffusion() -> None:
    with pytest.raises(RecipeError, match=r"data.fit = 'shape' is for"):
        read_recipe("pixel-64", ["data.fit=shape"])
