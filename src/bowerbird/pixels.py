"""Pixels, 0..255, and what networks see, -1..1: every way from one to the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Pixels = NDArray[np.uint8]  # (..., H, W, 3), 0..255


def to_tensor(pixels: Pixels) -> Tensor:
    """(..., H, W, C) uint8 -> (..., C, H, W) uint8; a copy, because decoded pictures are a read-only memory map."""
    return torch.from_numpy(np.array(pixels, order="C")).movedim(-1, -3)


def scaled(pixels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 -1..1, of any shape."""
    return pixels.float() / 127.5 - 1


def to_x0(pixels: Pixels) -> Tensor:
    """(..., H, W, C) uint8 -> (..., C, H, W) float32 in -1..1."""
    return scaled(to_tensor(pixels))


def to_pixels(x0: Tensor) -> NDArray[np.uint8]:
    """(..., C, H, W) float in -1..1, clipped -> (..., H, W, C) uint8."""
    pixels: NDArray[Any] = ((x0.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1).cpu().numpy()
    return pixels


def to_picture(x0: Tensor) -> Image.Image:
    """(C, H, W) float in -1..1, one or three channels -> a picture."""
    pixels = to_pixels(x0)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
