"""A LoRA for Stable Diffusion's x4 upscaler, or all of its U-Net: the denoising loss, told the small picture.

The small picture is given as the network was taught it: shrunk to the size of the latents, noised by a level of its own, which the
network is told as a class (diffusers' StableDiffusionUpscalePipeline).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from bowerbird import draws
from bowerbird.captioning import OWN, Captions
from bowerbird.data.picture_set import Pictures
from bowerbird.diffusion.guidance import guide
from bowerbird.diffusion.samplers import SAMPLERS
from bowerbird.diffusion.schedule import karras_grid
from bowerbird.errors import PictureFolderError, RecipeError
from bowerbird.models.conditioning import Cond, to
from bowerbird.models.denoiser import Betas, Denoiser
from bowerbird.pages import contact_sheet, png_bytes
from bowerbird.painter import PictureNoise
from bowerbird.pixels import to_pixels, to_x0
from bowerbird.pretrained.plan import UPSCALE_NOISE_LEVEL
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.recipe import Recipe
from bowerbird.training.batches import noise
from bowerbird.training.grid import Grid
from bowerbird.training.latents import LatentSamples
from bowerbird.training.objectives.adapting import Adapting, betas_of
from bowerbird.training.parallel import World

MAX_NOISE_LEVEL = 350  # of 1000: what the x4 upscaler was taught to, and what its pipeline lets through
_AT_ONCE = 64


class Enlarging(Adapting):
    """As for what paints, with the small picture beside the words."""

    task = "upscale"
    betas = Betas(kind="scaled-linear", start=1e-4, end=0.02)

    def __init__(
        self, recipe: Recipe, pictures: Pictures, device: torch.device, precision: str, on_progress: OnProgress | None = None
    ) -> None:
        if recipe.lora.prior:
            raise RecipeError("lora.prior keeps what a model paints of a class, and an upscaler enlarges what it is shown. Leave it out.")
        super().__init__(recipe, pictures, device, precision, on_progress)
        schedule = betas_of(self.schedulers["low_res_scheduler"], self.betas).schedule()
        self.small = SmallPictures(pictures, self.latents, schedule.sigmas.float(), on_progress)

    def grid(self, model: nn.Module, count: int, steps: int, check: Callable[[], None], world: World) -> Grid:
        """Small pictures, enlarged by plain scaling and by the network; held-out ones where there are any."""
        assert isinstance(model, Denoiser)
        sample, sigmas = self.recipe.sample, karras_grid(steps, model.spec.sigma_min, model.spec.sigma_max)
        shown = (self.pictures.held if len(self.pictures.held) else self.pictures.train)[: max(1, count // 2)]
        pairs: list[Image.Image] = []
        with torch.inference_mode():
            for picture in shown:
                one = np.array([picture])
                wanted = self._cond(one, one, drop=False)
                unwanted = {**wanted, **to(self.words([""]), self.device)}
                noised = PictureNoise([self.recipe.data.seed + int(picture)])
                x = model.start(noised(torch.empty(1, 4, *wanted["small"].shape[2:], device=self.device)), float(sigmas[0]))
                x0 = SAMPLERS[sample.sampler](guide(model, wanted, unwanted, sample.guidance), x, sigmas, noised, lambda *_: check())
                large = Image.fromarray(to_pixels(self.space.decode(x0))[0])
                plain = Image.fromarray(self.small.pixels[int(picture)]).resize(large.size, Image.Resampling.BICUBIC)
                pairs += [plain, large]
        world.wait()
        return Grid(png_bytes(contact_sheet(pairs, columns=2 * max(1, round((len(shown) / 2) ** 0.5)))))

    def _captions(self) -> Captions:
        """An upscaler needs no words."""
        try:
            return super()._captions()
        except PictureFolderError:
            return Captions(((),) * len(self.pictures.pixels), OWN)

    def _cond(self, chosen: NDArray[np.int64], samples: NDArray[np.int64], drop: bool) -> Cond:
        small = self.small.drawn(chosen, samples) if drop else self.small.plain(chosen)
        return {**super()._cond(chosen, samples, drop), **to(small, self.device)}


class SmallPictures:
    """The pictures as small as their latents, in memory, and noised as the network is shown them."""

    def __init__(self, pictures: Pictures, latents: LatentSamples, sigmas: Tensor, on_progress: OnProgress | None = None) -> None:
        """sigmas: of each level of their noise."""
        self.latents, self.sigmas, self.seed = latents, sigmas, latents.store.recipe.data.seed
        self.pixels: dict[int, NDArray[np.uint8]] = {}
        used = np.concatenate([pictures.train, pictures.held])
        for shape in np.unique(latents.shapes[used], axis=0):
            alike, size = used[(latents.shapes[used] == shape).all(1)].tolist(), tuple((shape // latents.store.autoencoder.factor).tolist())
            for start in range(0, len(alike), _AT_ONCE):
                tell(on_progress, Progress("read", start, len(alike)))
                some = alike[start : start + _AT_ONCE]
                for index, large in zip(some, latents.store.pixels(pictures, some), strict=True):
                    self.pixels[index] = np.asarray(Image.fromarray(large).resize(size, Image.Resampling.BICUBIC))

    def drawn(self, chosen: NDArray[np.int64], samples: NDArray[np.int64]) -> Cond:
        """small: (B, 3, h, w), mirrored or not, with noise of any level the network knows; level: (B,)."""
        small, mirrored = self._plain(chosen), torch.from_numpy(self.latents.mirrored(chosen, samples)).view(-1, 1, 1, 1)
        level = (draws.uniform(self.seed, "level of the small picture", samples) * MAX_NOISE_LEVEL).astype(np.int64)
        return self._noised(torch.where(mirrored, small.flip(-1), small), torch.from_numpy(level), "noise of the small picture", samples)

    def plain(self, chosen: NDArray[np.int64]) -> Cond:
        """As they are, with the little noise that painting adds."""
        level = torch.full((len(chosen),), UPSCALE_NOISE_LEVEL)
        return self._noised(self._plain(chosen), level, "held-out noise of the small picture", chosen)

    def _plain(self, chosen: NDArray[np.int64]) -> Tensor:
        return to_x0(np.stack([self.pixels[index] for index in chosen.tolist()]))

    def _noised(self, small: Tensor, level: Tensor, purpose: str, samples: NDArray[np.int64]) -> Cond:
        """Variance-preserving: (x0 + sigma eps) / sqrt(1 + sigma^2)."""
        sigma = self.sigmas[level].view(-1, 1, 1, 1)
        return {
            "small": (small + sigma * noise(self.seed, purpose, samples, tuple(small.shape[1:]))) * (1 + sigma**2).rsqrt(),
            "level": level,
        }
