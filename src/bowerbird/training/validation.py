"""The held-out score: how well the averaged weights do on pictures they never saw, and which snapshot is best.

A run's objective gives several losses a picture (a denoiser's at eight noise levels, say).  Each is divided by its first
value of the run, because they differ by orders of magnitude and all should count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import nn

from bowerbird import draws
from bowerbird.recipe import Recipe
from bowerbird.training.objectives import Objective
from bowerbird.training.parallel import World

MOST, LEAST = 256, 32  # pictures; more would cost more than they tell, of fewer a score says nothing
SHARE = 0.1  # of a run's work at most goes into the two looks that every run takes, at its begin and at its end
BATCH = 64
RESAMPLES = 200
WORSE_LOOKS = 5  # in a row after which a tuning run stops; a single one may be chance, or a rate that is still high


class Best(BaseModel):
    """The best scores there were; part of every checkpoint, because they decide what the run's best model becomes.

    A later snapshot within the margin of these takes the title, but they stay: compared with one another, each a little worse
    than the last, snapshots would drift far from the best.
    """

    model_config = ConfigDict(frozen=True)
    first: tuple[float, ...] = ()  # mean of each loss at the first validation; the unit of the scores
    scores: tuple[float, ...] = ()  # one number a picture

    def with_(self, validation: Validation) -> Best:
        """The best of before and now."""
        lower = len(self.scores) != len(validation.scores) or validation.score < float(np.mean(self.scores))
        return Best(first=self.first or tuple(validation.losses), scores=tuple(validation.scores) if lower else self.scores)


@dataclass(frozen=True)
class Validation:
    """One validation: the mean score, each picture's score, the mean of each raw loss."""

    score: float
    scores: NDArray[np.float64]
    losses: NDArray[np.float64]


def looked_at(held: NDArray[np.int64], recipe: Recipe, terms: int) -> NDArray[np.int64]:
    """Those of the pictures `held` that each look of a run scores by `terms` losses: evenly chosen, fewer of them for a short run.

    Work is counted in passes through the network, so that it is the same on every machine: learning from a picture is about three.
    """
    affordable = max(LEAST, int(SHARE * 3 * recipe.train.pictures / (2 * terms)))
    return held[np.linspace(0, len(held) - 1, min(MOST, affordable, len(held))).astype(np.int64)]


@torch.inference_mode()
def validate(
    objective: Objective, model: nn.Module, held: NDArray[np.int64], first: tuple[float, ...], world: World, check: Callable[[], None]
) -> Validation | None:
    """Score `model` on each of the pictures `held`, shared between processes; None when there are none.

    `first`: the mean losses of the run's first validation, empty at that one; `check` is called between batches and may raise.
    """
    if not len(held):
        return None
    start, stop = world.share(0, len(held))
    parts = []
    for begin in range(start, stop, BATCH):
        check()
        parts.append(objective.held_out_losses(model, held[begin : min(begin + BATCH, stop)], begin).double().cpu().numpy())
    terms = objective.held_out_terms
    losses = world.all_gather(np.concatenate(parts) if parts else np.zeros((0, terms)), start, len(held))
    unit = np.array(first or losses.mean(0))
    scores = (losses / unit).mean(1)
    return Validation(float(scores.mean()), scores, losses.mean(0))


def takes_the_title(new: NDArray[np.float64], best: tuple[float, ...], seed: int) -> bool:
    """Whether the newest snapshot is as good as the `best` there was: within the 95 % bootstrap interval of the difference."""
    if len(best) != len(new):
        return True
    difference = new - np.array(best)
    rows = draws.generator(seed, "bootstrap", 0).integers(0, len(difference), (RESAMPLES, len(difference)))
    return float(np.quantile(difference[rows].mean(1), 0.025)) <= 0


def stops_itself(recipe: Recipe, lines: list[dict[str, Any]]) -> bool:
    """Whether a tuning run has no more to gain: each of its last WORSE_LOOKS looks was worse than the best before it, beyond the margin.

    A function of the record's lines alone, so that a resumed run decides alike.  What a kill made it look at twice counts once.
    """
    titles = {line["seen"]: line.get("best") for line in lines if "held_out" in line}
    return bool(recipe.tune.model) and list(titles.values())[-WORSE_LOOKS:] == [False] * WORSE_LOOKS
