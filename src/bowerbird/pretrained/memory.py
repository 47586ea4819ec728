"""Fitting a model to the machine: precision, placement, decoding in tiles, and a forecast when it will not fit.

Attention is not sliced.  PyTorch's fused attention never holds the matrix of scores, which slicing was made to cut up;
diffusers' sliced attention takes several times its memory and time (benchmarks/attention_slicing.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from bowerbird.errors import ResourceError
from bowerbird.hardware import available_memory_bytes

# Growth of resident memory with SD 1.5's real-size networks in float32 on a CPU, at 256 px: two predictions at once, and decoding
WORKING_BYTES_PER_PIXEL = 3_200
DECODING_BYTES_PER_PIXEL = 5_600
LEAST_TILE = 128  # pixels; smaller tiles see too little of the picture

Placement = Literal["whole", "offload", "sequential"]


def choose_dtype(device: torch.device, numbers: int) -> torch.dtype:
    """Half precision where it is fast and safe, on CUDA, or where nothing else fits.

    Elsewhere float32: bf16 is slower on CPUs without AMX, and fp16 paints black on MPS.  ResourceError when `numbers`
    weights do not fit into main memory, through which all go, in either.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    free = available_memory_bytes(torch.device("cpu"))
    for dtype in (torch.float32, torch.bfloat16):
        if numbers * dtype.itemsize < free:
            return dtype
    raise ResourceError(
        f"the model's weights need {numbers * 2 / 2**30:.1f} GiB of memory even in half precision and {free / 2**30:.1f} GiB are free. "
        "Close other programs, or use a smaller model."
    )


def weight_bytes(network: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in network.parameters())


def working_bytes(size: tuple[int, int], dtype: torch.dtype, decoding: bool = True) -> int:
    """Memory beside the weights for one picture with guidance; decoding it whole takes more than a step."""
    per_pixel = DECODING_BYTES_PER_PIXEL if decoding else WORKING_BYTES_PER_PIXEL
    return size[0] * size[1] * per_pixel * dtype.itemsize // 4


def place(networks: Mapping[str, nn.Module], device: torch.device, native: int) -> Placement:
    """Move the networks to the device, whole if they fit; else they stay here and go there one by one, or layer by layer."""
    if device.type == "cpu":
        return "whole"
    sizes = {name: weight_bytes(network) for name, network in networks.items()}
    free = available_memory_bytes(device) - working_bytes((native, native), next(networks["unet"].parameters()).dtype)
    if sum(sizes.values()) <= free or device.type != "cuda":
        for network in networks.values():
            network.to(device)
        return "whole"
    return "offload" if max(sizes.values()) <= free else "sequential"


def fit_decoder(vae: Any, size: tuple[int, int], device: torch.device) -> None:
    """Decode in overlapping tiles as large as fit when the whole picture does not; whole is faster and free of blending."""
    free, needed = available_memory_bytes(device), working_bytes(size, vae.dtype)
    if needed <= free:
        vae.disable_tiling()
        return
    side = math.sqrt(free / needed * size[0] * size[1])
    pixels_per_latent = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.tile_sample_min_size = max(LEAST_TILE, int(side) // 64 * 64)  # of which a quarter, the overlap, is whole latents
    vae.tile_latent_min_size = vae.tile_sample_min_size // pixels_per_latent
    vae.enable_tiling()


def forecast(networks: Mapping[str, nn.Module], native: int) -> str:
    """What the model needs, in words."""
    dtype = next(networks["unet"].parameters()).dtype
    weights, working = sum(map(weight_bytes, networks.values())), working_bytes((native, native), dtype)
    return f"{weights / 2**30:.1f} GiB of weights and about {working / 2**30:.1f} GiB while painting {native}x{native}"


def shortage(size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> str:
    """A forecast in words when a picture, decoded in tiles, is not expected to fit; empty when it is."""
    free, needed = available_memory_bytes(device), working_bytes(size, dtype, decoding=False)
    if needed <= free:
        return ""
    return (
        f"painting {size[0]}x{size[1]} takes about {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free on {device}; "
        "if it fails, close other programs or paint a smaller picture"
    )


def too_large(size: tuple[int, int], device: torch.device) -> ResourceError:
    free = available_memory_bytes(device) / 2**30
    return ResourceError(
        f"a picture of {size[0]}x{size[1]} does not fit into the {free:.1f} GiB free on {device}. Paint a smaller one, or use --device cpu."
    )
