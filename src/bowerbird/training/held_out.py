"""The held-out loss: how well the averaged weights denoise pictures they never saw, and which snapshot is best.

Fixed noise at eight fixed levels, so that two snapshots differ by their weights alone.  Each level is divided by its first
value of the run, because the levels' losses differ by orders of magnitude and all should count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from bowerbird import draws
from bowerbird.data.pictures import Pictures
from bowerbird.diffusion.prediction import add_noise
from bowerbird.models.denoiser import Denoiser
from bowerbird.recipe import Recipe
from bowerbird.training.batches import label_condition, levels_of, to_x0
from bowerbird.training.world import World

LEVELS = 8
LOOK_AT = 256  # pictures; more would cost more than they tell
BATCH = 64
RESAMPLES = 200


class Best(BaseModel):
    """The best snapshot so far; part of every checkpoint, because it decides what `best` becomes."""

    model_config = ConfigDict(frozen=True)
    first: tuple[float, ...] = ()  # mean loss of each level at the first look; the unit of the scores
    scores: tuple[float, ...] = ()  # one number a picture


@dataclass(frozen=True)
class Look:
    """One look at the held-out pictures: the mean score, each picture's score, the mean raw loss of each level."""

    score: float
    scores: NDArray[np.float64]
    levels: NDArray[np.float64]


@torch.inference_mode()
def look(
    model: Denoiser, pictures: Pictures, recipe: Recipe, first: tuple[float, ...], check: Callable[[], None], world: World
) -> Look | None:
    """Score the model on the held-out pictures, shared between processes; None when none are held out.  `check` may raise to stop."""
    if not len(pictures.held):
        return None
    levels = levels_of(recipe, model)
    sigmas = levels((torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS).float()
    held = pictures.held[np.linspace(0, len(pictures.held) - 1, min(LOOK_AT, len(pictures.held))).astype(np.int64)]
    first_row, last_row = world.share(0, len(held))
    losses = np.empty((last_row - first_row, LEVELS))
    for start in range(first_row, last_row, BATCH):
        check()
        rows = slice(start - first_row, min(start + BATCH, last_row) - first_row)
        chosen = held[first_row:last_row][rows]
        x0 = to_x0(pictures.pixels[chosen])
        eps = torch.from_numpy(draws.normal(recipe.data.seed, "held-out noise", np.arange(start, start + len(x0)), tuple(x0.shape[1:])))
        x0, eps = x0.to(model.device), eps.to(model.device)
        nothing_hidden = np.zeros(len(chosen), dtype=np.bool_)
        cond = label_condition(pictures, chosen, nothing_hidden, model.device) if recipe.condition.label else None
        for level, sigma in enumerate(sigmas):
            noise = sigma.expand(len(x0)).to(model.device)
            losses[rows, level] = (model(add_noise(x0, eps, noise), noise, cond) - x0).square().flatten(1).mean(1).cpu()
    losses = world.joined(losses, first_row, len(held))
    unit = np.array(first) if first else losses.mean(0)
    scores = (losses / unit).mean(1)
    return Look(float(scores.mean()), scores, losses.mean(0))


def better(new: NDArray[np.float64], old: tuple[float, ...], seed: int) -> bool:
    """Whether the newer snapshot takes the title.  Within the 95 % bootstrap interval of the difference the later one wins."""
    if len(old) != len(new):
        return True
    difference = new - np.array(old)
    rows = draws.generator(seed, "bootstrap", 0).integers(0, len(difference), (RESAMPLES, len(difference)))
    return float(np.quantile(difference[rows].mean(1), 0.025)) <= 0
