"""The held-out score: how well the averaged weights do on pictures they never saw, and which snapshot is best.

A run's objective gives several losses a picture (a denoiser's at eight noise levels, say).  Each is divided by its first
value of the run, because they differ by orders of magnitude and all should count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from bowerbird import draws

if TYPE_CHECKING:
    from bowerbird.training.run import Run

LOOK_AT = 256  # pictures; more would cost more than they tell
BATCH = 64
RESAMPLES = 200


class Best(BaseModel):
    """The best snapshot so far; part of every checkpoint, because it decides what `best` becomes."""

    model_config = ConfigDict(frozen=True)
    first: tuple[float, ...] = ()  # mean of each loss at the first look; the unit of the scores
    scores: tuple[float, ...] = ()  # one number a picture


@dataclass(frozen=True)
class Look:
    """One look at the held-out pictures: the mean score, each picture's score, the mean of each raw loss."""

    score: float
    scores: NDArray[np.float64]
    losses: NDArray[np.float64]


@torch.inference_mode()
def look(run: Run, held: NDArray[np.int64]) -> Look | None:
    """Score the averaged weights on the pictures `held`, shared between processes; None when there are none."""
    if not len(held):
        return None
    world, model = run.world, run.state.ema.model
    shown = held[np.linspace(0, len(held) - 1, min(LOOK_AT, len(held))).astype(np.int64)]
    first, last = world.share(0, len(shown))
    parts = []
    for start in range(first, last, BATCH):
        run.check()
        parts.append(run.objective.held_out_losses(model, shown[start : min(start + BATCH, last)], start).double().cpu().numpy())
    terms = run.objective.held_out_terms
    losses = world.joined(np.concatenate(parts) if parts else np.zeros((0, terms)), first, len(shown))
    unit = np.array(run.state.best.first or losses.mean(0))
    scores = (losses / unit).mean(1)
    return Look(float(scores.mean()), scores, losses.mean(0))


def better(new: NDArray[np.float64], old: tuple[float, ...], seed: int) -> bool:
    """Whether the newer snapshot takes the title.  Within the 95 % bootstrap interval of the difference the later one wins."""
    if len(old) != len(new):
        return True
    difference = new - np.array(old)
    rows = draws.generator(seed, "bootstrap", 0).integers(0, len(difference), (RESAMPLES, len(difference)))
    return float(np.quantile(difference[rows].mean(1), 0.025)) <= 0
