"""The published walk beside ours, on the same U-Net: a training step, and one checkpoint painted by both.

    python -m benchmarks.ddpm_walk RUN --pictures 4

RUN is a run of a U-Net recipe.  Prints JSON: seconds per picture of diffusers' DDPMPipeline at its 1000 steps and of ours at
20; how far ours at 20 steps is from the exact end of the same path (1000 DDIM steps from the same noise); pictures per
second of one training step, ours and that of diffusers' unconditional example (its loss, optimizer, clipping and EMA), in
turns; and the share of the matrix-multiply rate that the steps reach.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from diffusers.training_utils import EMAModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import machine
from bowerbird import hardware
from bowerbird.diffusion.loss import WEIGHTINGS, denoising_loss, normalised
from bowerbird.diffusion.prediction import add_noise
from bowerbird.locate import locate
from bowerbird.model_folder import open_model_folder
from bowerbird.models.denoiser import Denoiser
from bowerbird.painter import OwnPainter
from bowerbird.recipe import Recipe, check_recipe
from bowerbird.request import PaintRequest
from bowerbird.training.build import levels_of
from bowerbird.training.checkpoint import new_state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    folder = locate(options.run).path
    record = {
        "machine": hardware.describe(torch.device("cpu")),
        "torch": torch.__version__,
        "painting": compare_painting(folder, options.pictures),
        "training": compare_training(folder, options.batch, options.rounds),
    }
    print(json.dumps(record, indent=1))


def compare_painting(folder: Path, count: int) -> dict[str, float]:
    """Seconds per picture of each, and the mean difference in steps of 1/255 to the exact end of the same path."""
    pipeline = DDPMPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    painter = OwnPainter(str(folder), open_model_folder(folder))

    def paint(**fields: object) -> tuple[np.ndarray, float]:
        begun = time.perf_counter()
        painted = list(painter.paint(PaintRequest(model=str(folder), count=count, seed=0, **fields)))
        return np.stack([np.asarray(one.picture, dtype=float) for one in painted]), (time.perf_counter() - begun) / count

    begun = time.perf_counter()
    pipeline(batch_size=count, num_inference_steps=1000, generator=torch.Generator().manual_seed(0))
    theirs = (time.perf_counter() - begun) / count
    ours, seconds = paint(sampler="dpm++2m", steps=20)
    exact, _ = paint(sampler="ddim", steps=1000)
    other, _ = paint(sampler="ddim", steps=20)
    return {
        "diffusers DDPMPipeline, 1000 steps: s/picture": theirs,
        "ours, dpm++2m, 20 steps: s/picture": seconds,
        "times faster": theirs / seconds,
        "mean |difference| of dpm++2m 20 to the exact path (of 255)": float(abs(ours - exact).mean()),
        "the same of ddim 20": float(abs(other - exact).mean()),
        "mean |difference| of two unrelated pictures": float(abs(exact[1:] - exact[:-1]).mean()),
    }


def compare_training(folder: Path, batch: int, rounds: int) -> dict[str, float]:
    """Both steps on copies of one U-Net and the same pictures, in turns; the median of the rounds."""
    opened = open_model_folder(folder)
    model, recipe = opened.denoiser, check_recipe(opened.about.training["recipe"])
    assert model is not None
    x0 = torch.rand(batch, *model.spec.sample_shape) * 2 - 1
    ours, theirs = our_step(model, recipe, x0), diffusers_step(model, x0)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds + 1):
        for name, step in (("ours", ours), ("theirs", theirs)):
            begun = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begun)
    with FlopCounterMode(display=False) as counter:
        ours()
    mine, peers = (statistics.median(values[1:]) for values in seconds.values())  # the first round warms up
    rate = machine.matmul_gflops() * 1e9
    return {
        "parameters (M)": sum(p.numel() for p in model.parameters()) / 1e6,
        "batch": batch,
        "ours: pictures/s": batch / mine,
        "diffusers' step: pictures/s": batch / peers,
        "ours / theirs": peers / mine,
        "matrix-multiply rate (GFLOP/s)": rate / 1e9,
        "ours, share of it": counter.get_total_flops() / mine / rate,
    }


def our_step(model: Denoiser, recipe: Recipe, x0: torch.Tensor) -> Callable[[], None]:
    state = new_state(copy.deepcopy(model).train().requires_grad_(True), recipe)
    levels = levels_of(recipe)
    weight = normalised(WEIGHTINGS[recipe.diffusion.weighting], levels, model.spec.sigma_data)

    def step() -> None:
        sigma = levels(torch.rand(len(x0), dtype=torch.float64)).float()
        loss = denoising_loss(state.model(add_noise(x0, torch.randn_like(x0), sigma), sigma), x0, weight(sigma)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
        state.optimizers[0].step()
        state.model.zero_grad()
        state.step += 1
        state.ema.update(state.model, state.step)

    return step


def diffusers_step(model: Denoiser, x0: torch.Tensor) -> Callable[[], None]:
    """The step of diffusers' examples/unconditional_image_generation, with --use_ema."""
    theirs: Any = model.network.network
    network = copy.deepcopy(theirs).train().requires_grad_(True)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    ema = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)

    def step() -> None:
        noise, timesteps = torch.randn_like(x0), torch.randint(0, 1000, (len(x0),))
        output = network(scheduler.add_noise(x0, noise, timesteps), timesteps).sample
        torch.nn.functional.mse_loss(output.float(), noise.float()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(network.parameters())

    return step


if __name__ == "__main__":
    main()
