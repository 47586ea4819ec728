"""All weights of a Stable Diffusion U-Net tuned: a model of its own results, which diffusers opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bowerbird import hardware
from bowerbird.errors import RecipeError, ResourceError, Stopped
from bowerbird.generate import describe_model, open_model
from bowerbird.locate import locate
from bowerbird.pretrained.unets import predict
from bowerbird.recipe import Recipe
from bowerbird.request import PaintRequest
from bowerbird.run_folder import model_of_run
from bowerbird.training import Budget, forecast
from bowerbird.training.base import WHOLE_UNET_LR, tuning_recipe
from bowerbird.training.objectives import choose_objective
from bowerbird.training.objectives.adapting import Adapting
from tests.pretrained.test_lora_training import objective_of, plan
from tests.training.runs import CPU, Notes, assert_same_run, run_here


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def whole(base: Path, *settings: str) -> Recipe:
    return plan(base, "lora.targets=unet", "lora.trigger=sks", "train.lr=1e-3", "train.pictures=16", *settings)


@pytest.fixture(scope="module")
def run(tiny: Any, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_here(picture_folder, tmp_path_factory.mktemp("whole") / "run", whole(tiny("sdxl").file))


def test_plain_diffusers_opens_what_was_tuned_and_only_the_unet_is_another(run: Path, tiny: Any) -> None:
    """From a single file: its folder is a whole pipeline, exactly the base but for the U-Net, whose every weight moved."""
    import diffusers

    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(model_of_run(run, "latest")[0], local_files_only=True)
    assert type(pipeline.scheduler).__name__ == tiny("sdxl").painter.parts.schedulers["scheduler"]["_class_name"]
    for part, before in tiny("sdxl").networks.items():
        after, old = getattr(pipeline, part).state_dict(), before.state_dict()
        changed = [name for name, tensor in old.items() if not torch.equal(tensor, after[name])]
        assert len(changed) == (len(old) if part == "unet" else 0), part

    request = PaintRequest(model="x", prompt="sks", seed=4, steps=2, size=(64, 64))
    (own,) = open_model(f"{run}@latest", CPU).paint(request)
    (folder,) = open_model(model_of_run(run, "latest")[0], CPU).paint(request)
    (base,) = open_model(tiny("sdxl").file, CPU).paint(request)
    assert own.picture.tobytes() == folder.picture.tobytes() != base.picture.tobytes()
    assert describe_model(run)["model"] == str(run)


def test_what_learns_predicts_as_diffusers_does(tiny: Any, picture_folder: Path) -> None:
    objective = objective_of(tiny("sd15").folder, picture_folder, "lora.targets=unet")
    model = objective.new_model()
    x, time = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([500.0, 20.0])
    cond = objective.words(["", ""])
    with torch.no_grad():
        assert torch.equal(model.network(x, time, cond), predict(tiny("sd15").networks["unet"], x, time, cond))
    objective.losses(model, objective.draw(0, 4), slice(None)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_stopped_and_resumed_equals_unbroken(tiny: Any, picture_folder: Path, tmp_path: Path) -> None:
    recipe = whole(tiny("sd15").folder, "lora.recompute=true")
    unbroken = run_here(picture_folder, tmp_path / "whole", recipe)
    with pytest.raises(Stopped):
        run_here(picture_folder, tmp_path / "run", recipe, on_progress=lambda event: not (event.stage == "train" and event.done >= 8))
    assert_same_run(unbroken, run_here(picture_folder, tmp_path / "run", recipe))


def test_a_tuned_model_is_a_base_like_any_other(run: Path, picture_folder: Path) -> None:
    recipe = tuning_recipe(locate(run), ["data.size=64", "lora.trigger=sks"])
    assert recipe.model.network == "lora" and recipe.tune.model == str(run) and recipe.lora.targets == "attention"
    assert tuning_recipe(locate(run), ["lora.targets=unet"]).train.lr == WHOLE_UNET_LR < recipe.train.lr
    assert isinstance(choose_objective(recipe, objective_of(run, picture_folder).pictures, CPU, "fp32"), Adapting)


def test_memory_is_told_before_anything_is_read(tiny: Any, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, average, gradient and two moments in float32: 20 bytes a weight; refused where they do not fit."""
    count = sum(p.numel() for p in tiny("sd15").networks["unet"].parameters())
    for base in (tiny("sd15").folder, tiny("sd15").file):
        notes = Notes()
        with monkeypatch.context() as patch:
            patch.setattr(hardware, "available_memory_bytes", lambda device: 20 * count)
            objective_of(base, picture_folder, "lora.targets=unet", on_progress=notes)
            assert any(f"all {count / 1e6:,.0f} M weights of the U-Net learn" in each for each in notes)
            patch.setattr(hardware, "available_memory_bytes", lambda device: 20 * count - 1)
            with pytest.raises(ResourceError, match=r"and only 0.0 GB are free. Make a LoRA instead: leave lora.targets out"):
                forecast(picture_folder, whole(base), Budget(), device=CPU)


def test_a_lora_of_the_encoders_does_not_go_with_a_whole_unet(tiny: Any) -> None:
    with pytest.raises(RecipeError, match=r"lora.text_encoders adds to a LoRA"):
        whole(tiny("sd15").folder, "lora.text_encoders=true")
