"""Pictures against their own originals, pair by pair: for autoencoders and upscalers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bowerbird.generate import open_located_autoencoder
from bowerbird.locate import Place
from bowerbird.models.autoencoder import Autoencoder
from bowerbird.pixels import Pixels, to_pixels, to_tensor, to_x0
from bowerbird.progress import OnProgress, Progress, tell

BATCH = 64
PIXELS_AT_ONCE = 256 * 256  # through an autoencoder: 16 pictures of 64x64, larger ones one by one
OTHERS_PX = 256  # the size for autoencoders whose folder does not say what they were trained on


@dataclass(frozen=True)
class Reconstructor:
    """An autoencoder to be judged: pictures go in, and should come out again.

    size_px: side of the pictures it is judged on; training: what its manifest says of its training.
    """

    name: str
    autoencoder: Autoencoder
    size_px: int
    training: Mapping[str, Any]
    device: torch.device

    @torch.inference_mode()
    def reconstruct(self, pixels: Pixels, on_progress: OnProgress | None = None) -> Pixels:
        """(N, H, W, 3) -> the same, through the mean of the latents."""
        reconstructed, step = np.empty_like(pixels), max(1, PIXELS_AT_ONCE // (pixels.shape[1] * pixels.shape[2]))
        for start in range(0, len(pixels), step):
            tell(on_progress, Progress("reconstruct", start, len(pixels)))
            x0 = to_x0(pixels[start : start + step]).to(self.device)
            reconstructed[start : start + step] = to_pixels(self.autoencoder.decode(self.autoencoder.encode(x0)[0]))
        return reconstructed


def open_reconstructor(place: Place, device: torch.device) -> Reconstructor:
    """The autoencoder that was located; ModelError when its files are damaged."""
    training = place.manifest.training if place.manifest is not None else {}
    size = training["recipe"]["data"]["size"] if training else OTHERS_PX
    return Reconstructor(Path(place.where).name, open_located_autoencoder(place).to(device), size, training, device)


@dataclass(frozen=True)
class Reconstruction:
    """Means over pictures."""

    psnr: float  # dB; 20 is rough, 30 good, 40 hard to tell from the original
    ssim: float  # 0..1, structural similarity in 11-pixel windows
    consistency: float | None = None  # dB, PSNR after shrinking both to the upscaler's input size


def compare_pairs(reconstructed: Pixels, originals: Pixels, input_px: int | None = None) -> Reconstruction:
    """How faithfully pictures were reconstructed: means of `score_pairs`, with the consistency where `input_px` is given."""
    return Reconstruction(*score_pairs(reconstructed, originals, input_px).mean(0).tolist())


def score_pairs(reconstructed: Pixels, originals: Pixels, input_px: int | None = None) -> NDArray[np.float32]:
    """PSNR and SSIM of each picture, (N, 2).  reconstructed, originals: (N, H, W, 3) uint8, picture i of picture i.

    `input_px` is the side an upscaler started from: shrunk to it again, what it painted must still be its input.  How far that is
    so is a third column, (N, 3).
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    rows = []
    for start in range(0, len(reconstructed), BATCH):
        x, y = (to_tensor(pixels[start : start + BATCH]).float() / 255 for pixels in (reconstructed, originals))
        row = [_psnr(x, y), ssim(x, y, data_range=1.0, reduction="none").reshape(len(x))]
        if input_px is not None:
            row.append(_psnr(_shrink(x, input_px), _shrink(y, input_px)))
        rows.append(torch.stack(row, 1))
    scores: NDArray[np.float32] = torch.cat(rows).numpy()
    return scores


def _psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal to noise in dB, (B,); at most 60, so that one perfect picture does not make the mean infinite."""
    error = ((x - y) ** 2).mean((1, 2, 3))
    return -10 * torch.log10(error.clamp_min(1e-6))


def _shrink(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, (side, side), mode="bicubic", antialias=True)
