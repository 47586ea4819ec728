"""Every network that a recipe trains is the same function in bf16, up to bf16's eight bits: what is trained so is painted in fp32 too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bowerbird.models.transformer import PatchEmbedding
from bowerbird.recipe import Recipe, built_in_recipes, read_recipe
from bowerbird.training.adversary import Critic
from bowerbird.training.build import build_autoencoder, build_denoiser, build_upscaler


def relative_difference(function: Callable[..., Tensor], network: nn.Module, *inputs: Tensor) -> float:
    """Of what the network's function gives in bf16 and in fp32; what begins as zero is stirred."""
    torch.manual_seed(0)
    network.eval()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    with torch.no_grad():
        expected = function(*inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = function(*inputs).float()
    return float((found - expected).norm() / expected.norm())


def painter_of(recipe: Recipe) -> tuple[nn.Module, Tensor]:
    """The network and noise in the shape of what it paints, latents of at most 16 to a side."""
    side, channels = min(recipe.data.size, 64), 3
    if recipe.model.autoencoder != "rgb":
        own = read_recipe(recipe.model.autoencoder).autoencoder
        side, channels = min(recipe.data.size // own.factor, 16), own.channels
    return build_denoiser(recipe, (channels, side, side)), torch.randn(1, channels, side, side)


@pytest.mark.parametrize("name", built_in_recipes())
def test_the_network_of_every_recipe(name: str) -> None:
    torch.manual_seed(0)
    recipe, picture = read_recipe(name), torch.randn(1, 3, 64, 64)
    if recipe.model.network == "autoencoder":
        autoencoder = build_autoencoder(recipe)
        small = 64 // autoencoder.factor
        assert relative_difference(autoencoder.look, autoencoder, picture) < 0.05
        assert relative_difference(autoencoder.restore, autoencoder, torch.randn(1, autoencoder.channels, small, small)) < 0.05
    elif recipe.model.network == "upscaler":
        upscaler = build_upscaler(recipe)
        assert relative_difference(upscaler, upscaler, picture, torch.zeros(1)) < 0.05
    else:
        network, x = painter_of(recipe)
        assert relative_difference(network, network, x, torch.ones(1)) < 0.05


def test_the_adversary() -> None:
    critic = Critic()
    assert relative_difference(critic, critic, torch.randn(1, 3, 64, 64)) < 0.05


@pytest.mark.parametrize("channels", [3, 8, 16, 24, 32])
@pytest.mark.parametrize("patch", [1, 2, 4, 8])
def test_patches_are_embedded(channels: int, patch: int) -> None:
    """The convolution that it is: what it replaces on processors on which that errs."""
    torch.manual_seed(0)
    embed = PatchEmbedding(channels, 32, patch, stride=patch)
    x = torch.randn(2, channels, 16, 16)
    expected = nn.Conv2d.forward(embed, x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(x), expected)
    assert relative_difference(embed, embed, x) < 0.01
