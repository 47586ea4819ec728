"""Learning to reconstruct pictures from few numbers: how an autoencoder is trained.

The loss is absolute error at full, half and quarter resolution, the distance between the features of an ImageNet network
(EfficientNet-Lite0; the judge's network is never used in a loss), the pull of the latents towards a standard normal, and,
where the recipe says so, that of an adversary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from bowerbird import draws, hardware
from bowerbird.data.picture_set import Pictures
from bowerbird.model_folder import About, Model
from bowerbird.models.autoencoder import ConvAutoencoder, LatentSpace
from bowerbird.models.features import SECOND_OPINION, FeatureNetwork, load_network
from bowerbird.pages import contact_sheet, png_bytes
from bowerbird.pixels import to_pixels
from bowerbird.recipe import Recipe
from bowerbird.training.adversary import Adversary
from bowerbird.training.base import base_model
from bowerbird.training.batches import Batch, PixelSamples, chosen_pictures, noise
from bowerbird.training.build import build_autoencoder
from bowerbird.training.grid import Grid
from bowerbird.training.parallel import World

SCALES = (1, 2, 4)


@dataclass(frozen=True)
class NoisyBatch(Batch):
    """noise: (B,) how much each picture's latents get."""

    noise: Tensor


class Autoencoding:
    """An autoencoder that reconstructs pictures from noisy latents."""

    def __init__(self, recipe: Recipe, pictures: Pictures, device: torch.device, precision: str) -> None:
        self.recipe, self.pictures, self.device, self.precision = recipe, pictures, device, precision
        self.frozen: Sequence[nn.Module] = ()
        self.samples = PixelSamples(pictures, recipe)
        self.base, self.fingerprint = base_model(recipe, pictures)
        side = recipe.data.size // recipe.autoencoder.factor
        self.latent_shape = (recipe.autoencoder.channels, side, side)
        self.perceptual = own_network(SECOND_OPINION, device) if recipe.autoencoder.perceptual else None
        self.held_out_terms = 1 if self.perceptual is None else 2
        share = recipe.autoencoder.adversary
        self.adversary = Adversary(share, recipe.data.seed, device, precision) if share else None

    def preparation_seconds(self, pictures: Pictures) -> float:
        return 0.0

    def new_model(self) -> ConvAutoencoder:
        if self.base is None:
            return build_autoencoder(self.recipe)
        assert isinstance(self.base.network, ConvAutoencoder), "a recipe for one comes from one"
        return self.base.network.requires_grad_(True)

    def chosen(self, start: int, stop: int) -> NDArray[np.int64]:
        return chosen_pictures(self.pictures, self.recipe.data.seed, start, stop)

    def draw(self, start: int, stop: int) -> NoisyBatch:
        seed, samples = self.recipe.data.seed, np.arange(start, stop)
        chosen = self.chosen(start, stop)
        x0, eps = self.samples.drawn(chosen, samples), noise(seed, "latent noise", samples, self.latent_shape)
        amount = torch.from_numpy(self.recipe.autoencoder.noise * draws.uniform(seed, "amount of latent noise", samples)).float()
        return NoisyBatch(start, chosen, x0.to(self.device), eps.to(self.device), amount.to(self.device))

    def losses(self, model: nn.Module, batch: Batch, rows: slice) -> Tensor:
        assert isinstance(batch, NoisyBatch)
        x0, amount = batch.x0[rows], batch.noise[rows] if self.recipe.autoencoder.noise else None
        with hardware.autocast(self.device, self.precision):
            reconstructed, mean, log_variance = model(x0, batch.eps[rows], amount)
        reconstructed, kl = reconstructed.float(), self.recipe.autoencoder.kl * kl_to_normal(mean.float(), log_variance.float())

        def error(seen: Tensor) -> Tensor:
            return pixel_error(seen, x0) + self._perceptual_loss(seen, x0)

        return (error(reconstructed) if self.adversary is None else self.adversary.losses(reconstructed, x0, error)) + kl

    def held_out_losses(self, model: nn.Module, chosen: NDArray[np.int64], first: int) -> Tensor:
        """From the mean of the latents: error of the pixels, and distance of the features."""
        assert isinstance(model, ConvAutoencoder)
        x0 = self.samples.plain(chosen).to(self.device)
        reconstructed = self._reconstructed(model, x0)
        terms = [pixel_error(reconstructed, x0)]
        if self.perceptual is not None:
            terms.append(self._perceptual_loss(reconstructed, x0))
        return torch.stack(terms, dim=1)

    def grid(self, model: nn.Module, count: int, steps: int, check: Callable[[], None], world: World) -> Grid:
        """Pictures beside their reconstructions; held-out ones where there are any."""
        assert isinstance(model, ConvAutoencoder)
        shown = (self.pictures.held if len(self.pictures.held) else self.pictures.train)[: max(1, count // 2)]
        first, last = world.share(0, len(shown))
        side = self.recipe.data.size
        reconstructed = np.zeros((0, side, side, 3))
        if last > first:
            check()
            reconstructed = to_pixels(self._reconstructed(model, self.samples.plain(shown[first:last]).to(self.device))).astype(np.float64)
        reconstructed = world.all_gather(reconstructed, first, len(shown)).astype(np.uint8)
        pairs = [Image.fromarray(each) for pair in zip(self.pictures.pixels[shown], reconstructed, strict=True) for each in pair]
        return Grid(png_bytes(contact_sheet(pairs, columns=2 * max(1, round((len(shown) / 2) ** 0.5)))))

    def model(self, network: nn.Module, about: About) -> Model:
        assert isinstance(network, ConvAutoencoder)
        return Model(None, LatentSpace(network), about=about)

    @torch.inference_mode()
    def _reconstructed(self, model: ConvAutoencoder, x0: Tensor) -> Tensor:
        return model.decode(model.encode(x0)[0])

    def _perceptual_loss(self, reconstructed: Tensor, x0: Tensor) -> Tensor:
        """Weighted distance of the features, (B,); what it compares with needs no gradient."""
        if self.perceptual is None:
            return torch.zeros(len(x0), device=self.device)
        # its convolutions of single channels are 1.8 times slower in bf16 than in float32 on a CPU
        with hardware.autocast(self.device, self.precision if self.device.type == "cuda" else "fp32"):
            with torch.no_grad():
                wanted = self.perceptual.maps(x0)
            return self.recipe.autoencoder.perceptual * feature_distance(self.perceptual.maps(reconstructed), wanted)


def own_network(name: str, device: torch.device) -> FeatureNetwork:
    """A feature network laid out for speed, which the judge's, whose figures are recorded, is not."""
    network = copy.deepcopy(load_network(name, str(device)))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def pixel_error(reconstructed: Tensor, x0: Tensor) -> Tensor:
    """Mean absolute error over full, half and quarter resolution, (B,): colours of areas count beside edges."""
    difference = reconstructed - x0
    errors = [F.avg_pool2d(difference, scale).abs().flatten(1).mean(1) for scale in SCALES]
    return torch.stack(errors).mean(0)


def feature_distance(found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Mean over stages and places of the squared distance between feature vectors of length 1, (B,).

    As LPIPS without its learnt weights (Zhang et al. 2018, arXiv:1801.03924).
    """
    pairs = zip(found, wanted, strict=True)
    distances = [(F.normalize(f, dim=1) - F.normalize(w, dim=1)).square().sum(1).flatten(1).mean(1) for f, w in pairs]
    return torch.stack(distances).mean(0)


def kl_to_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(mean, variance) from N(0, 1), mean over latents, in nats, (B,)."""
    return (0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)).flatten(1).mean(1)
