"""The upscaler's network: where it begins, how far it looks, tiles, and staying true to what it enlarges."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bowerbird.models import upscaler
from bowerbird.models.upscaler import Upscaler, UpscalerConfig, enlarged, projected, shrunk


def stirred(factor: int = 4) -> Upscaler:
    """A small network whose last layer is no longer zero."""
    torch.manual_seed(0)
    network = Upscaler(UpscalerConfig(factor, width=8, convolutions=2))
    torch.nn.init.normal_(network.layers[-1].weight, std=0.1)  # type: ignore[arg-type]
    return network.eval()


def pictures(height: int, width: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("factor", [2, 4])
def test_it_begins_as_the_nearest_pixel(factor: int) -> None:
    low = pictures(6, 5, count=2)
    found = Upscaler(UpscalerConfig(factor, width=8, convolutions=2))(low, torch.tensor([0.0, 0.3]))
    assert torch.equal(found, F.interpolate(low, scale_factor=factor, mode="nearest"))


def test_every_weight_gets_a_gradient_and_the_noise_level_matters() -> None:
    network, low = stirred(), pictures(8, 8)
    assert not torch.equal(network(low, torch.tensor([0.0])), network(low, torch.tensor([0.2])))
    network(low, torch.tensor([0.2])).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_its_reach_is_exact() -> None:
    """What is a pixel further away than the reach changes nothing; what is just inside it does."""
    network, low = stirred(), pictures(21, 21)
    for distance, matters in ((network.reach + 1, False), (network.reach, True)):
        other = low.clone()
        other[:, :, 10, 10 - distance] += 1
        same = torch.equal(*(network(each, torch.zeros(1))[:, :, 40:44, 40:44] for each in (low, other)))
        assert same != matters


@pytest.mark.parametrize("consistent", [False, True])
@pytest.mark.parametrize("size", [(33, 70), (64, 16)])
def test_tiles_are_the_picture_in_one_piece(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], consistent: bool) -> None:
    """Each tile sees all that can matter; what is left is the rounding of float sums in another order."""
    network, low, seen = stirred(), pictures(*size), []
    with torch.inference_mode():
        whole = enlarged(network, low, 0.1, consistent)
        monkeypatch.setattr(upscaler, "TILE_PX", 16)
        tiled = enlarged(network, low, 0.1, consistent, lambda: seen.append(1))
    difference = (whole.int() - tiled.int()).abs()
    assert len(seen) == upscaler.tiles_of(*size) > 1
    assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3


@pytest.mark.parametrize("factor", [2, 4])
def test_what_is_projected_shrinks_to_its_input(factor: int) -> None:
    """From anything not too far off: noise of 0.1 leaves 20 dB less than the promised 48."""
    low = F.interpolate(pictures(6, 6), size=(24, 24), mode="bicubic").clamp(-0.9, 0.9)
    found = F.interpolate(low, scale_factor=factor, mode="bicubic") + 0.1 * pictures(24 * factor, 24 * factor)

    def decibels(picture: Tensor) -> float:
        return float(10 * torch.log10(4 / (shrunk(picture, factor) - low).square().mean()))

    assert decibels(projected(found, low, factor)) > max(48, decibels(found) + 10)


def test_what_is_consistent_is_left_alone() -> None:
    found = pictures(32, 32) * 0.9
    assert torch.allclose(projected(found, shrunk(found, 4), 4), found, atol=1e-6)
