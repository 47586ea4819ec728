"""What a run sees at each step: a pure function of (recipe, pictures, sample numbers).

Sample number k of a run always is the same picture, flipped or not, with the same noise of the same level and the same
condition hidden or not, whatever the batch size, the number of processes, or how often the run was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bowerbird import draws
from bowerbird.data.augment import SIDES, flipped, mirrored
from bowerbird.data.picture_set import Pictures
from bowerbird.pixels import to_x0
from bowerbird.recipe import Recipe

GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Batch:
    """first: number of the first sample; pictures: which ones; x0: (B, C, H, W) float32; eps: standard normal noise."""

    first: int
    pictures: NDArray[np.int64]
    x0: Tensor
    eps: Tensor

    def __len__(self) -> int:
        return len(self.pictures)


class Samples(Protocol):
    """Where x0 comes from: pixels, or the latents of an autoencoder."""

    shape: tuple[int, int, int]  # (C, H, W)

    def preparation_seconds(self, pictures: Pictures) -> float:
        """What it takes to make x0 of all `pictures`, of which this may be a part."""

    def drawn(self, chosen: NDArray[np.int64], samples: NDArray[np.int64]) -> Tensor:
        """x0 of the chosen pictures (B, C, H, W), on the CPU, as samples number `samples` of the run show them."""

    def plain(self, chosen: NDArray[np.int64]) -> Tensor:
        """x0 of the chosen pictures as they are."""


class Mirrors:
    """Which samples are mirror images: about half where the recipe flips, but none that its caption, if it is learnt, would contradict."""

    def __init__(self, pictures: Pictures, recipe: Recipe) -> None:
        self.seed, self.flip = recipe.data.seed, recipe.data.flip
        self.sided = np.array([recipe.condition.text and any(map(SIDES.search, said)) for said in pictures.captions], np.bool_)

    def __call__(self, chosen: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.bool_]:
        return mirrored(self.seed, samples) & self.flip & ~self.sided[chosen]


class PixelSamples:
    """Pixels in -1..1, some of them mirrored."""

    def __init__(self, pictures: Pictures, recipe: Recipe) -> None:
        self.pixels, self.mirrored = pictures.pixels, Mirrors(pictures, recipe)
        self.shape = (3, recipe.data.size, recipe.data.size)

    def preparation_seconds(self, pictures: Pictures) -> float:
        return 0.0

    def drawn(self, chosen: NDArray[np.int64], samples: NDArray[np.int64]) -> Tensor:
        return to_x0(flipped(self.pixels[chosen], self.mirrored(chosen, samples)))

    def plain(self, chosen: NDArray[np.int64]) -> Tensor:
        return to_x0(self.pixels[chosen])


def chosen_pictures(pictures: Pictures, seed: int, start: int, stop: int) -> NDArray[np.int64]:
    """Which pictures samples number start..stop-1 are."""
    return pictures.train[draws.picture_indices(seed, start, stop, len(pictures.train))]


class OneShapeABatch:
    """Which pictures samples are where those of a batch are of one shape; of one shape altogether, as `chosen_pictures` says.

    The batches come in rounds of as many as there are pictures.  In each, a shape has a batch for each picture of it, evenly spread
    over the round, and a batch takes the next of an endless row of epochs of those pictures.  So every picture comes equally often,
    whatever the batch size, and which ones a batch holds follows from its number alone.
    """

    def __init__(self, train: NDArray[np.int64], shapes: NDArray[np.int64], batch: int, seed: int) -> None:
        """train: (n,) numbers of pictures; shapes: (n, 2), of each; batch: samples of an update."""
        self.batch, self.seed, self.count = batch, seed, len(train)
        distinct = sorted(np.unique(shapes, axis=0).tolist(), key=lambda shape: (-shape[0] * shape[1], shape))
        self.groups: list[NDArray[np.int64]] = [train[(shapes == shape).all(1)] for shape in distinct]
        self._round = lru_cache(maxsize=4)(self._shapes_of_round)

    def __call__(self, start: int, stop: int) -> NDArray[np.int64]:
        """The pictures of samples number start..stop-1, which are of one batch."""
        number = start // self.batch
        turn, place = divmod(number, self.count)
        shapes = self._round(turn)
        group = self.groups[shapes[place]]
        earlier = turn * len(group) + int((shapes[:place] == shapes[place]).sum())  # batches of this shape
        first = earlier * self.batch + start - number * self.batch
        pictures: NDArray[np.int64] = group[draws.picture_indices(self.seed, first, first + stop - start, len(group))]
        return pictures

    def _shapes_of_round(self, turn: int) -> NDArray[np.int64]:
        """The group of each batch of a round.  A group's come at equal distances from a random one on; the first is of the largest shape,
        so that what needs memory needs it at once.
        """
        offsets = draws.uniform(self.seed, "shape", turn * len(self.groups) + np.arange(len(self.groups)))
        offsets[0] = 0.0
        places = [(np.arange(len(group)) + offset) / len(group) for group, offset in zip(self.groups, offsets, strict=True)]
        numbers = np.repeat(np.arange(len(self.groups)), [len(group) for group in self.groups])
        spread: NDArray[np.int64] = numbers[np.argsort(np.concatenate(places), kind="stable")]
        return spread


def noise(seed: int, purpose: str, samples: NDArray[np.int64], shape: tuple[int, ...]) -> Tensor:
    """Standard normal, (B, *shape) float32, row k by the number of sample k."""
    return torch.from_numpy(draws.normal(seed, purpose, samples, shape))


def level_draws(seed: int, samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """u in (0, 1) for the noise level of each sample: a golden-ratio sequence from a random start.

    Any run of consecutive samples covers (0, 1) evenly, so the loss of a batch varies less than with independent draws,
    and each u is still a function of its sample number alone.
    """
    levels: NDArray[np.float64] = (draws.uniform(seed, "noise level", [0]) + samples * GOLDEN) % 1.0
    return levels.clip(1e-6, 1 - 1e-6)
