"""Who takes part: each trains in a process of its own from a folder of PNG files, then paints here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bowerbird.pixels import Pixels

BATCH = 25
Paint = Callable[[int, int, int | None], Pixels]  # count, seed, steps (None: its own default) -> (count, H, W, 3)


@dataclass(frozen=True)
class Entrant:
    """How one trains and paints.  `variants` are its sizes, or, for ours, recipes; the first is the default where it matters little."""

    variants: tuple[str, ...]
    command: Callable[[Path, Path, float, int, str], list[str]]  # folder, out, minutes, seed, variant
    open: Callable[[Path], Paint]
    training: Callable[[Path], dict[str, Any]]  # pictures seen, parameters
    default_steps: int


def _batches(count: int) -> list[int]:
    return [min(BATCH, count - start) for start in range(0, count, BATCH)]


def our_command(folder: Path, out: Path, minutes: float, seed: int, variant: str, settings: Sequence[str] = ()) -> list[str]:
    train = [sys.executable, "-m", "bowerbird", "train", str(folder), "--out", str(out), "--recipe", variant]
    return [*train, "--hours", f"{minutes / 60:.5f}", *(f"--set={setting}" for setting in (f"data.seed={seed}", *settings))]


def _peer_command(module: str) -> Callable[[Path, Path, float, int, str], list[str]]:
    def command(folder: Path, out: Path, minutes: float, seed: int, variant: str) -> list[str]:
        train = [sys.executable, "-m", f"benchmarks.{module}", str(folder), str(out)]
        return [*train, "--minutes", str(minutes), "--seed", str(seed), "--variant", variant]

    return command


def _open_ours(out: Path) -> Paint:
    from bowerbird.generate import open_model
    from bowerbird.request import PaintRequest

    painter = open_model(out, torch.device("cpu"))

    def paint(count: int, seed: int, steps: int | None) -> Pixels:
        request = PaintRequest(model=str(out), count=count, seed=seed * 1_000_000, steps=steps)
        return np.stack([np.asarray(painted.picture) for painted in painter.paint(request)])

    return paint


def _our_training(out: Path) -> dict[str, Any]:
    from bowerbird.locate import locate
    from bowerbird.model_folder import open_model_folder

    model = open_model_folder(locate(out).path)  # the best by held-out error, seldom the last: see `best_after`
    assert model.denoiser is not None
    told = model.about.training
    return {
        "pictures_seen": told["recipe"]["train"]["pictures"],
        "parameters": sum(p.numel() for p in model.denoiser.parameters()),
        "best_after": told["pictures_seen"],
        "recipe": told["recipe"],
    }


def _open_diffusers(out: Path) -> Paint:
    from diffusers import DDIMScheduler, DDPMPipeline

    pipeline = DDPMPipeline.from_pretrained(out, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)

    def paint(count: int, seed: int, steps: int | None) -> Pixels:
        generator = torch.Generator().manual_seed(seed)
        found = [pipeline(size, generator, num_inference_steps=steps or 50, output_type="np").images for size in _batches(count)]
        return (np.concatenate(found) * 255).round().astype(np.uint8)

    return paint


def _open_lucidrains(out: Path) -> Paint:
    from benchmarks.train_lucidrains import diffusion
    from bowerbird import weights

    told = json.loads((out / "training.json").read_text())

    @torch.inference_mode()
    def paint(count: int, seed: int, steps: int | None) -> Pixels:
        model = diffusion(told["variant"], told["size"], steps or 50).eval()
        weights.load_into(model, weights.load(out / "model.safetensors"), str(out))
        torch.manual_seed(seed)
        found = torch.cat([model.sample(batch_size=size) for size in _batches(count)])
        return (found.permute(0, 2, 3, 1) * 255).round().clamp(0, 255).to(torch.uint8).numpy()

    return paint


def _peer_training(out: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((out / "training.json").read_text())
    return told


PEER_VARIANTS = ("small", "medium", "large")
ENTRANTS = {
    "ours": Entrant(("latent-64",), our_command, _open_ours, _our_training, 20),
    "diffusers": Entrant(PEER_VARIANTS, _peer_command("train_diffusers"), _open_diffusers, _peer_training, 50),
    "lucidrains": Entrant(PEER_VARIANTS, _peer_command("train_lucidrains"), _open_lucidrains, _peer_training, 50),
}


# ------------------------------------------------------------------------------------------------ those who need no training


def gaussian(train: Pixels, count: int, seed: int) -> Pixels:
    """Draws from the Gaussian with the mean and covariance of the training pixels: all its principal components, at no cost.

    (1 / sqrt(n - 1)) sum_i z_i (x_i - mean) has that covariance exactly, for z standard normal.
    """
    x = train.reshape(len(train), -1).astype(np.float32)
    mean = x.mean(0)
    z = np.random.default_rng(seed).standard_normal((count, len(x)), dtype=np.float32)
    painted: Pixels = (z @ (x - mean) / np.sqrt(len(x) - 1) + mean).round().clip(0, 255).astype(np.uint8)
    return painted.reshape(count, *train.shape[1:])


def blurred(train: Pixels, count: int, seed: int) -> Pixels:
    """Training pictures at a quarter of their resolution: what knowing everything but detail is worth."""
    x = torch.from_numpy(real(train, count, seed)).permute(0, 3, 1, 2)
    small = F.interpolate(x, scale_factor=0.25, mode="bicubic", antialias=True)
    return F.interpolate(small, x.shape[2:], mode="bicubic", antialias=True).permute(0, 2, 3, 1).contiguous().numpy()


def real(train: Pixels, count: int, seed: int) -> Pixels:
    """Training pictures: as good as it can get, and copies all of them."""
    rows = np.random.default_rng(seed).permutation(len(train))[:count]
    return train[rows]


TRIVIAL = {"gaussian": gaussian, "blurred": blurred, "real": real}
