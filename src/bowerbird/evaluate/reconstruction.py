"""Pictures against their own originals, pair by pair: for autoencoders and upscalers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bowerbird.evaluate.features import Pixels, to_tensor

BATCH = 64


@dataclass(frozen=True)
class Reconstruction:
    """Means over pictures."""

    psnr: float  # dB; 20 is rough, 30 good, 40 hard to tell from the original
    ssim: float  # 0..1, structural similarity in 11-pixel windows
    consistency: float | None = None  # dB, PSNR after shrinking both to the upscaler's input size


def compare_pairs(restored: Pixels, originals: Pixels, input_px: int | None = None) -> Reconstruction:
    """How faithfully pictures were restored.  restored, originals: (N, H, W, 3) uint8, picture i of picture i.

    `input_px` is the side an upscaler started from: shrunk to it again, what it painted must still be its input.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    rows = []
    for start in range(0, len(restored), BATCH):
        x, y = (to_tensor(pixels[start : start + BATCH]).float() / 255 for pixels in (restored, originals))
        row = [_psnr(x, y), ssim(x, y, data_range=1.0, reduction="none").reshape(len(x))]
        if input_px is not None:
            row.append(_psnr(_shrink(x, input_px), _shrink(y, input_px)))
        rows.append(torch.stack(row, 1))
    means = torch.cat(rows).mean(0).tolist()
    return Reconstruction(*means)


def _psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal to noise in dB, (B,); at most 60, so that one perfect picture does not make the mean infinite."""
    error = ((x - y) ** 2).mean((1, 2, 3))
    return -10 * torch.log10(error.clamp_min(1e-6))


def _shrink(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, (side, side), mode="bicubic", antialias=True)
