"""The adversary of an autoencoder: its say is what the recipe gives it, its lessons are its own, and nothing of it is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bowerbird.data.pictures import open_pictures
from bowerbird.errors import Stopped
from bowerbird.generate import open_autoencoder
from bowerbird.recipe import Recipe
from bowerbird.training.adversary import Adversary, lengths
from bowerbird.training.objectives.autoencoding import Autoencoding
from bowerbird.training.optimizer import load_optimizer_tensors, make_optimizers, optimizer_tensors
from bowerbird.training.record import Record
from tests.conftest import tiny_recipe
from tests.training.runs import CPU, assert_same_run, final_tensors, run_here


def recipe_with(adversary: float = 0.5, noise: float = 0.2, precision: str = "fp32", **train: object) -> Recipe:
    return tiny_recipe(
        model={"network": "autoencoder"},
        autoencoder={"size": "micro", "channels": 4, "perceptual": 0.0, "adversary": adversary, "noise": noise},
        train={"precision": precision, **train},
    )


def objective_with(pictures: Path, **changes: Any) -> Autoencoding:
    return Autoencoding(recipe_with(**changes), open_pictures(pictures, 16, "crop", 0.1, 0), CPU, "fp32")


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("loudness", [1e-3, 1.0, 1e3])
def test_its_say_is_its_share_however_loud_it_is(loudness: float) -> None:
    """What it adds is as long, for every picture, as its share of what was there: a louder critic or a fainter error change nothing."""
    adversary = Adversary(0.5, 0, CPU, "fp32")
    with torch.no_grad():
        for parameter in adversary.critic.layers[-1].parameters():
            parameter.mul_(loudness)
    restored = torch.rand(3, 3, 16, 16) * 2 - 1
    gradient = torch.randn(3, 3, 16, 16) * torch.tensor([1e-4, 1.0, 1e4]).view(3, 1, 1, 1)
    added = adversary.pushed(restored, gradient) - gradient
    torch.testing.assert_close(lengths(added), 0.5 * lengths(gradient), rtol=1e-3, atol=0)


def test_what_it_pushes_looks_truer_to_it() -> None:
    """Against the gradient is the way the weights go."""
    adversary = Adversary(1.0, 0, CPU, "fp32")
    restored, nothing = torch.rand(2, 3, 16, 16) * 2 - 1, torch.full((2, 3, 16, 16), 1e-3)
    step = nothing - adversary.pushed(restored, nothing)
    with torch.no_grad():
        assert (adversary.critic(restored + step).mean((1, 2, 3)) > adversary.critic(restored).mean((1, 2, 3))).all()


def test_its_lessons_are_its_own(picture_folder: Path) -> None:
    """The critic's gradient is that of its hinge loss alone; the network's is what it would be if the critic learnt nothing."""
    objective = objective_with(picture_folder)
    adversary, model, batch = objective.adversary, objective.new_model(), objective.draw(0, 4)
    assert adversary is not None
    objective.losses(model, batch, slice(0, 4)).sum().backward()
    of_critic, of_model = gradients(adversary.critic), gradients(model)
    adversary.critic.zero_grad()
    model.zero_grad()

    restored = model(batch.x0, batch.eps, batch.noise)[0]
    adversary.lesson(batch.x0, restored).sum().backward()
    assert not gradients(model)
    for name, gradient in gradients(adversary.critic).items():
        torch.testing.assert_close(of_critic[name], gradient, rtol=1e-3, atol=1e-6)

    adversary.lesson = lambda true, restored: torch.zeros(len(true))  # type: ignore[method-assign]
    model.zero_grad()
    objective.losses(model, batch, slice(0, 4)).sum().backward()
    assert all(torch.equal(of_model[name], gradient) for name, gradient in gradients(model).items())


def test_what_a_run_is_told_is_its_loss_without_the_adversary(picture_folder: Path) -> None:
    """The pulls have a gradient and no value: losses of runs with and without one can be compared."""
    with_one, without = objective_with(picture_folder, noise=0.0), objective_with(picture_folder, noise=0.0, adversary=0.0)
    model, batch = with_one.new_model(), with_one.draw(0, 4)
    torch.testing.assert_close(with_one.losses(model, batch, slice(0, 4)), without.losses(model, batch, slice(0, 4)))


def test_an_adversary_of_no_share_and_one_that_is_off_learn_the_same(picture_folder: Path) -> None:
    """With nearly no say the network's gradient is that of the reconstruction."""
    model = (faint := objective_with(picture_folder, adversary=1e-9, noise=0.0)).new_model()
    batch = faint.draw(0, 4)
    faint.losses(model, batch, slice(0, 4)).sum().backward()
    found = gradients(model)
    model.zero_grad()
    objective_with(picture_folder, adversary=0.0, noise=0.0).losses(model, batch, slice(0, 4)).sum().backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_it_begins_beside_the_network_without_touching_how_that_begins(picture_folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first = Adversary(0.5, 7, CPU, "fp32")
    assert torch.equal(torch.rand(3), expected)
    second = Adversary(0.5, 7, CPU, "fp32")
    assert all(torch.equal(a, b) for a, b in zip(first.critic.parameters(), second.critic.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_and_resumed_equals_unbroken(picture_folder: Path, tmp_path: Path, precision: str) -> None:
    """Bit for bit, the critic's weights and moments too, in either precision."""
    recipe = recipe_with(precision=precision)
    run_here(picture_folder, tmp_path / "whole", recipe)
    for stop_at in (24, 64):
        with pytest.raises(Stopped):
            run_here(picture_folder, tmp_path / "run", recipe, on_progress=lambda e, at=stop_at: not (e.stage == "train" and e.done >= at))
    run_here(picture_folder, tmp_path / "run", recipe)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert any(name.startswith("adversary") for name in final_tensors(tmp_path / "run"))
    line = [line for line in Record(tmp_path / "run" / "metrics.jsonl").lines() if "loss" in line][-1]
    assert 0 < line["adversary_loss"] < 4 and line["adversary_grad_norm"] > 0


def test_accumulated_gradients_are_those_of_the_whole_batch(picture_folder: Path, tmp_path: Path) -> None:
    """Its say and its lessons are of each picture by itself: 2 x 4 = 1 x 8, up to rounding."""
    run_here(picture_folder, tmp_path / "whole", recipe_with())
    run_here(picture_folder, tmp_path / "parts", recipe_with(micro_batch=4))
    whole, parts = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "parts")
    for name in whole:
        if name.startswith(("weights", "adversary")):
            torch.testing.assert_close(whole[name], parts[name], atol=2e-4, rtol=1e-3)


def test_noise_is_in_the_units_of_the_latents(picture_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents twice as large get twice the noise, so no scale escapes it; an amount of 0 is none."""
    objective = objective_with(picture_folder, adversary=0.0, noise=0.3)
    batch = objective.draw(0, 200)
    assert float(batch.noise.min()) >= 0 and 0.2 < float(batch.noise.max()) <= 0.3
    model = objective.new_model()
    found: list[torch.Tensor] = []
    x, eps = batch.x0[:2], torch.randn(2, *objective.latent_shape)

    def restore(latents: torch.Tensor) -> torch.Tensor:
        found.append(latents)
        return latents

    monkeypatch.setattr(model, "restore", restore)
    monkeypatch.setattr(model, "moments", lambda pictures: (torch.full(eps.shape, 2.0), torch.full(eps.shape, -60.0)))
    model(x, eps, torch.tensor([0.0, 0.3]))
    torch.testing.assert_close(found[0][0], torch.full(eps.shape[1:], 2.0))
    torch.testing.assert_close(found[0][1], 2 + 2 * 0.3 * eps[1])


def test_moments_come_back_as_the_weights_lie_in_memory() -> None:
    """Fused optimizers walk through memory: moments read from a file must be laid out as the weights, or each meets another's."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    settings = recipe_with().train
    optimizers = make_optimizers(settings, conv)

    def step(amount: float) -> None:
        torch.manual_seed(int(amount))
        conv(torch.randn(2, 4, 5, 5)).square().mean().backward()
        optimizers[0].step()
        conv.zero_grad()

    step(1)
    weights = {name: tensor.clone() for name, tensor in conv.state_dict().items()}
    moments = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in optimizer_tensors(optimizers).items()}
    step(2)
    expected = conv.weight.detach().clone()
    conv.load_state_dict(weights)
    optimizers = make_optimizers(settings, conv)
    load_optimizer_tensors(optimizers, moments)
    step(2)
    assert torch.equal(conv.weight.detach(), expected)


def test_latents_can_be_kept_while_the_decoder_learns(picture_folder: Path, tmp_path: Path) -> None:
    """Not one weight of the encoder moves, in the network or its average, over a stop too; every one of the decoder's does."""
    run_here(picture_folder, tmp_path / "first", recipe_with())
    recipe = recipe_with(init=str(tmp_path / "first"))
    recipe = recipe.model_copy(update={"autoencoder": recipe.autoencoder.model_copy(update={"keep_latents": True})})
    with pytest.raises(Stopped):
        run_here(picture_folder, tmp_path / "second", recipe, on_progress=lambda event: not (event.stage == "train" and event.done >= 40))
    run_here(picture_folder, tmp_path / "second", recipe)
    before = open_autoencoder(str(tmp_path / "first"), CPU).state_dict()
    for name, tensor in final_tensors(tmp_path / "second").items():
        file, _, parameter = name.partition(":")
        if file in ("weights.safetensors", "ema.safetensors"):
            kept = parameter.startswith(("down", "to_"))
            assert torch.equal(tensor, before[parameter]) == kept, name
