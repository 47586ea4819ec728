"""Learning to enlarge: an upscaler sees shrunk and worn crops of the pictures, and should give back the crops.

The loss is that of an autoencoder's reconstructions: absolute error at three resolutions, and the distance between the features
of an ImageNet network (EfficientNet-Lite0; never the judge's); and, where the recipe says so, that of an adversary.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor, nn

from bowerbird import draws, hardware
from bowerbird.data.augment import flip
from bowerbird.data.picture_set import Pictures
from bowerbird.model_folder import About, Model
from bowerbird.models.features import SECOND_OPINION, load_network
from bowerbird.models.upscaler import Upscaler
from bowerbird.pages import contact_sheet, png_bytes
from bowerbird.pixels import Pixels, to_pixels, to_x0
from bowerbird.recipe import Recipe
from bowerbird.training.adversary import Adversary
from bowerbird.training.base import base_model
from bowerbird.training.batches import Batch, chosen_pictures, noise
from bowerbird.training.build import build_upscaler
from bowerbird.training.grid import Grid
from bowerbird.training.objectives.autoencoding import feature_distance, pixel_error
from bowerbird.training.parallel import World

FILTERS = (Image.Resampling.BICUBIC, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BILINEAR, Image.Resampling.BOX)
BLUR_PX = 0.8  # most, as a standard deviation in pixels of the small picture
JPEG_QUALITY = (40, 96)


@dataclass(frozen=True)
class WornBatch(Batch):
    """x0: (B, 3, H, W) crops; low: (B, 3, H/f, W/f) the same, shrunk and worn; noise: (B,) standard deviation of the noise in it."""

    low: Tensor
    noise: Tensor


class Upscaling:
    """A network that enlarges in one step."""

    frozen: Sequence[nn.Module] = ()

    def __init__(self, recipe: Recipe, pictures: Pictures, device: torch.device, precision: str) -> None:
        self.recipe, self.pictures, self.device, self.precision = recipe, pictures, device, precision
        self.settings = recipe.upscaler
        self.base, self.fingerprint = base_model(recipe, pictures)
        self.perceptual = load_network(SECOND_OPINION, str(device)) if self.settings.perceptual else None
        self.held_out_terms = 1 if self.perceptual is None else 2
        share = self.settings.adversary
        self.adversary = Adversary(share, recipe.data.seed, device, precision) if share else None

    def preparation_seconds(self, pictures: Pictures) -> float:
        return 0.0

    def new_model(self) -> Upscaler:
        if self.base is None:
            return build_upscaler(self.recipe)
        assert isinstance(self.base.network, Upscaler), "a recipe for one comes from one"
        return self.base.network.requires_grad_(True)

    def chosen(self, start: int, stop: int) -> NDArray[np.int64]:
        return chosen_pictures(self.pictures, self.recipe.data.seed, start, stop)

    def draw(self, start: int, stop: int) -> WornBatch:
        seed, samples = self.recipe.data.seed, np.arange(start, stop)
        chosen = self.chosen(start, stop)
        crops = np.stack([self._crop(int(picture), int(sample)) for picture, sample in zip(chosen, samples, strict=True)])
        if self.recipe.data.flip:
            crops = flip(crops, seed, samples)
        side = self.settings.crop // self.settings.factor
        worn = [wear(crop, side, self.settings.worn, draws.generator(seed, "wear", int(k))) for crop, k in zip(crops, samples, strict=True)]
        # noise is in half of the samples, of any amount up to the recipe's
        amount = torch.from_numpy(self.settings.noise * (2 * draws.uniform(seed, "amount of noise", samples) - 1).clip(0)).float()
        eps = noise(seed, "noise", samples, (3, side, side))
        low = to_x0(np.stack(worn)) + amount.view(-1, 1, 1, 1) * eps
        return WornBatch(start, chosen, *(each.to(self.device) for each in (to_x0(crops), eps, low, amount)))

    def _crop(self, picture: int, sample: int) -> Pixels:
        """A square of the picture, at places of whole small pixels."""
        pixels, side, factor = self.pictures.pixels[picture], self.settings.crop, self.settings.factor
        places = (self.recipe.data.size - side) // factor + 1
        top, left = factor * draws.generator(self.recipe.data.seed, "crop", sample).integers(places, size=2)
        crop: Pixels = pixels[top : top + side, left : left + side]
        return crop

    def losses(self, model: nn.Module, batch: Batch, rows: slice) -> Tensor:
        assert isinstance(batch, WornBatch)
        x0 = batch.x0[rows]
        with hardware.autocast(self.device, self.precision):
            found = model(batch.low[rows], batch.noise[rows])
        found = found.float()

        def error(seen: Tensor) -> Tensor:
            return pixel_error(seen, x0) + self._perceptual_loss(seen, x0)

        return error(found) if self.adversary is None else self.adversary.losses(found, x0, error)

    def held_out_losses(self, model: nn.Module, chosen: NDArray[np.int64], first: int) -> Tensor:
        """Of whole pictures, shrunk and not worn: error of the pixels, and distance of the features."""
        pixels = self.pictures.pixels[chosen]
        x0, found = to_x0(pixels).to(self.device), self._enlarged(model, pixels)
        terms = [pixel_error(found, x0)]
        if self.perceptual is not None:
            terms.append(self._perceptual_loss(found, x0))
        return torch.stack(terms, dim=1)

    def grid(self, model: nn.Module, count: int, steps: int, check: Callable[[], None], world: World) -> Grid:
        """Small pictures, enlarged by plain scaling and by the network; held-out ones where there are any."""
        shown = (self.pictures.held if len(self.pictures.held) else self.pictures.train)[: max(1, count // 2)]
        first, last = world.share(0, len(shown))
        side = self.recipe.data.size
        enlarged = np.zeros((0, side, side, 3))
        if last > first:
            check()
            enlarged = to_pixels(self._enlarged(model, self.pictures.pixels[shown[first:last]])).astype(np.float64)
        enlarged = world.all_gather(enlarged, first, len(shown)).astype(np.uint8)
        pairs = []
        for pixels, found in zip(self.pictures.pixels[shown], enlarged, strict=True):
            low = Image.fromarray(small(pixels, side // self.settings.factor))
            pairs += [low.resize((side, side), Image.Resampling.BICUBIC), Image.fromarray(found)]
        return Grid(png_bytes(contact_sheet(pairs, columns=2 * max(1, round((len(shown) / 2) ** 0.5)))))

    def model(self, network: nn.Module, about: About) -> Model:
        assert isinstance(network, Upscaler)
        return Model(None, about=about, upscaler=network)

    @torch.inference_mode()
    def _enlarged(self, model: nn.Module, pixels: Pixels) -> Tensor:
        """What the network makes of (N, H, W, 3), shrunk: (N, 3, H, W)."""
        side = self.recipe.data.size // self.settings.factor
        low = to_x0(np.stack([small(each, side) for each in pixels])).to(self.device)
        noise = torch.zeros(len(low), device=self.device)
        parts = [model(low[first : first + 8], noise[first : first + 8]).clamp(-1, 1) for first in range(0, len(low), 8)]
        return torch.cat(parts)

    def _perceptual_loss(self, found: Tensor, x0: Tensor) -> Tensor:
        """Weighted distance of the features, (B,); what it compares with needs no gradient."""
        if self.perceptual is None:
            return torch.zeros(len(x0), device=self.device)
        # its convolutions of single channels are slower in bf16 than in float32 on a CPU
        with hardware.autocast(self.device, self.precision if self.device.type == "cuda" else "fp32"):
            with torch.no_grad():
                wanted = self.perceptual.maps(x0)
            return self.settings.perceptual * feature_distance(self.perceptual.maps(found), wanted)


def small(pixels: Pixels, side: int) -> Pixels:
    """(H, W, 3) -> (side, side, 3), antialiased."""
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def wear(crop: Pixels, side: int, share: float, rng: np.random.Generator) -> Pixels:
    """The crop at `side` pixels: most often shrunk as pictures are for training, and in a `share` of cases worn.

    Worn ones are blurred, shrunk by any filter and compressed, each by as much as chance has it (after Real-ESRGAN's first
    order; arXiv:2107.10833, section 3.2): phones and the web do that.
    """
    worn, how = rng.random(2) < (share, 0.5)
    resample, blur, quality = FILTERS[rng.integers(len(FILTERS))], BLUR_PX * rng.random(), int(rng.integers(*JPEG_QUALITY))
    if not worn:
        return small(crop, side)
    picture = Image.fromarray(crop).filter(ImageFilter.GaussianBlur(blur * len(crop) / side)).resize((side, side), resample)
    if how:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        picture = Image.open(buffer)
    return np.asarray(picture)
