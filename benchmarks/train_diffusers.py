"""The recipe of diffusers' examples/unconditional_image_generation for a given time, written anew from its defaults.

    python -m benchmarks.train_diffusers FOLDER OUT --minutes 20 --seed 0 --variant medium

AdamW 1e-4 (0.95, 0.999), weight decay 1e-6, batch 16, eps prediction, uniform t over 1000 linear betas, clipping at 1, flips,
cosine learning rate with warm-up, EMA (0.9999, power 3/4) on; float32.  Kinder than the example where time is short: pictures
stay decoded in memory, the cosine ends exactly when the time does, and warm-up is at most a tenth of the run instead of 500
steps.  `large` is the example's own network; the others have half and a quarter of its channels.
"""

from __future__ import annotations

from benchmarks.peer import CLOCK, STARTED, read_options  # isort: split

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor

BATCH = 16
WARMUP_STEPS = 500
VARIANTS = {"small": 32, "medium": 64, "large": 128}  # channels of the first level
_CALIBRATION_STEPS = 3


def network(variant: str, size: int) -> UNet2DModel:
    base = VARIANTS[variant]
    return UNet2DModel(
        sample_size=size,
        layers_per_block=2,
        block_out_channels=(base, base, 2 * base, 2 * base, 4 * base, 4 * base),
        down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
    )


class Recipe:
    """The state of a training: call `step(x0)` for one update."""

    def __init__(self, model: UNet2DModel) -> None:
        self.model = model.train()
        self.noise = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type="epsilon")
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        self.ema = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)

    def step(self, x0: Tensor) -> None:
        """x0: (B, 3, H, W) in -1..1"""
        eps, t = torch.randn_like(x0), torch.randint(0, 1000, (len(x0),))
        output = self.model(self.noise.add_noise(x0, eps, t), t).sample
        torch.nn.functional.mse_loss(output, eps).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())


def batches(folder: Path) -> Callable[[], Tensor]:
    """Endless shuffled epochs of batches, each picture flipped or not."""
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(file).convert("RGB")) for file in sorted(folder.glob("*.png"))]))
    order: list[int] = []

    def draw() -> Tensor:
        nonlocal order
        if len(order) < BATCH:
            order = torch.randperm(len(pixels)).tolist()
        rows, order = order[:BATCH], order[BATCH:]
        x0 = pixels[rows].permute(0, 3, 1, 2).float() / 127.5 - 1
        flip = torch.rand(len(x0)) < 0.5
        return torch.where(flip[:, None, None, None], x0.flip(3), x0)

    return draw


def seconds_per_step(model: UNet2DModel, draw: Callable[[], Tensor]) -> float:
    """Measured on a copy, after one step of warming up."""
    trial = Recipe(copy.deepcopy(model))
    trial.step(draw())
    started = CLOCK()
    for _ in range(_CALIBRATION_STEPS):
        trial.step(draw())
    return (CLOCK() - started) / _CALIBRATION_STEPS


def main() -> None:
    options = read_options(__doc__, VARIANTS)
    torch.manual_seed(options.seed)
    deadline = STARTED + 60 * options.minutes
    draw = batches(options.folder)
    model = network(options.variant, draw().shape[-1])
    steps = max(1, int((deadline - CLOCK()) / seconds_per_step(model, draw)))
    recipe = Recipe(model)
    rate = get_scheduler("cosine", recipe.optimizer, num_warmup_steps=min(WARMUP_STEPS, steps // 10), num_training_steps=steps)
    done = 0
    while done < steps and CLOCK() < deadline:
        recipe.step(draw())
        rate.step()
        done += 1
    recipe.ema.copy_to(model.parameters())
    DDPMPipeline(model, recipe.noise).save_pretrained(options.out)
    (options.out / "training.json").write_text(json.dumps({"pictures_seen": done * BATCH, "parameters": model.num_parameters()}))


if __name__ == "__main__":
    main()
