"""The x4 upscaler of Stable Diffusion, tuned: told the small picture as its pipeline tells it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from bowerbird.data.pictures import open_pictures
from bowerbird.errors import RecipeError, Stopped
from bowerbird.generate import open_model
from bowerbird.model_folder import LORA, About
from bowerbird.pixels import to_x0
from bowerbird.pretrained import open_pretrained
from bowerbird.pretrained.plan import UPSCALE_NOISE_LEVEL
from bowerbird.recipe import Recipe
from bowerbird.request import Lora, PaintRequest
from bowerbird.run_folder import model_of_run
from bowerbird.training.objectives import choose_objective
from bowerbird.training.objectives.enlarging import MAX_NOISE_LEVEL, Enlarging
from tests.pretrained.test_lora_training import plan
from tests.training.runs import CPU, assert_same_run, run_here


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures without words, three wide and three square."""
    folder = tmp_path_factory.mktemp("large")
    for number in range(6):
        picture = Image.new("RGB", (384, 128) if number % 2 else (128, 128), (40 * number, 90, 200))
        ImageDraw.Draw(picture).ellipse((10, 20, 60, 70), fill="white")
        picture.save(folder / f"{number}.png")
    return folder


def of_x4(tiny: Any, *settings: str) -> Recipe:
    return plan(tiny("x4").folder, "data.size=128", "train.pictures=16", *settings)


def objective_of(tiny: Any, folder: Path, *settings: str) -> Enlarging:
    objective = choose_objective(of_x4(tiny, *settings), open_pictures(folder, 128, "shape"), CPU, "fp32")
    assert isinstance(objective, Enlarging)
    return objective


def pipeline_of(tiny: Any) -> Any:
    import diffusers

    return diffusers.StableDiffusionUpscalePipeline.from_pretrained(tiny("x4").folder, local_files_only=True)


def test_the_small_picture_is_noised_as_the_pipeline_noises_it(tiny: Any, folder: Path) -> None:
    """By its low_res_scheduler, to a level that it is told; each sample by its number, mirrored with its latents."""
    objective, scheduler = objective_of(tiny, folder, "data.flip=true"), pipeline_of(tiny).low_res_scheduler
    levels = set()
    for start in range(0, 32, 4):
        batch = objective.draw(start, start + 4)
        small, level = batch.cond["small"], batch.cond["level"]
        assert small.shape[2:] == batch.x0.shape[2:] and small.shape[1] == 3
        plain = to_x0(np.stack([objective.small.pixels[picture] for picture in batch.pictures.tolist()]))
        mirrored = objective.latents.mirrored(batch.pictures, np.arange(start, start + 4))
        plain = torch.where(torch.from_numpy(mirrored).view(-1, 1, 1, 1), plain.flip(-1), plain)
        nothing, eps = (scheduler.add_noise(one, two, level) for one, two in ((plain, 0 * plain), (0 * plain, torch.ones_like(plain))))
        assert ((small - nothing) / eps).std() == pytest.approx(1, abs=0.15)  # standard normal, whatever the level
        assert torch.equal(objective.draw(start + 1, start + 3).cond["small"], small[1:3])
        levels |= set(level.tolist())
    assert len(levels) > 8 and min(levels) >= 0 and max(levels) < MAX_NOISE_LEVEL
    held = objective._cond(np.array([0, 2]), np.array([0, 1]), drop=False)
    assert held["level"].tolist() == [UPSCALE_NOISE_LEVEL] * 2


def test_plain_diffusers_enlarges_the_same_with_it(tiny: Any, folder: Path, tmp_path: Path) -> None:
    objective = objective_of(tiny, folder)
    model = objective.new_model()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    (tmp_path / "mine.safetensors").write_bytes(objective.model(model, About()).lora or b"")
    pipeline, batch = pipeline_of(tiny), objective.draw(0, 2)
    time = torch.tensor([300.0, 20.0])

    @torch.no_grad()
    def theirs() -> torch.Tensor:
        seen = torch.cat([batch.x0, batch.cond["small"]], 1)
        answer: torch.Tensor = pipeline.unet(seen, time, batch.cond["text"], class_labels=batch.cond["level"], return_dict=False)[0]
        return answer

    before = theirs()
    pipeline.load_lora_weights(tmp_path, weight_name="mine.safetensors")
    with torch.no_grad():
        ours = model.network(batch.x0, time, batch.cond)
    assert (theirs() - before).abs().max() > 1e-2
    torch.testing.assert_close(theirs(), ours, atol=2e-4, rtol=1e-3)


def test_stopped_and_resumed_equals_unbroken_and_the_run_enlarges(tiny: Any, folder: Path, tmp_path: Path) -> None:
    recipe = of_x4(tiny)
    whole = run_here(folder, tmp_path / "whole", recipe)
    with pytest.raises(Stopped):
        run_here(folder, tmp_path / "run", recipe, on_progress=lambda event: not (event.stage == "train" and event.done >= 8))
    assert_same_run(whole, run_here(folder, tmp_path / "run", recipe))
    request = PaintRequest(model="x", prompt="", image=folder / "0.png", seed=4, steps=2)
    (own,) = open_model(f"{whole}@latest", CPU).paint(request)
    base = open_pretrained(tiny("x4").folder, CPU)
    (without,) = base.paint(request)
    (with_file,) = base.paint(request.model_copy(update={"loras": [Lora(file=model_of_run(whole, "latest")[0] / LORA)]}))
    assert own.picture.size == (512, 512)
    assert own.picture.tobytes() == with_file.picture.tobytes() != without.picture.tobytes()


def test_all_of_its_unet_may_learn_and_diffusers_opens_it(tiny: Any, folder: Path, tmp_path: Path) -> None:
    import diffusers

    run = run_here(folder, tmp_path / "run", of_x4(tiny, "lora.targets=unet", "train.pictures=4"))
    opened = diffusers.StableDiffusionUpscalePipeline.from_pretrained(model_of_run(run, "latest")[0], local_files_only=True)
    before, after = tiny("x4").networks["unet"].state_dict(), opened.unet.state_dict()
    assert before.keys() == after.keys() and not torch.equal(before["conv_in.weight"], after["conv_in.weight"])


def test_a_prior_is_for_what_paints(tiny: Any, folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"lora.prior keeps what a model paints"):
        objective_of(tiny, folder, f"lora.prior={folder}")
