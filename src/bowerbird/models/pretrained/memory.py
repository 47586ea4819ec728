"""Fitting a model to the machine: precision, placement, decoding in tiles, and a forecast when it will not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from bowerbird.device import available_memory_bytes
from bowerbird.errors import ResourceError

# Measured with SD 1.5's networks in float32 on a CPU, two predictions a step
WORKING_BYTES_PER_PIXEL = 8_000
DECODING_BYTES_PER_PIXEL = 10_000

Placement = Literal["whole", "offload", "sequential"]


def choose_dtype(device: torch.device) -> torch.dtype:
    """Half precision where it is fast and safe: on CUDA.  bf16 on CPUs without AMX is slower than fp32, fp16 on MPS paints black."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def weight_bytes(network: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in network.parameters())


def working_bytes(native: int, dtype: torch.dtype) -> int:
    """Memory beside the weights for one picture with guidance at the native size."""
    return native * native * WORKING_BYTES_PER_PIXEL * dtype.itemsize // 4


def place(networks: Mapping[str, nn.Module], device: torch.device, native: int) -> Placement:
    """Move the networks to the device, whole if they fit; else they stay here and go there one by one, or layer by layer."""
    if device.type == "cpu":
        return "whole"
    sizes = {name: weight_bytes(network) for name, network in networks.items()}
    free = available_memory_bytes(device) - working_bytes(native, next(networks["unet"].parameters()).dtype)
    if sum(sizes.values()) <= free or device.type != "cuda":
        for network in networks.values():
            network.to(device)
        return "whole"
    return "offload" if max(sizes.values()) <= free else "sequential"


def fit_decoder(vae: Any, size: tuple[int, int], device: torch.device) -> None:
    """Decode in overlapping tiles when the whole picture would not fit; whole is faster and free of blending."""
    needed = size[0] * size[1] * DECODING_BYTES_PER_PIXEL * next(vae.parameters()).element_size() // 4
    if needed > available_memory_bytes(device):
        vae.enable_tiling()
    else:
        vae.disable_tiling()


def forecast(networks: Mapping[str, nn.Module], native: int) -> str:
    """What the model needs, in words."""
    dtype = next(networks["unet"].parameters()).dtype
    weights, working = sum(map(weight_bytes, networks.values())), working_bytes(native, dtype)
    return f"{weights / 2**30:.1f} GiB of weights and about {working / 2**30:.1f} GiB while painting {native}x{native}"


def too_large(size: tuple[int, int], device: torch.device) -> ResourceError:
    free = available_memory_bytes(device) / 2**30
    return ResourceError(
        f"a picture of {size[0]}x{size[1]} does not fit into the {free:.1f} GiB free on {device}. Paint a smaller one, or use --device cpu."
    )
