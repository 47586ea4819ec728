"""Autoencoders: pictures to latents, the small arrays a model can learn on cheaply, and back.

    autoencoder.encode(pictures) -> mean, std     (B, 3, H, W) in -1..1  ->  two of (B, C, H/f, W/f)
    autoencoder.decode(latents)  -> pictures

Ours is here, and the identity, with which a model that learns on pixels is one more latent model; those of other
projects are in pretrained/.  A `LatentSpace` scales latents to mean 0 and standard deviation 1, which is what samplers,
losses and noise levels are made for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

# name: (channels at 1/2, 1/4, 1/8, 1/16, 1/32 of the resolution; residual blocks at each).  A level has a quarter of
# the places of the one before and four times the products at each, so a block costs about the same wherever it stands.
# The first pair is the encoder's, the second the decoder's: what is lost must be invented again, which takes more than leaving it out.
Levels = tuple[tuple[int, ...], tuple[int, ...]]
SIZES: dict[str, tuple[Levels, Levels]] = {
    "micro": (((12, 12, 12, 12, 12), (1, 1, 1, 1, 1)),) * 2,
    "small": (((24, 48, 96, 192, 384), (1, 2, 4, 4, 4)),) * 2,
    "wide": (((24, 48, 96, 192, 384), (1, 2, 4, 4, 4)), ((48, 96, 192, 384, 768), (2, 3, 3, 3, 3))),
    "base": (((48, 96, 192, 384, 768), (2, 4, 6, 6, 6)),) * 2,
}
Scale = tuple[list[float], list[float]]  # mean and standard deviation of each channel of latents
OURS = "BowerbirdAutoencoder"  # the class name in a config.json
TILE_PX = 512  # pictures larger than this are encoded and decoded in tiles: memory stays that of one tile


class Autoencoder(nn.Module):
    """What all autoencoders share.  factor: pixels a latent covers on each side; channels: numbers it holds."""

    factor: int
    channels: int
    weights_name = "model.safetensors"  # beside config.json

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The Gaussian of latents for each picture: its mean and standard deviation."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """What rebuilds it, for config.json; with `_class_name`, as diffusers has it."""
        raise NotImplementedError

    @property
    def saved(self) -> nn.Module:
        """The module whose weights are saved."""
        return self


class Rgb(Autoencoder):
    """The identity: latents are pixels."""

    factor, channels = 1, 3

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        return pictures, torch.zeros_like(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        return latents


@dataclass(frozen=True)
class AutoencoderConfig:
    """Everything that decides the shapes of the weights.  widths, blocks: from half resolution down to the latents.

    up_widths, up_blocks: the decoder's, in the same order; empty: as the encoder's.
    """

    channels: Annotated[int, Field(ge=1, le=512)]
    widths: Annotated[Sequence[Annotated[int, Field(ge=1, le=8_192)]], Field(min_length=1, max_length=6)]
    blocks: Annotated[Sequence[Annotated[int, Field(ge=0, le=64)]], Field(min_length=1, max_length=6)]
    up_widths: Annotated[Sequence[Annotated[int, Field(ge=1, le=8_192)]], Field(max_length=6)] = ()
    up_blocks: Annotated[Sequence[Annotated[int, Field(ge=0, le=64)]], Field(max_length=6)] = ()


class ConvAutoencoder(Autoencoder):
    """Ours: residual convolutions from half resolution down, deep where pictures are small.

    Resolutions change by moving pixels into channels and back (as in DC-AE; Chen et al. 2024, arXiv:2410.10733), and
    normalisation looks at one place alone.  So everything is local, and a picture in tiles is the picture in one piece.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.settings = config
        self.factor, self.channels = 2 ** len(config.widths), config.channels
        up_widths, up_blocks = config.up_widths or config.widths, config.up_blocks or config.blocks
        # each level is named by how small the picture is there: a deeper autoencoder can begin with a shallower one's levels
        down, up = nn.Sequential(), nn.Sequential()
        finer = 3
        for level, (width, count) in enumerate(zip(config.widths, config.blocks, strict=True)):
            enter = Bridge(4 * finer, width, kernel=1 if level else 3)
            down.add_module(f"to_{2 ** (level + 1)}", nn.Sequential(nn.PixelUnshuffle(2), enter, *residuals(width, count)))
            finer = width
        for level in reversed(range(len(config.widths))):
            leave = Bridge(up_widths[level], 4 * up_widths[level - 1] if level else 12, kernel=1 if level else 3)
            blocks = residuals(up_widths[level], up_blocks[level])
            up.add_module(f"from_{2 ** (level + 1)}", nn.Sequential(*blocks, leave, nn.PixelShuffle(2)))
        self.down, self.up = down, up
        self.to_mean, self.from_latents = Bridge(finer, config.channels, kernel=1), Bridge(config.channels, up_widths[-1], kernel=3)
        self.to_log_variance = nn.Conv2d(finer, config.channels, 1)
        # latents begin nearly without noise: drowned in it, the decoder would learn nothing from them for a long time
        nn.init.constant_(self.to_log_variance.bias, -6.0)  # type: ignore[arg-type]

    def forward(self, pictures: Tensor, eps: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What training looks at: the pictures restored from latents drawn with eps (B, C, h, w), and mean and log variance.

        noise: (B,) more of it, its standard deviation in those of the picture's latents about 0.  A model that learns on the
        latents will miss them by as much, and the picture is to survive it (as in l-DeTok).
        """
        mean, log_variance = self.moments(pictures)
        std = (0.5 * log_variance).exp()
        if noise is not None:
            added = noise.view(-1, 1, 1, 1) * mean.square().mean((1, 2, 3), keepdim=True).sqrt()
            std = (std.square() + added.square()).sqrt()
        return self.restore(mean + std * eps), mean, log_variance

    def keep_encoder(self) -> None:
        """Let the decoder alone learn from now on."""
        for part in (self.down, self.to_mean, self.to_log_variance):
            part.requires_grad_(False)

    def moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents, (B, C, h, w) each."""
        mean, log_variance = in_tiles(self.look, pictures, TILE_PX, self.reach * self.factor, 1 / self.factor).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 10)

    def look(self, pictures: Tensor) -> Tensor:
        """The encoder: (B, 2C, h, w), mean and log variance."""
        seen = self.down(pictures)
        return torch.cat([self.to_mean(seen), self.to_log_variance(seen)], dim=1)

    def restore(self, latents: Tensor) -> Tensor:
        """The decoder."""
        return self.up(self.from_latents(latents))  # type: ignore[no-any-return]

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.moments(pictures)
        return mean, (0.5 * log_variance).exp()

    def decode(self, latents: Tensor) -> Tensor:
        return in_tiles(self.restore, latents, TILE_PX // self.factor, self.reach, self.factor)

    @property
    def reach(self) -> int:
        """Latents by which one place can influence another: a 3x3 convolution sees one pixel further, a level up half as far."""
        pixels = 2 + self.factor  # of the convolutions at either end
        pairs = zip(self.settings.blocks, self.settings.up_blocks or self.settings.blocks, strict=True)
        for level, counts in enumerate(pairs, 1):
            pixels += 2 * max(counts) * 2**level
        return -(-pixels // self.factor)

    def config(self) -> dict[str, Any]:
        settings = asdict(self.settings)
        own = {name: value for name, value in settings.items() if value or not name.startswith("up_")}
        return {"_class_name": OURS, **own}


class Bridge(nn.Module):
    """From one number of channels to another: a convolution beside the channels themselves, averaged or repeated.

    So information passes from the first step on, without having to be learnt (DC-AE, arXiv:2410.10733): 1 dB more after the
    first thousand pictures, measured in docs/lab-log.md.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return matched(x, self.outputs) + self.conv(x)  # type: ignore[no-any-return]


def matched(x: Tensor, channels: int) -> Tensor:
    """x (B, C, H, W) with another number of channels: groups averaged, or each repeated; zero where neither divides the other."""
    own = x.shape[1]
    if own % channels == 0:
        return x.reshape(len(x), channels, own // channels, *x.shape[2:]).mean(2)
    if channels % own == 0:
        return x.repeat_interleave(channels // own, dim=1)
    return torch.zeros((), dtype=x.dtype, device=x.device)


def residuals(width: int, count: int) -> list[nn.Module]:
    return [Residual(width) for _ in range(count)]


class Residual(nn.Module):
    """x + what two convolutions find in it; begins as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = PlaceNorm(width)
        self.first, self.second = conv(width, width), conv(width, width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(self.norm(x))))  # type: ignore[no-any-return]


class PlaceNorm(nn.Module):
    """RMSNorm over the channels of each place of x (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6) * self.gain


def conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    """3x3, same size."""
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


def autoencoder_config(size: str, factor: int, channels: int) -> AutoencoderConfig:
    """One of our sizes at a factor of 8, 16 or 32."""
    levels = factor.bit_length() - 1
    (widths, blocks), (up_widths, up_blocks) = SIZES[size]
    if (up_widths, up_blocks) == (widths, blocks):
        return AutoencoderConfig(channels, widths[:levels], blocks[:levels])
    return AutoencoderConfig(channels, widths[:levels], blocks[:levels], up_widths[:levels], up_blocks[:levels])


def in_tiles(work: Callable[[Tensor], Tensor], x: Tensor, tile: int, reach: int, scale: float) -> Tensor:
    """work(x), where x (B, C, H, W) is larger than `tile` a piece at a time.  `scale`: by how much `work` enlarges.

    Each piece sees `reach` more on every side, which is cut off again: if `work` looks no further, nothing shows.
    """
    height, width = x.shape[2:]
    if max(height, width) <= tile:
        return work(x)

    def cut(low: int, high: int, limit: int) -> tuple[slice, slice]:
        start, stop = max(0, low - reach), min(limit, high + reach)
        return slice(start, stop), slice(round((low - start) * scale), round((min(high, limit) - start) * scale))

    rows = []
    for top in range(0, height, tile):
        seen_y, kept_y = cut(top, top + tile, height)
        row = []
        for left in range(0, width, tile):
            seen_x, kept_x = cut(left, left + tile, width)
            row.append(work(x[:, :, seen_y, seen_x])[:, :, kept_y, kept_x])
        rows.append(torch.cat(row, dim=3))
    return torch.cat(rows, dim=2)


class LatentSpace(nn.Module):
    """An autoencoder with the scale of its latents: what a model learns on, and how its pictures are seen.

    mean, std: of each channel over the training pictures (or the published scaling factor of a pretrained one).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, autoencoder: Autoencoder, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> None:
        super().__init__()
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        channels = autoencoder.channels
        self.register_buffer("mean", torch.tensor(mean or [0.0] * channels).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std or [1.0] * channels).view(-1, 1, 1), persistent=False)

    @property
    def scale(self) -> Scale:
        """Mean and standard deviation of each channel."""
        return self.mean.flatten().tolist(), self.std.flatten().tolist()

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in -1..1 -> their latents, of mean 0 and std 1 over the training pictures, without noise."""
        return (self.autoencoder.encode(pictures)[0] - self.mean) / self.std

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents of mean 0 and std 1, (B, C, h, w) -> pictures (B, 3, H, W), about -1..1."""
        return self.autoencoder.decode(latents * self.std + self.mean)
