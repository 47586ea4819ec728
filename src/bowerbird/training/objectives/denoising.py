"""Learning to remove noise: what every rung of the ladder but the autoencoder trains on, in pixels or in latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bowerbird import hardware
from bowerbird.conditions import dropped, learnt_conditions
from bowerbird.conditions.label import Label
from bowerbird.data.picture_set import Pictures
from bowerbird.diffusion.loss import WEIGHTINGS, denoising_loss, normalised
from bowerbird.diffusion.prediction import add_noise
from bowerbird.errors import RecipeError
from bowerbird.generate import open_autoencoder
from bowerbird.model_folder import About, Model, SamplingDefaults
from bowerbird.models.autoencoder import LatentSpace, Rgb
from bowerbird.models.conditioning import Cond, to
from bowerbird.models.conditioning import rows as rows_of
from bowerbird.models.denoiser import Denoiser
from bowerbird.painter import OwnPainter
from bowerbird.progress import OnProgress
from bowerbird.recipe import Recipe
from bowerbird.request import PaintRequest
from bowerbird.training.adversary import Adversary
from bowerbird.training.base import base_model
from bowerbird.training.batches import Batch, PixelSamples, Samples, chosen_pictures, level_draws, noise
from bowerbird.training.build import build_denoiser, levels_of, sigma_data_of
from bowerbird.training.grid import Grid, painted_grid
from bowerbird.training.latents import LatentSamples, LatentStore
from bowerbird.training.masks import Masks
from bowerbird.training.parallel import World

HELD_OUT_LEVELS = 8  # fixed noise levels of the held-out look, evenly spread over those of training


@dataclass(frozen=True)
class NoisyBatch(Batch):
    """sigma: (B,) float32, the noise of x0 + sigma * eps; mask: (B, 1, H, W), how much each place counts, where not all count alike."""

    sigma: Tensor
    cond: Cond
    mask: Tensor | None = None


class Denoising:
    """The mean square error of the clean picture, weighted by noise level."""

    held_out_terms = HELD_OUT_LEVELS
    adversary: Adversary | None = None
    frozen: Sequence[nn.Module] = ()
    masks: Masks | None = None

    def __init__(
        self, recipe: Recipe, pictures: Pictures, device: torch.device, precision: str, on_progress: OnProgress | None = None
    ) -> None:
        self.recipe, self.pictures, self.device, self.precision = recipe, pictures, device, precision
        self.levels = levels_of(recipe)
        self.weight = normalised(WEIGHTINGS[recipe.diffusion.weighting], self.levels, sigma_data_of(recipe))
        self.samples: Samples
        self.base, self.fingerprint = base_model(recipe, pictures)
        if recipe.model.autoencoder == "rgb":
            self.space, self.samples = LatentSpace(Rgb()), PixelSamples(pictures, recipe)
        else:
            own = self.base.space if self.base else None  # its scale is part of what it learnt
            autoencoder = own.autoencoder.to(device) if own else open_autoencoder(recipe.model.autoencoder, device)
            store = LatentStore(recipe, autoencoder, device)
            self.samples = LatentSamples(store, pictures, on_progress, own.scale if own else None)
            self.space, self.fingerprint = self.samples.space, f"{self.fingerprint} in {store.key}"
        self.conditions = learnt_conditions(recipe, pictures, device, on_progress, self.base.conditions if self.base else None)

    def preparation_seconds(self, pictures: Pictures) -> float:
        return self.samples.preparation_seconds(pictures) + sum(each.seconds(pictures, self.device) for each in self.conditions.values())

    def new_model(self) -> Denoiser:
        if self.base is None:
            return build_denoiser(self.recipe, self.samples.shape, self.conditions)
        assert self.base.denoiser is not None, "a recipe for painters comes from a painter"
        shape = self.base.denoiser.spec.sample_shape
        if shape != self.samples.shape:
            size = self.recipe.data.size * shape[-1] // self.samples.shape[-1]
            raise RecipeError(f"a model is tuned at the size it paints: leave data.size out, or set it to {size}.")
        return self.base.denoiser.requires_grad_(True)

    def chosen(self, start: int, stop: int) -> NDArray[np.int64]:
        return chosen_pictures(self.pictures, self.recipe.data.seed, start, stop)

    def draw(self, start: int, stop: int) -> NoisyBatch:
        samples = np.arange(start, stop)
        chosen = self.chosen(start, stop)
        cond = self._cond(chosen, samples, drop=True)
        return self._noisy(start, chosen, samples, self.samples.drawn(chosen, samples), cond, self.masks)

    def _noisy(
        self, first: int, chosen: NDArray[np.int64], samples: NDArray[np.int64], x0: Tensor, cond: Cond, masks: Masks | None
    ) -> NoisyBatch:
        """x0 with the noise that belongs to samples number `samples`."""
        seed = self.recipe.data.seed
        return NoisyBatch(
            first=first,
            pictures=chosen,
            x0=x0.to(self.device),
            eps=noise(seed, "noise", samples, tuple(x0.shape[1:])).to(self.device),
            sigma=self.levels(torch.from_numpy(level_draws(seed, samples))).float().to(self.device),
            cond=cond,
            mask=None if masks is None else masks.drawn(chosen, samples).to(self.device),
        )

    def losses(self, model: nn.Module, batch: Batch, rows: slice) -> Tensor:
        assert isinstance(batch, NoisyBatch)
        x0, sigma = batch.x0[rows], batch.sigma[rows]
        with hardware.autocast(self.device, self.precision):
            model_x0 = model(add_noise(x0, batch.eps[rows], sigma), sigma, rows_of(batch.cond, rows))
        return denoising_loss(model_x0, x0, self.weight(sigma), None if batch.mask is None else batch.mask[rows])

    def held_out_losses(self, model: nn.Module, chosen: NDArray[np.int64], first: int) -> Tensor:
        """The error at fixed levels with fixed noise, so that two snapshots differ by their weights alone."""
        return self._errors(model, chosen, np.arange(first, first + len(chosen)))

    def _errors(self, model: nn.Module, chosen: NDArray[np.int64], places: NDArray[np.int64]) -> Tensor:
        """(n, levels), of the chosen pictures with the noise that belongs to their places."""
        sigmas = self.levels((torch.arange(HELD_OUT_LEVELS, dtype=torch.float64) + 0.5) / HELD_OUT_LEVELS).float()
        x0 = self.samples.plain(chosen).to(self.device)
        eps = noise(self.recipe.data.seed, "held-out noise", places, tuple(x0.shape[1:])).to(self.device)
        cond = self._cond(chosen, places, drop=False)
        mask, alike = None if self.masks is None else self.masks.plain(chosen).to(self.device), torch.ones(len(x0), device=self.device)
        terms = []
        for sigma in sigmas:
            level = sigma.expand(len(x0)).to(self.device)
            with hardware.autocast(self.device, self.precision):
                model_x0 = model(add_noise(x0, eps, level), level, cond)
            terms.append(denoising_loss(model_x0, x0, alike, mask))
        return torch.stack(terms, dim=1)

    def grid(self, model: nn.Module, count: int, steps: int, check: Callable[[], None], world: World) -> Grid:
        """From noise that is the same at every snapshot, one label after the other where there are labels."""
        assert isinstance(model, Denoiser)
        painter = OwnPainter("this run", self.model(model, About()), self.precision)

        def on_progress(event: Any) -> None:
            check()

        label = self.conditions.get("label")
        known = [name for name in self.pictures.label_names if isinstance(label, Label) and name in label.names]
        labels: list[str | None] = [*known[:count]] or [None]
        each = -(-count // len(labels))
        wanted = [(label, self.recipe.data.seed + number) for label in labels for number in range(each)][:count]
        first, last = world.share(0, count)
        side = self.recipe.data.size
        painted: list[Any] = [np.zeros((0, side, side, 3))]
        for label, group in groupby(wanted[first:last], key=lambda one: one[0]):
            seeds = [number for _, number in group]
            request = PaintRequest(model=painter.name, label=label, seed=seeds[0], count=len(seeds), steps=steps)
            painted += [np.asarray(each.picture, dtype=np.float64)[None] for each in painter.paint(request, on_progress)]
        pixels = world.all_gather(np.concatenate(painted), first, count).astype(np.uint8)
        return painted_grid(pixels)

    def model(self, network: nn.Module, about: About) -> Model:
        assert isinstance(network, Denoiser)
        sample = self.recipe.sample
        sampling = SamplingDefaults(sampler=sample.sampler, steps=sample.steps, guidance=sample.guidance)
        return Model(network, self.space, self.conditions, sampling, about)

    def _cond(self, chosen: NDArray[np.int64], samples: NDArray[np.int64], drop: bool) -> Cond:
        """What the conditions say of the chosen pictures as samples number `samples`; each dropped by itself, as the recipe says."""
        seed, cond = self.recipe.data.seed, dict[str, Tensor]()
        for name, condition in self.conditions.items():
            share = self.recipe.condition.drop(name) if drop else 0.0
            cond |= condition.shown(chosen, samples, seed, dropped(seed, name, samples, share))
        return to(cond, self.device)
