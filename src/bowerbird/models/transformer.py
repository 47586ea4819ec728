"""Our network: a transformer over picture patches, for pixels and for latents.

A diffusion transformer (DiT; Peebles & Xie 2022, arXiv:2212.09748) with the parts that later work agreed on: 2-D rotary
positions, RMSNorm, query-key normalisation, SwiGLU, and one shared modulation of the noise level with a small learnt offset a
block (PixArt-alpha, arXiv:2310.00426, section 2.3) in place of a large projection in every block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bowerbird.models.conditioning import Cond, NetworkPart, Steering

# name: (width, depth, heads)
SIZES = {
    "micro": (32, 2, 2),
    "nano": (192, 8, 3),
    "tiny": (320, 10, 5),
    "small": (512, 10, 8),
    "base": (768, 16, 12),
    "large": (1024, 24, 16),
}
POSITIONS = 8  # waves across the picture, in each direction, by which a token is told its place
SHORT = 256  # tokens; up to here attention in bf16 is done by hand on a CPU
MAX_FREQUENCY = 20.0  # of new models: one turn while sigma grows 3.5-fold
HEAD_OF_ROTARY = 10_000.0  # slowest rotary frequency, as in RoFormer (arXiv:2104.09864)


@dataclass(frozen=True)
class TransformerConfig:
    """Everything that decides the shapes of the weights; saved as config.json.  Bounds hold for what is read from a file."""

    width: Annotated[int, Field(ge=8, le=16_384)]
    depth: Annotated[int, Field(ge=1, le=256)]
    heads: Annotated[int, Field(ge=1, le=256)]
    patch: Annotated[int, Field(ge=1, le=64)]
    channels: Annotated[int, Field(ge=1, le=512)] = 3
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    stem_channels: Annotated[int, Field(ge=0, le=4_096)] = (
        0  # of the convolutions at full resolution around the transformer; 0 leaves them out
    )
    absolute: bool = False  # whether tokens are also told where in the picture they lie; the first models knew distances alone
    max_frequency: Annotated[float, Field(gt=0, le=1e6)] = (
        1000.0  # how finely the network tells noise levels apart (FourierFeatures); 1000 is that of the first models
    )
    conditions: Mapping[str, Mapping[str, Annotated[int, Field(ge=0, le=1_000_000)]]] = field(
        default_factory=dict
    )  # the shape of each condition's part, by name

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


Turns = tuple[Tensor, Tensor]  # cosine and sine of every token's rotary angles, (N, D/2) each


class Transformer(nn.Module):
    """network(x, time, cond) -> output, x and output (B, C, H, W), time (B,): a bounded function of the noise level.

    parts: what reads the conditions, by name (conditions.network_parts); each becomes an attribute of that name.
    """

    def __init__(self, config: TransformerConfig, parts: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch
        self.stem = (
            nn.Sequential(conv(config.channels, config.stem_channels), nn.SiLU(), conv(config.stem_channels, config.stem_channels))
            if config.stem_channels
            else None
        )
        self.embed = PatchEmbedding(config.stem_channels or config.channels, width, patch, stride=patch)
        self.position = nn.Linear(4 * POSITIONS, width) if config.absolute else None
        self.time = nn.Sequential(FourierFeatures(width, config.max_frequency), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.conditions = tuple(parts or ())
        for name, part in (parts or {}).items():
            self.add_module(name, part)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.last_norm = nn.RMSNorm(width)
        self.last_modulation = nn.Linear(width, 2 * width)
        self.unembed = nn.Linear(width, patch * patch * (config.stem_channels or config.channels))
        self.tail = (
            nn.Sequential(conv(2 * config.stem_channels, config.stem_channels), nn.SiLU(), conv(config.stem_channels, config.channels))
            if config.stem_channels
            else None
        )
        self._initialise()

    def _initialise(self) -> None:
        """Start as the identity: every branch and the output begin at zero, so the first steps are calm (DiT, section 3.2)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        last = self.tail[-1] if self.tail is not None else self.unembed
        for layer in (self.modulation[1], self.last_modulation, last):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        if self.tail is not None:
            nn.init.zeros_(self.tail[-1].bias)  # type: ignore[arg-type]
        for name in self.conditions:
            self.part(name).initialise()

    def part(self, name: str) -> NetworkPart:
        """What reads the condition of that name."""
        return cast(NetworkPart, self.get_submodule(name))

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        fine = self.stem(x) if self.stem is not None else x  # (B, stem_channels, H, W)
        height, width = (side // self.config.patch for side in x.shape[2:])
        tokens = self.embed(fine)  # (B, h*w, W)
        if self.position is not None:
            tokens = tokens + self.position(positions(height, width, x.device))
        level = self.time(time)  # (B, W)
        steering = [self.part(name)(cond or {}, len(x), x.device) for name in self.conditions]
        for each in steering:
            level = level if each.level is None else level + each.level
        modulation = self.modulation(level).unsqueeze(1)  # (B, 1, 6W)
        rotary = rotary_angles(height, width, self.config.width // self.config.heads, x.device)
        tokens, rotary, mask = beside(tokens, rotary, steering)
        turns = rotary.cos(), rotary.sin()  # once for all blocks
        for block in self.blocks:
            tokens = block(tokens, modulation, turns, mask)
        tokens = tokens[:, : height * width]
        shift, scale = self.last_modulation(level).unsqueeze(1).chunk(2, dim=-1)
        patches = self.unembed(self.last_norm(tokens) * (1 + scale) + shift)  # (B, h*w, C*p*p)
        picture = F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (height, width)), self.config.patch)
        return picture if self.tail is None else self.tail(torch.cat([picture, fine], dim=1))


class Block(nn.Module):
    """Attention, then a gated MLP, each scaled, shifted and gated by the noise level."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        hidden = 64 * math.ceil(width * 8 / 3 / 64)  # SwiGLU at the size of a 4x MLP
        self.heads = config.heads
        self.offset = nn.Parameter(torch.zeros(6 * width))
        self.norm_attention = nn.RMSNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.norm_q = nn.RMSNorm(width // config.heads, eps=1e-6)
        self.norm_k = nn.RMSNorm(width // config.heads, eps=1e-6)
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.RMSNorm(width, elementwise_affine=False, eps=1e-6)
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, modulation: Tensor, turns: Turns, mask: Tensor | None) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (modulation + self.offset).chunk(6, dim=-1)
        x = x + gate_a * self.attention(self.norm_attention(x) * (1 + scale_a) + shift_a, turns, mask)
        return x + gate_m * self.mlp(self.norm_mlp(x) * (1 + scale_m) + shift_m)

    def attention(self, x: Tensor, turns: Turns, mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, N, D)
        mixed = attend(rotate(normed(q, self.norm_q), turns), rotate(normed(k, self.norm_k), turns), v, mask)
        return self.dropout(self.project(mixed.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]

    def mlp(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.dropout(self.down(F.silu(gate) * value))  # type: ignore[no-any-return]


def normed(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """norm(x) in one kernel, which takes weights in the precision of x alone."""
    assert norm.weight is not None
    return F.rms_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.eps)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention, all (B, heads, N, D).

    On a CPU in bf16, short sequences are two matrix products and a softmax: the fused kernel takes 6.1 times as long for 16
    tokens, 3.7 times for 64 and 2.7 times for 256, forward and backward (AMD EPYC with AVX-512 BF16, one thread).
    """
    if not (torch.is_autocast_enabled("cpu") and q.device.type == "cpu" and q.shape[-2] <= SHORT):
        return F.scaled_dot_product_attention(q, k, v, mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v  # type: ignore[no-any-return]


def beside(tokens: Tensor, rotary: Tensor, steering: Sequence[Steering]) -> tuple[Tensor, Tensor, Tensor | None]:
    """The picture's tokens (B, N, W) with those of the conditions behind them, which stand nowhere in the picture and so are not turned.

    Returns tokens (B, N + L, W), rotary angles (N + L, D/2), and which are there, (B, 1, 1, N + L) bool; None where all are.
    """
    words = [each for each in steering if each.tokens is not None]
    if not words:
        return tokens, rotary, None
    whole = torch.cat([tokens, *(each.tokens for each in words if each.tokens is not None)], dim=1)
    there = torch.ones(whole.shape[:2], dtype=torch.bool, device=tokens.device)
    start = tokens.shape[1]
    for each in words:
        assert each.tokens is not None
        stop = start + each.tokens.shape[1]
        if each.mask is not None:
            there[:, start:stop] = each.mask
        start = stop
    return whole, F.pad(rotary, (0, 0, 0, whole.shape[1] - len(rotary))), there[:, None, None, :]


def conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    """3x3, same size."""
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


class PatchEmbedding(nn.Conv2d):
    """(B, C, H, W) -> a token for each patch, (B, h*w, W): a convolution whose windows touch, computed as the matrix product it is.

    As a convolution it would come out wrong, by more than the output itself, for some shapes on a CPU that multiplies bf16 in
    tiles (AMX): 16 channels in patches of 4x4 or 8x8 are among them (PyTorch 2.13; pytorch/pytorch#169688 is of the same kind).
    """

    def forward(self, x: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(x, self.kernel_size[0])  # (B, C*p*p, h, w)
        return F.linear(patches.flatten(2).transpose(1, 2), self.weight.flatten(1), self.bias)


class FourierFeatures(nn.Module):
    """time (B,), ln(sigma) / 4, -> (B, width): sines and cosines at frequencies from 1 to `max_frequency`, evenly spaced in the logarithm.

    Slow ones let the network carry what it learnt at one noise level over to the next.  Sampling visits a handful of exact
    levels, and with fast ones it falls between those of training: the outputs there are as good as random (docs/lab-log.md).
    """

    def __init__(self, width: int, max_frequency: float) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.logspace(0, math.log10(max_frequency), width // 2), persistent=False)

    def forward(self, time: Tensor) -> Tensor:
        angles = time[:, None].float() * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


def positions(height: int, width: int, device: torch.device) -> Tensor:
    """Where each token lies, (h*w, 4 * POSITIONS): cosines and sines of 1/2, 1, 3/2 ... waves across the picture, by y and by x.

    In shares of the picture, so that a model for another size may begin with these weights.  Rotary positions tell distances
    alone; but the middle of a picture is not its border.
    """
    waves = math.pi * torch.arange(1, POSITIONS + 1, device=device)
    y, x = (((torch.arange(count, device=device) + 0.5) / count)[:, None] * waves for count in (height, width))
    by_y = torch.cat([y.cos(), y.sin()], dim=-1)[:, None].expand(height, width, -1)
    by_x = torch.cat([x.cos(), x.sin()], dim=-1)[None].expand(height, width, -1)
    return torch.cat([by_y, by_x], dim=-1).flatten(0, 1)


def rotary_angles(height: int, width: int, head_width: int, device: torch.device) -> Tensor:
    """Angle of every token and pair of channels, (h*w, head_width // 2): half of the pairs turn with y, half with x.

    2-D form of RoFormer (arXiv:2104.09864, section 3.2): the attention of two tokens depends on their distance alone.
    """
    pairs = head_width // 4
    frequencies = HEAD_OF_ROTARY ** -(torch.arange(pairs, device=device) / pairs)
    y = torch.arange(height, device=device)[:, None, None] * frequencies
    x = torch.arange(width, device=device)[None, :, None] * frequencies
    return torch.cat([y.expand(height, width, pairs), x.expand(height, width, pairs)], dim=-1).flatten(0, 1)


def rotate(x: Tensor, turns: Turns) -> Tensor:
    """Turn each pair of channels of x (..., N, D) by its angle, given as cosines and sines (N, D/2)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = turns
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
