"""Autoencoders: shapes, tiles, scale."""

from __future__ import annotations

import pytest
import torch

from bowerbird.models.autoencoder import ConvAutoencoder, LatentSpace, Rgb, autoencoder_config, in_tiles


def stirred(factor: int, channels: int = 4, size: str = "micro") -> ConvAutoencoder:
    """No branch at zero, so that every path counts."""
    torch.manual_seed(0)
    autoencoder = ConvAutoencoder(autoencoder_config(size, factor, channels))
    for parameter in autoencoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return autoencoder.eval()


@pytest.mark.parametrize("factor", [8, 16, 32])
def test_latents_are_smaller_by_the_factor_and_pictures_come_back_whole(factor: int) -> None:
    autoencoder = stirred(factor)
    mean, std = autoencoder.encode(torch.rand(2, 3, 64, 96) * 2 - 1)
    assert mean.shape == std.shape == (2, 4, 64 // factor, 96 // factor)
    assert (std > 0).all()
    assert autoencoder.decode(mean).shape == (2, 3, 64, 96)


@pytest.mark.parametrize("factor", [8, 16])
def test_tiles_are_the_whole(factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in our autoencoder is local, so tiles that see as far as its convolutions do differ by rounding alone."""
    autoencoder = stirred(factor)
    side = factor * 4 * autoencoder.reach
    picture = torch.rand(1, 3, side, side + factor) * 2 - 1
    whole = autoencoder.encode(picture)
    restored = autoencoder.decode(whole[0])
    monkeypatch.setattr("bowerbird.models.autoencoder.TILE_PX", side // 3 // factor * factor)
    for tiled, one in zip((*autoencoder.encode(picture), autoencoder.decode(whole[0])), (*whole, restored), strict=True):
        # processors sum in other orders: a small value among large ones carries the rounding of the large
        assert (tiled - one).abs().max() < 2e-5 * one.abs().max()


def test_tiles_that_see_too_little_show() -> None:
    """The reach is needed: with none, a blur sees the borders of the tiles."""
    x = torch.rand(1, 1, 32, 32)

    def blur(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2)

    assert torch.allclose(in_tiles(blur, x, 8, 2, 1), blur(x))
    assert not torch.allclose(in_tiles(blur, x, 8, 0, 1), blur(x), atol=0.05)


def test_every_parameter_learns() -> None:
    autoencoder = stirred(16)
    x = torch.rand(1, 3, 32, 32)
    restored, mean, log_variance = autoencoder(x, torch.randn(1, 4, 2, 2))
    (restored.mean() + mean.square().mean() + log_variance.mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in autoencoder.parameters())


def test_a_latent_space_undoes_its_scale() -> None:
    """decode(normalised latents) is the autoencoder's decode of the latents they stand for; pixels are their own latents."""
    autoencoder = stirred(8)
    latents, mean, std = torch.randn(1, 4, 3, 3), [0.1, -2.0, 3.0, 0.0], [0.5, 2.0, 1.0, 4.0]
    space = LatentSpace(autoencoder, mean, std)
    scaled = (latents - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    torch.testing.assert_close(space.decode(scaled), autoencoder.decode(latents), rtol=1e-4, atol=1e-4)
    pixels = torch.rand(1, 3, 4, 4)
    assert torch.equal(LatentSpace(Rgb()).decode(pixels), pixels)
