"""What the network sees at each step: a pure function of (recipe, pictures, sample numbers).

Sample number k of a run always is the same picture, flipped or not, with the same noise of the same level and the same
condition hidden or not, whatever the batch size, the number of processes, or how often the run was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bowerbird import draws
from bowerbird.data.augment import flip
from bowerbird.data.pictures import Pictures
from bowerbird.diffusion.schedule import NoiseLevels, log_normal, logit_normal, uniform_t
from bowerbird.models.condition import Condition
from bowerbird.models.denoiser import Denoiser
from bowerbird.recipe import Recipe

GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Batch:
    """first: number of the first sample; pictures: which ones; x0, eps: (B, C, H, W) float32, x0 in -1..1; sigma: (B,) float32."""

    first: int
    pictures: NDArray[np.int64]
    x0: Tensor
    eps: Tensor
    sigma: Tensor
    cond: Condition | None

    def __len__(self) -> int:
        return len(self.pictures)


def draw_batch(pictures: Pictures, recipe: Recipe, levels: NoiseLevels, start: int, stop: int, device: torch.device) -> Batch:
    """Samples number start..stop-1 of the run, on `device`."""
    seed = recipe.data.seed
    samples = np.arange(start, stop)
    chosen = pictures.train[draws.picture_indices(seed, start, stop, len(pictures.train))]
    pixels = pictures.pixels[chosen]
    x0 = to_x0(flip(pixels, seed, samples) if recipe.data.flip else pixels)
    return Batch(
        first=start,
        pictures=chosen,
        x0=x0.to(device),
        eps=torch.from_numpy(draws.normal(seed, "noise", samples, tuple(x0.shape[1:]))).to(device),
        sigma=levels(torch.from_numpy(level_draws(seed, samples))).float().to(device),
        cond=_condition(pictures, recipe, chosen, samples, device),
    )


def level_draws(seed: int, samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """u in (0, 1) for the noise level of each sample: a golden-ratio sequence from a random start.

    Any run of consecutive samples covers (0, 1) evenly, so the loss of a batch varies less than with independent draws,
    and each u is still a function of its sample number alone.
    """
    levels: NDArray[np.float64] = (draws.uniform(seed, "noise level", [0]) + samples * GOLDEN) % 1.0
    return levels.clip(1e-6, 1 - 1e-6)


def to_x0(pixels: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, C) uint8 -> (B, C, H, W) float32 in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).movedim(-1, 1).float() / 127.5 - 1


def label_condition(pictures: Pictures, chosen: NDArray[np.int64], hidden: NDArray[np.bool_], device: torch.device) -> Condition:
    """The labels of the chosen pictures; "no class" where hidden or unknown."""
    labels = pictures.labels[chosen]
    return Condition(label=torch.from_numpy(np.where(hidden | (labels < 0), len(pictures.label_names), labels)).to(device))


def levels_of(recipe: Recipe, model: Denoiser) -> NoiseLevels:
    """The distribution of noise levels that the recipe's [diffusion] section names."""
    words = recipe.diffusion
    if words.noise_levels == "uniform-t":
        assert model.schedule is not None, "the recipe check allows uniform-t for eps and v alone"
        return uniform_t(model.schedule)
    if words.noise_levels == "log-normal":
        return log_normal(words.location, words.scale)
    return logit_normal(words.location, words.scale, words.shift)


def _condition(
    pictures: Pictures, recipe: Recipe, chosen: NDArray[np.int64], samples: NDArray[np.int64], device: torch.device
) -> Condition | None:
    if not recipe.condition.label:
        return None
    hidden = draws.uniform(recipe.data.seed, "drop condition", samples) < recipe.condition.drop
    return label_condition(pictures, chosen, hidden, device)
