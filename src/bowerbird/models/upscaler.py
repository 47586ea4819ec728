"""Upscalers: small pictures to pictures `factor` times as large, in one step.

All work is done at the low resolution, and the last convolution leaves factor x factor pixels for each place: the compact
network of Real-ESRGAN (Wang et al. 2021, arXiv:2107.10833; its SRVGG), with the noise level of the small picture as one
more input, as in the cascades (Ho et al. 2021, arXiv:2106.15282).  It is local, so a picture in tiles is the picture in one piece.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bowerbird.models.autoencoder import in_tiles

# name: (channels, convolutions between the first and the last)
SIZES: dict[str, tuple[int, int]] = {"micro": (8, 2), "small": (64, 16), "base": (80, 18)}
TILE_PX = 256  # of the small picture; larger ones are enlarged in tiles: memory stays that of one tile
PROJECTIONS = 4  # rounds of back-projection
PROJECTION_REACH = 5  # small pixels that a round looks further: two filters of four


@dataclass(frozen=True)
class UpscalerConfig:
    """Everything that decides the shapes of the weights."""

    factor: Annotated[int, Field(ge=2, le=8)]
    width: Annotated[int, Field(ge=1, le=1_024)]
    convolutions: Annotated[int, Field(ge=0, le=64)]


class Upscaler(nn.Module):
    """low (B, 3, h, w) in -1..1, noise (B,): standard deviation of the noise in it, same unit -> (B, 3, factor h, factor w)."""

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.config, self.factor = config, config.factor
        layers: list[nn.Module] = []
        inputs = 4
        for _ in range(1 + config.convolutions):
            layers += [nn.Conv2d(inputs, config.width, 3, padding=1), nn.PReLU(config.width)]
            inputs = config.width
        layers.append(nn.Conv2d(inputs, 3 * config.factor**2, 3, padding=1))
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):  # signals keep their size through all layers, none of which is normalised
                nn.init.kaiming_normal_(layer.weight, 0.25)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]  # begins as the nearest pixel

    def forward(self, low: Tensor, noise: Tensor) -> Tensor:
        level = noise.to(low).view(-1, 1, 1, 1).expand(-1, 1, *low.shape[2:])
        detail = F.pixel_shuffle(self.layers(torch.cat([low * 0.5 + 0.5, level], dim=1)), self.factor)
        return 2 * detail + F.interpolate(low, scale_factor=self.factor, mode="nearest")

    @property
    def reach(self) -> int:
        """Pixels of the small picture by which one place can influence another."""
        return self.config.convolutions + 2


def enlarged(
    network: Upscaler, low: Tensor, noise: float = 0.0, consistent: bool = False, on_tile: Callable[[], None] = lambda: None
) -> Tensor:
    """low (B, 3, h, w) in -1..1, of any size -> (B, 3, factor h, factor w) uint8.

    In tiles of TILE_PX that see as much around them as can matter, so that no border shows and the memory is that of one tile.
    consistent: shrunk again, it is `low` (`projected`).  on_tile: called before each tile.
    """
    level = torch.full((len(low),), noise, device=low.device)
    reach = network.reach + consistent * PROJECTIONS * PROJECTION_REACH

    def work(tile: Tensor) -> Tensor:
        on_tile()
        found: Tensor = network(tile, level).float().clamp(-1, 1)
        if consistent:
            found = projected(found, tile, network.factor)
        return (found * 127.5 + 127.5).round().to(torch.uint8)

    return in_tiles(work, low, TILE_PX, reach, network.factor)


def tiles_of(height: int, width: int) -> int:
    """In how many tiles a small picture is enlarged."""
    return 1 if max(height, width) <= TILE_PX else -(-height // TILE_PX) * -(-width // TILE_PX)


def projected(found: Tensor, low: Tensor, factor: int) -> Tensor:
    """`found` changed until it shrinks to `low`: what is missing there is enlarged and added, several times over.

    Back-projection; Irani and Peleg 1991, "Improving resolution by image registration".
    """
    for _ in range(PROJECTIONS):
        missing = low - shrunk(found, factor)
        found = (found + F.interpolate(missing, scale_factor=factor, mode="bicubic")).clamp(-1, 1)
    return found


def shrunk(pictures: Tensor, factor: int) -> Tensor:
    """(B, C, factor h, factor w) -> (B, C, h, w): antialiased bicubic, as pictures are shrunk everywhere here."""
    return F.interpolate(pictures, scale_factor=1 / factor, mode="bicubic", antialias=True)
