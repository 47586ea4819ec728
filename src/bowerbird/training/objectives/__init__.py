"""What a run learns.  The loop, the folder, the budget and the report are the same for all; here is where runs differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bowerbird.data.picture_set import Pictures
from bowerbird.locate import locate
from bowerbird.model_folder import About, Model
from bowerbird.pretrained import recognise
from bowerbird.progress import OnProgress
from bowerbird.recipe import Recipe
from bowerbird.training.adversary import Adversary
from bowerbird.training.batches import Batch
from bowerbird.training.grid import Grid
from bowerbird.training.parallel import World


class Objective(Protocol):
    """Draws, losses and pictures of one kind of run."""

    fingerprint: str  # of everything it learns from; a run goes on only with the same
    held_out_terms: int  # losses of a validation
    adversary: Adversary | None  # learns beside it to tell its pictures from true ones
    frozen: Sequence[nn.Module]  # networks of size that it is taught with, and that stay as they are

    def preparation_seconds(self, pictures: Pictures) -> float:
        """What it takes to make `pictures` ready before the first update, beyond reading them."""

    def new_model(self) -> nn.Module:
        """Freshly initialised, from the global random state."""

    def chosen(self, start: int, stop: int) -> NDArray[np.int64]:
        """Which pictures samples number start..stop-1 of the run, all of one update, are."""

    def draw(self, start: int, stop: int) -> Batch:
        """Samples number start..stop-1 of the run: a pure function of the recipe, the pictures and these numbers."""

    def losses(self, model: nn.Module, batch: Batch, rows: slice) -> Tensor:
        """The loss of each picture in `rows`, (rows,) float32."""

    def held_out_losses(self, model: nn.Module, chosen: NDArray[np.int64], first: int) -> Tensor:
        """(n, terms): how the model does on held-out pictures; `first` is the place of the first among all that it is validated on."""

    def grid(self, model: nn.Module, count: int, steps: int, check: Callable[[], None], world: World) -> Grid:
        """`count` pictures for people to look at, painted in `steps` where they are painted."""

    def model(self, network: nn.Module, about: About) -> Model:
        """What a folder holds of a network that learnt here."""


def choose_objective(
    recipe: Recipe, pictures: Pictures, device: torch.device, precision: str, on_progress: OnProgress | None = None
) -> Objective:
    """The one that the recipe's network is for."""
    from bowerbird.training.objectives.adapting import Adapting
    from bowerbird.training.objectives.autoencoding import Autoencoding
    from bowerbird.training.objectives.denoising import Denoising
    from bowerbird.training.objectives.enlarging import Enlarging
    from bowerbird.training.objectives.upscaling import Upscaling

    if recipe.model.network == "lora":
        found = recognise(locate(recipe.tune.model).path)
        kind = Enlarging if found is not None and found.family.kind == "upscale" else Adapting
        return kind(recipe, pictures, device, precision, on_progress)
    if recipe.model.network == "autoencoder":
        return Autoencoding(recipe, pictures, device, precision)
    if recipe.model.network == "upscaler":
        return Upscaling(recipe, pictures, device, precision)
    return Denoising(recipe, pictures, device, precision, on_progress)
