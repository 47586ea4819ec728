"""A LoRA whose matrices stand beside the text encoders too."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from bowerbird.data.pictures import open_pictures
from bowerbird.errors import RunError, Stopped
from bowerbird.generate import open_model
from bowerbird.model_folder import LORA, About
from bowerbird.pretrained import open_pretrained
from bowerbird.pretrained.words import Words, encode
from bowerbird.recipe import Recipe
from bowerbird.request import Lora, PaintRequest
from bowerbird.run_folder import model_of_run
from bowerbird.training import train
from bowerbird.training.objectives import choose_objective
from bowerbird.training.objectives.adapting import Adapting
from bowerbird.weights import load
from tests.pretrained.test_lora_training import FAMILIES, plan
from tests.training.runs import CPU, assert_same_run, run_here

NAMES = {"sd15": ("lora_te_text_model_",), "sd21": ("lora_te_text_model_",), "sdxl": ("lora_te1_text_model_", "lora_te2_text_model_")}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def both(base: Path, *settings: str) -> Recipe:
    return plan(base, "lora.text_encoders=true", "lora.trigger=sks", *settings)


def objective_of(base: Path, pictures: Path, *settings: str) -> Adapting:
    objective = choose_objective(both(base, *settings), open_pictures(pictures, 64), CPU, "fp32")
    assert isinstance(objective, Adapting)
    return objective


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_diffusers_reads_words_and_paints_as_what_learnt(tiny: Any, picture_folder: Path, tmp_path: Path, family: str) -> None:
    """The file through `load_lora_weights`: the pipeline's own encoding of the prompt, then its U-Net; one prediction."""
    import diffusers

    objective = objective_of(tiny(family).folder, picture_folder, "lora.targets=transformer", "lora.alpha=2")
    model = objective.new_model()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    (tmp_path / "mine.safetensors").write_bytes(objective.model(model, About()).lora or b"")
    names = load(tmp_path / "mine.safetensors")
    assert all(any(name.startswith(prefix) for name in names) for prefix in NAMES[family])
    assert all(name.startswith(("lora_unet_", *NAMES[family])) for name in names)

    cls = diffusers.StableDiffusionXLPipeline if family == "sdxl" else diffusers.StableDiffusionPipeline
    less = {} if family == "sdxl" else {"safety_checker": None, "feature_extractor": None}
    pipeline = cls.from_pretrained(tiny(family).folder, local_files_only=True, **less)
    x, time = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([300.0])

    @torch.no_grad()
    def theirs() -> torch.Tensor:
        found = pipeline.encode_prompt("sks", device=CPU, num_images_per_prompt=1, do_classifier_free_guidance=False)
        more = {"text_embeds": found[2], "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])} if family == "sdxl" else None
        answer: torch.Tensor = pipeline.unet(x, time, found[0], added_cond_kwargs=more, return_dict=False)[0]
        return answer

    before = theirs()
    pipeline.load_lora_weights(tmp_path, weight_name="mine.safetensors")
    with torch.no_grad():
        ours = model.network(x, time, objective.words(["sks"]))
    assert (theirs() - before).abs().max() > 1e-2
    torch.testing.assert_close(theirs(), ours, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_begins_as_the_base_reads_and_nothing_but_the_matrices_moves(tiny: Any, picture_folder: Path, family: str) -> None:
    objective = objective_of(tiny(family).folder, picture_folder, "condition.text_drop=0.5")
    before = [{name: tensor.clone() for name, tensor in encoder.state_dict().items()} for encoder in objective.encoders.values()]
    cached = choose_objective(plan(tiny(family).folder, "lora.trigger=sks"), objective.pictures, CPU, "fp32")
    assert isinstance(cached, Adapting)
    prompts = ["sks", "", "sks"]
    x, time = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([500.0, 20.0, 900.0])
    with torch.no_grad():
        torch.testing.assert_close(encode(objective.encoders, objective.words(prompts)), cached.words(prompts), atol=1e-5, rtol=1e-4)
        model = objective.new_model()
        theirs = cached.new_model().network(x, time, cached.words(prompts))
        torch.testing.assert_close(model.network(x, time, objective.words(prompts)), theirs, atol=1e-5, rtol=1e-4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):  # at the first step only the zeros have a gradient
        objective.losses(model, objective.draw(0, 8), slice(None)).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert any("text_encoder" in name for name, _ in model.named_parameters())
        optimizer.step()
    for encoder, saved in zip(objective.encoders.values(), before, strict=True):
        after = {name.replace(".base_layer", ""): tensor for name, tensor in encoder.state_dict().items()}
        assert all(torch.equal(tensor, after[name]) for name, tensor in saved.items())


def test_stopped_and_resumed_equals_unbroken_and_the_run_paints_as_its_base_with_the_file(
    tiny: Any, picture_folder: Path, tmp_path: Path
) -> None:
    recipe = both(tiny("sdxl").folder)
    whole = run_here(picture_folder, tmp_path / "whole", recipe)
    with pytest.raises(Stopped):
        run_here(picture_folder, tmp_path / "run", recipe, on_progress=lambda event: not (event.stage == "train" and event.done >= 16))
    assert_same_run(whole, run_here(picture_folder, tmp_path / "run", recipe))

    request = PaintRequest(model="x", prompt="sks", seed=4, steps=2, size=(64, 64))
    file = model_of_run(whole, "latest")[0] / LORA
    assert any(name.startswith("lora_te2_") and "lora_up" in name and bool(tensor.any()) for name, tensor in load(file).items())
    (own,) = open_model(f"{whole}@latest", CPU).paint(request)
    (with_file,) = open_pretrained(tiny("sdxl").folder, CPU).paint(request.model_copy(update={"loras": [Lora(file=file)]}))
    assert own.picture.tobytes() == with_file.picture.tobytes()


@pytest.mark.parametrize("learns", ["true", "false"])
def test_the_same_name_with_another_text_encoder_is_another_base(tiny: Any, picture_folder: Path, tmp_path: Path, learns: str) -> None:
    base = Path(shutil.copytree(tiny("sd15").folder, tmp_path / "base"))
    recipe = both(base, f"lora.text_encoders={learns}", "train.pictures=8")
    out = run_here(picture_folder, tmp_path / "run", recipe)
    (file,) = (base / "text_encoder").glob("*.safetensors")
    tensors = safetensors.torch.load_file(file)
    name = next(name for name in tensors if name.endswith("final_layer_norm.bias"))
    tensors[name] += 1
    safetensors.torch.save_file(tensors, file)
    with pytest.raises(RunError, match="the model it tunes, have changed since it was started"):
        train(picture_folder, out, recipe, device=CPU)


def test_a_prompt_reads_the_same_alone_and_among_many(tiny: Any) -> None:
    parts = tiny("sdxl").painter.parts
    prompts = [f"picture {number}" for number in range(20)]
    many = Words(parts, prompts, CPU)
    alone = Words(parts, [prompts[17]], CPU)
    torch.testing.assert_close(many([prompts[17], ""]), alone([prompts[17], ""]), atol=1e-5, rtol=1e-4)
    assert not np.any(many([""])["text"].numpy())
