"""Pictures -> feature vectors, by two ImageNet networks that come with the project.

MobileNetV2 is the judge: no loss, no alignment and no choice of data may use it, so that its scores cannot be trained
for.  EfficientNet-Lite0 is the second opinion, and free for losses.  Scores of different networks are never mixed.

Both are the same kind of network (inverted residual blocks, ReLU6), so one class and two tables hold them.  Batch
normalisation is folded into the convolutions; `scripts/convert_feature_weights.py` made the weight files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bowerbird import weights
from bowerbird.cache import cache_root
from bowerbird.errors import RequestError, did_you_mean
from bowerbird.pixels import Pixels, scaled, to_tensor
from bowerbird.progress import OnProgress, Progress, tell

WEIGHTS = Path(__file__).parent / "weights"
INPUT_PX = 224  # what both were trained on; smaller pictures are enlarged, as for every Inception score
FEATURES = 1280
CPU_BATCH = 8  # activations stay in the cache: 10.5 ms a picture on two cores, against 14 ms with 32
GPU_BATCH = 256

Features = NDArray[np.float32]  # (N, 1280)


@dataclass(frozen=True)
class Stage:
    """`blocks` inverted residual blocks: widen `expand` times, filter each channel, narrow to `channels`."""

    expand: int
    channels: int
    blocks: int
    stride: int
    kernel: int = 3


@dataclass(frozen=True)
class Architecture:
    """One network of the family.  Pixels enter as (p/255 - mean) / std."""

    stages: tuple[Stage, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pad_after: bool  # where stride 2 leaves one pixel to pad: TensorFlow pads after the picture, PyTorch on both sides


ARCHITECTURES = {
    # Sandler et al. 2018, arXiv:1801.04381, table 2
    "mobilenet_v2": Architecture(
        stages=(
            Stage(1, 16, 1, 1),
            Stage(6, 24, 2, 2),
            Stage(6, 32, 3, 2),
            Stage(6, 64, 4, 2),
            Stage(6, 96, 3, 1),
            Stage(6, 160, 3, 2),
            Stage(6, 320, 1, 1),
        ),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        pad_after=False,
    ),
    # EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946, table 1) without squeeze-and-excitation and with ReLU6
    "efficientnet_lite0": Architecture(
        stages=(
            Stage(1, 16, 1, 1),
            Stage(6, 24, 2, 2),
            Stage(6, 40, 2, 2, 5),
            Stage(6, 80, 3, 2),
            Stage(6, 112, 3, 1, 5),
            Stage(6, 192, 4, 2, 5),
            Stage(6, 320, 1, 1),
        ),
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
        pad_after=True,
    ),
}
JUDGE = "mobilenet_v2"
SECOND_OPINION = "efficientnet_lite0"


class Convolution(nn.Module):
    """A convolution with the padding its framework gave it, then ReLU6 unless `linear`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, linear: bool = False, pad_after: bool = False
    ) -> None:
        super().__init__()
        self.uneven = pad_after and stride == 2
        self.kernel, self.linear = kernel, linear
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, 0 if self.uneven else kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.uneven:
            before, after = (self.kernel - 2) // 2, (self.kernel - 1) // 2
            x = F.pad(x, (before, after, before, after))
        x = self.conv(x)
        return x if self.linear else F.relu6(x, inplace=True)


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, stage: Stage, stride: int, pad_after: bool) -> None:
        super().__init__()
        wide = inputs * stage.expand
        layers = [Convolution(inputs, wide, 1)] if stage.expand > 1 else []
        layers += [
            Convolution(wide, wide, stage.kernel, stride, groups=wide, pad_after=pad_after),
            Convolution(wide, stage.channels, 1, linear=True),
        ]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class FeatureNetwork(nn.Module):
    """(B, 3, H, W) in -1..1 -> (B, 1280), the mean over places of the last feature map."""

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(architecture.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(architecture.std).view(3, 1, 1), persistent=False)
        self.stem = Convolution(3, 32, 3, stride=2, pad_after=architecture.pad_after)
        self.stages = nn.ModuleList()
        channels = 32
        for stage in architecture.stages:
            blocks = []
            for index in range(stage.blocks):
                blocks.append(InvertedResidual(channels, stage, stage.stride if index == 0 else 1, architecture.pad_after))
                channels = stage.channels
            self.stages.append(nn.Sequential(*blocks))
        self.head = Convolution(channels, FEATURES, 1)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The feature map after every stage, fine to coarse: what a perceptual loss compares.  x: (B, 3, H, W) in -1..1."""
        x = self.stem((x * 0.5 + 0.5 - self.mean) / self.std)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.head(self.maps(x)[-1]).mean((2, 3))
        return pooled


@cache
def load_network(name: str, device: str = "cpu") -> FeatureNetwork:
    """A feature network with its ImageNet weights, frozen, in eval mode."""
    if name not in ARCHITECTURES:
        raise RequestError(f"there is no feature network {name!r}.{did_you_mean(name, ARCHITECTURES)}")
    network = FeatureNetwork(ARCHITECTURES[name])
    path = WEIGHTS / f"{name}.safetensors"
    weights.load_into(network, weights.load(path), str(path))
    return network.eval().requires_grad_(False).to(device)


def network_input(pixels: Pixels, side: int = INPUT_PX) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, side, side) in -1..1.

    Antialiased bicubic, rounded to 8 bits as Pillow does: such scores depend on the filter (Parmar et al. 2022, arXiv:2104.11222).
    """
    x = to_tensor(pixels)
    if x.shape[2:] != (side, side):
        x = F.interpolate(x, (side, side), mode="bicubic", antialias=True)
    return scaled(x)


def extract(
    pixels: Pixels,
    name: str = JUDGE,
    device: torch.device | None = None,
    on_progress: OnProgress | None = None,
    input_px: int = INPUT_PX,
) -> Features:
    """Features of pictures, (N, H, W, 3) uint8 -> (N, 1280) float32; kept in the cache by content, so that a set is computed once.

    Scores are of pictures at INPUT_PX; fewer pixels are for other uses.
    """
    kept = _kept(pixels, name, input_px)
    if kept.exists():
        return np.load(kept)  # type: ignore[no-any-return]
    device = device or torch.device("cpu")
    network = load_network(name, str(device))
    batch = CPU_BATCH if device.type == "cpu" else GPU_BATCH
    features = np.empty((len(pixels), FEATURES), np.float32)
    with torch.inference_mode():
        for start in range(0, len(pixels), batch):
            tell(on_progress, Progress("features", start, len(pixels)))
            features[start : start + batch] = network(network_input(pixels[start : start + batch], input_px).to(device)).cpu().numpy()
    with contextlib.suppress(OSError):  # a full or read-only disk only means computing them again
        _keep(kept, features)
    return features


def extracted(pixels: Pixels, name: str, input_px: int) -> bool:
    """Whether `extract` finds them in the cache."""
    return _kept(pixels, name, input_px).exists()


def _kept(pixels: Pixels, name: str, input_px: int) -> Path:
    return cache_root() / "features" / f"{_content_key(pixels, name)}{f'-{input_px}' * (input_px != INPUT_PX)}.npy"


def _keep(path: Path, features: Features) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    with beside.open("wb") as file:
        np.save(file, features)
    beside.replace(path)


def _content_key(pixels: Pixels, name: str) -> str:
    """What decides the features: the network's weights, the shape, every byte."""
    digest = hashlib.sha256(f"{name} {_weights_sha256(name)} {pixels.shape}".encode())
    for start in range(0, len(pixels), 256):  # in pieces: a memory map need not fit in memory
        digest.update(np.ascontiguousarray(pixels[start : start + 256]).data)
    return digest.hexdigest()


@cache
def _weights_sha256(name: str) -> str:
    return hashlib.sha256((WEIGHTS / f"{name}.safetensors").read_bytes()).hexdigest()
