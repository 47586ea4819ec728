from __future__ import annotations

import pytest
import torch

from bowerbird.diffusion.prediction import PREDICTIONS, add_noise
from bowerbird.generate import open_autoencoder
from bowerbird.models.denoiser import Denoiser, DenoiserSpec
from bowerbird.recipe import built_in_recipes, read_recipe
from bowerbird.training.build import TRAINED, build_denoiser, levels_of
from tests.conftest import tiny_recipe

UNIT = DenoiserSpec(prediction="x0", time="log-sigma", sigma_min=0.002, sigma_max=80, sigma_data=0.5, sample_shape=(3, 16, 16))


class Perfect(torch.nn.Module):
    """A network that answers exactly what its convention asks for."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: torch.Tensor, time: torch.Tensor, cond: object) -> torch.Tensor:
        self.seen = x
        return self.output


@pytest.mark.parametrize("prediction", sorted(PREDICTIONS))
def test_a_perfect_network_returns_the_clean_picture(prediction: str) -> None:
    """Whatever it predicts: the wrapper undoes the convention."""
    x0, eps, sigma = torch.rand(4, 3, 16, 16) - 0.5, torch.randn(4, 3, 16, 16), torch.tensor([0.01, 0.5, 3.0, 50.0])
    spec = UNIT.model_copy(update={"prediction": prediction})
    network = Perfect(PREDICTIONS[prediction].target(x0, eps, sigma, spec.sigma_data))
    torch.testing.assert_close(Denoiser(network, spec)(add_noise(x0, eps, sigma), sigma), x0, atol=2e-4, rtol=0)


@pytest.mark.parametrize("prediction", ["x0", "edm"])
def test_the_network_sees_unit_variance(prediction: str) -> None:
    torch.manual_seed(0)
    x0 = 0.5 * torch.randn(64, 3, 16, 16)  # sigma_data = 0.5
    for level in (0.01, 0.5, 20.0):
        sigma = torch.full((64,), level)
        network = Perfect(torch.zeros_like(x0))
        Denoiser(network, UNIT.model_copy(update={"prediction": prediction}))(add_noise(x0, torch.randn_like(x0), sigma), sigma)
        assert network.seen.std().item() == pytest.approx(1, rel=0.02)


def test_an_edm_model_keeps_a_picture_without_noise() -> None:
    """Denoiser -> identity as sigma -> 0, whatever the network says."""
    x = torch.rand(2, 3, 16, 16) - 0.5
    model = Denoiser(Perfect(torch.randn(2, 3, 16, 16)), UNIT.model_copy(update={"prediction": "edm"}))
    torch.testing.assert_close(model(x, torch.full((2,), 1e-5)), x, atol=1e-4, rtol=0)


def test_a_learned_variance_is_left_aside() -> None:
    output = torch.randn(1, 6, 16, 16)
    model = Denoiser(Perfect(output), UNIT)
    torch.testing.assert_close(model(torch.zeros(1, 3, 16, 16), torch.ones(1)), output[:, :3])


@pytest.mark.parametrize("network", ["transformer", "unet"])
def test_recipes_build_models_that_answer(network: str) -> None:
    eps = {"prediction": "eps", "weighting": "eps", "noise_levels": "uniform-t"} if network == "unet" else {}
    model = build_denoiser(tiny_recipe(model={"network": network}, unet={"size": "micro"}, diffusion=eps), (3, 16, 16))
    assert model(torch.randn(2, 3, 16, 16), torch.tensor([0.1, 10.0])).shape == (2, 3, 16, 16)


def test_end_points() -> None:
    """DESIGN's figures: linear betas end at sigma 157.4."""
    eps = {"prediction": "eps", "weighting": "eps", "noise_levels": "uniform-t"}
    spec = build_denoiser(tiny_recipe(model={"network": "unet"}, unet={"size": "micro"}, diffusion=eps), (3, 16, 16)).spec
    assert spec.sigma_max == pytest.approx(157.4, abs=0.05)


@pytest.mark.parametrize("levels", [{"noise_levels": "log-normal", "location": 0.7, "scale": 1.1}, {"noise_levels": "logit-normal"}])
def test_sampling_asks_for_no_level_that_training_hardly_saw(levels: dict[str, object]) -> None:
    """98.8% of the training draws lie within the range that sampling walks, and half of the others on each side."""
    recipe = tiny_recipe(diffusion=levels)
    spec = build_denoiser(recipe, (3, 16, 16)).spec
    drawn = levels_of(recipe)((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    for beyond in (drawn < spec.sigma_min, drawn > spec.sigma_max):
        assert beyond.double().mean().item() == pytest.approx(0.0062, abs=2e-4)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "edm"])
def test_our_transformer_is_told_the_logarithm_of_the_noise_whatever_it_predicts(prediction: str) -> None:
    levels = {"noise_levels": "uniform-t"} if prediction in ("eps", "v") else {}
    model = build_denoiser(tiny_recipe(diffusion={"prediction": prediction, **levels}), (3, 16, 16))
    torch.testing.assert_close(model.time(torch.tensor([1.0, 16.0])), torch.tensor([1.0, 16.0]).log() / 4)


@pytest.mark.parametrize("name", built_in_recipes())
def test_the_first_noise_drowns_even_the_brightness_of_a_picture(name: str) -> None:
    """Sampling starts from noise alone, as if nothing of x0 showed through it.  What shows longest is the mean over all n^2 places.

    Noise has a mean of standard deviation sigma / n, pictures on white have one near 0.6 (latents: within 1 of 0).
    """
    recipe = read_recipe(name)
    if recipe.model.network in ("autoencoder", "upscaler") or recipe.diffusion.noise_levels == "uniform-t":
        pytest.skip("no noise levels of its own")
    factor = 1 if recipe.model.autoencoder == "rgb" else open_autoencoder(recipe.model.autoencoder, torch.device("cpu")).factor
    side = recipe.data.size // factor
    spec = build_denoiser(recipe, (3, side, side)).spec
    assert spec.sigma_max / side > 0.8


@pytest.mark.parametrize("noise_levels", ["log-normal", "logit-normal"])
def test_no_draw_leaves_the_levels_that_training_covers(noise_levels: str) -> None:
    """One picture with ten times the noise ever seen cost as much as thousands of others."""
    recipe = read_recipe("latent-64", [f"diffusion.noise_levels={noise_levels}", "diffusion.prediction=x0"])
    lowest, highest = levels_of(recipe)(torch.tensor([1e-6, 1 - 1e-6], dtype=torch.float64)).log().tolist()
    assert highest - lowest == pytest.approx(2 * TRAINED * recipe.diffusion.scale)
