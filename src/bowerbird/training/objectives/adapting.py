"""A LoRA for Stable Diffusion 1.x, 2.x and XL: the denoising loss on low-rank matrices beside a U-Net of another project.

Latents are made once and kept; so are the text encoders' answers, where those do not learn, and the encoders are then let go.
Pictures of the class that is to stay as it was (prior preservation, DreamBooth, arXiv:2208.12242) are learnt beside the others,
one for each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bowerbird import hardware
from bowerbird.captioning import OWN, Captions, captions_of
from bowerbird.conditions import dropped
from bowerbird.data.decode import SHAPE_STEP, Fit, frame, window
from bowerbird.data.picture_set import Pictures
from bowerbird.data.pictures import open_pictures
from bowerbird.diffusion.guidance import guide
from bowerbird.diffusion.loss import WEIGHTINGS, normalised
from bowerbird.diffusion.samplers import SAMPLERS
from bowerbird.diffusion.schedule import karras_grid, uniform_t
from bowerbird.errors import ModelError, PictureFolderError, RecipeError, ResourceError
from bowerbird.locate import locate
from bowerbird.model_folder import About, Model
from bowerbird.models.autoencoder import Scale
from bowerbird.models.conditioning import Cond, to
from bowerbird.models.denoiser import Betas, Denoiser, DenoiserSpec
from bowerbird.painter import PictureNoise
from bowerbird.pixels import to_pixels
from bowerbird.pretrained import recognise
from bowerbird.pretrained.adapters import AdaptedUNet, adapted, lora_file, lora_metadata
from bowerbird.pretrained.autoencoders import PretrainedAutoencoder
from bowerbird.pretrained.loading import count_unet_weights, load_parts, weights_sha256
from bowerbird.pretrained.pipelines import folder_files
from bowerbird.pretrained.plan import Task
from bowerbird.pretrained.unets import WholeUNet
from bowerbird.pretrained.words import Words, encoders_of, is_common
from bowerbird.progress import OnProgress, note
from bowerbird.recipe import Recipe
from bowerbird.training.batches import Batch, OneShapeABatch
from bowerbird.training.grid import Grid, painted_grid
from bowerbird.training.latents import LatentSamples, LatentStore
from bowerbird.training.masks import Masks
from bowerbird.training.objectives.denoising import Denoising, NoisyBatch
from bowerbird.training.parallel import World


@dataclass(frozen=True)
class Prior:
    """Pictures of a class that is to stay as it was, and their words."""

    pictures: Pictures
    samples: LatentSamples
    captions: Captions
    order: OneShapeABatch
    masks: Masks | None


@dataclass(frozen=True, kw_only=True)
class PairedBatch(NoisyBatch):
    """prior: as many pictures of the class, row k beside row k."""

    prior: NoisyBatch


class Adapting(Denoising):
    """Denoising, with what differs: where network, words and latents come from, and what is saved."""

    task: Task = "text"  # of diffusers' pipelines
    betas = Betas(kind="scaled-linear", start=0.00085, end=0.012)

    def __init__(
        self, recipe: Recipe, pictures: Pictures, device: torch.device, precision: str, on_progress: OnProgress | None = None
    ) -> None:
        self.recipe, self.pictures, self.device = recipe, pictures, device
        # a LoRA's matrices and all around the U-Net are float32, and the U-Net has one dtype throughout
        self.whole = recipe.lora.targets == "unet"
        self.precision = precision if self.whole else "fp32"
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        place = locate(recipe.tune.model)
        found = recognise(place.path)
        if place.what != "pretrained" or found is None or found.family.kind == "inpaint":
            raise ModelError(f"{recipe.tune.model!r} is no Stable Diffusion that paints or enlarges, so no LoRA can be made for it.")
        if self.whole:
            _require_memory_for_all(count_unet_weights(place.path), device, on_progress)
        self.place, self.found = place, found
        parts = load_parts(place.path, found, dtype, exact=("vae", "unet") if self.whole else ("vae",))
        self.unet = parts.networks["unet"].to(device)
        self.encoders = {name: encoder.to(device) for name, encoder in encoders_of(parts).items()} if recipe.lora.text_encoders else {}
        self.frozen = (*self.encoders.values(), *(() if self.whole else (self.unet,)))
        self.schedulers = parts.schedulers
        self.schedule = betas_of(parts.schedulers["scheduler"], self.betas).schedule()
        self.prediction = "eps" if parts.prediction == "epsilon" else "v"
        self.levels = uniform_t(self.schedule)
        self.weight = normalised(WEIGHTINGS[recipe.diffusion.weighting], self.levels, 1.0)
        autoencoder = PretrainedAutoencoder(parts.networks["vae"]).to(device)
        _check_size(recipe, self.unet, autoencoder.factor)
        store = LatentStore(recipe, autoencoder, device)
        self.samples = self.latents = LatentSamples(store, pictures, on_progress, autoencoder.published_scale())
        self.space = self.samples.space
        self.order = _in_batches(self.latents, pictures)
        self.masks = _masks(pictures, self.latents, on_progress)
        self.captions = self._captions()
        self.prior = _prior(recipe, pictures, store, autoencoder.published_scale(), on_progress)
        texts = (*self.captions.texts, *(self.prior.captions.texts if self.prior else ()))
        self.words = Words(parts, [text for several in texts for text in several], device, on_progress, encoded=not self.encoders)
        self.conditions = {}
        trigger = recipe.lora.trigger
        if trigger and is_common(trigger, parts.tokenizers):
            note(
                on_progress,
                f"{trigger!r} is a word the model knows, and what it paints for it will change; a rare one, such as sks, is free",
            )
        sha256, readers = weights_sha256(place.path), weights_sha256(place.path, list(encoders_of(parts)))
        self.fingerprint = f"{pictures.fingerprint} in {store.key} from {sha256[:16]} read by {readers[:16]}"
        if self.masks:
            self.fingerprint += f" masked by {self.masks.fingerprint[:16]}"
        if self.prior:
            self.fingerprint += f" beside {self.prior.pictures.fingerprint}"
            self.fingerprint += f" masked by {self.prior.masks.fingerprint[:16]}" if self.prior.masks else ""
        said = self.captions.first(pictures.train)
        shapes = Counter(map(tuple, self.latents.shapes[pictures.train].tolist()))
        self.metadata = lora_metadata(parts.family, recipe.tune.model, sha256, recipe.data.size, shapes, trigger, said)

    def new_model(self) -> Denoiser:
        own = self.recipe.lora
        if self.whole:
            network: nn.Module = WholeUNet(self.unet, own.recompute is True)
        else:
            network = adapted(self.unet, own.rank, own.alpha or own.rank, own.targets, own.recompute is True, self.encoders)
        spec = DenoiserSpec(
            prediction=self.prediction,
            time="timestep",
            betas=self.betas,
            sigma_min=self.schedule.sigma_min,
            sigma_max=self.schedule.sigma_max,
            sigma_data=1.0,
            sample_shape=self.samples.shape,
        )
        return Denoiser(network, spec)

    def chosen(self, start: int, stop: int) -> NDArray[np.int64]:
        return self.order(start, stop)

    def draw(self, start: int, stop: int) -> NoisyBatch:
        """With a prior, sample k has sample -1 - k of the class beside it: draws are keyed, and those numbers are free."""
        own = super().draw(start, stop)
        if self.prior is None:
            return own
        samples = -1 - np.arange(start, stop)
        chosen = self.prior.order(-stop, -start)[::-1].copy()
        cond = self._told(self.prior.pictures, self.prior.samples, self.prior.captions, chosen, samples, drop=True)
        x0 = self.prior.samples.drawn(chosen, samples)
        return PairedBatch(**vars(own), prior=self._noisy(start, chosen, samples, x0, cond, self.prior.masks))

    def losses(self, model: nn.Module, batch: Batch, rows: slice) -> Tensor:
        """With a prior, the loss of each picture and that of the one beside it, weighted."""
        own = super().losses(model, batch, rows)
        if not isinstance(batch, PairedBatch):
            return own
        return own + self.recipe.lora.prior_weight * super().losses(model, batch.prior, rows)

    def held_out_losses(self, model: nn.Module, chosen: NDArray[np.int64], first: int) -> Tensor:
        """Of pictures of one shape, as many at a time as a training step has: no more memory is needed than that takes."""
        size = self.recipe.train.micro_batch or self.recipe.train.batch
        found = torch.zeros(len(chosen), self.held_out_terms, device=self.device)
        shapes = self.latents.shapes[chosen]
        for shape in np.unique(shapes, axis=0):
            alike = np.flatnonzero((shapes == shape).all(1))
            for start in range(0, len(alike), size):
                rows = alike[start : start + size]
                found[torch.from_numpy(rows)] = self._errors(model, chosen[rows], first + rows)
        return found

    def grid(self, model: nn.Module, count: int, steps: int, check: Callable[[], None], world: World) -> Grid:
        """The first captions, from noise that is the same at every snapshot."""
        assert isinstance(model, Denoiser)
        sample, side = self.recipe.sample, self.recipe.data.size
        said = list(dict.fromkeys(self.captions.first(self.pictures.train))) or [""]
        first, last = world.share(0, count)
        painted = [np.zeros((0, side, side, 3), np.uint8)]
        sigmas = karras_grid(steps, model.spec.sigma_min, model.spec.sigma_max)
        with torch.inference_mode():
            for number in range(first, last):
                wanted, unwanted = (to(self.words([words]), self.device) for words in (said[number % len(said)], ""))
                noise = PictureNoise([self.recipe.data.seed + number])
                x = model.start(noise(torch.empty(1, *self.samples.shape, device=self.device)), float(sigmas[0]))
                denoise = guide(model, wanted, unwanted, sample.guidance)
                x0 = SAMPLERS[sample.sampler](denoise, x, sigmas, noise, lambda *_: check())
                painted.append(to_pixels(self.space.decode(x0)))
        pixels = world.all_gather(np.concatenate(painted).astype(np.float64), first, count).astype(np.uint8)
        return painted_grid(pixels)

    def model(self, network: nn.Module, about: About) -> Model:
        assert isinstance(network, Denoiser)
        if isinstance(network.network, AdaptedUNet):
            return Model(None, about=about, lora=lora_file(network.network, self.metadata))
        return Model(None, self.space, about=about, pipeline=partial(self._folder, network.network))

    def _folder(self, network: nn.Module) -> Iterator[tuple[str, bytes]]:
        """The base with this U-Net, whose other parts are read anew, because most of the time they are not in memory."""
        assert isinstance(network, WholeUNet)
        yield from folder_files(load_parts(self.place.path, self.found, torch.float32), network.unet, self.task)

    def _captions(self) -> Captions:
        """What each picture is learnt under: its captions with the trigger word before them, or that word alone."""
        pictures, trigger = self.pictures, self.recipe.lora.trigger
        if not trigger:
            try:
                return captions_of(pictures)
            except PictureFolderError as error:
                raise PictureFolderError(
                    f"{str(pictures.report['source'])!r} has neither captions nor class folders. Choose a rare word that is to stand for "
                    "these pictures: --trigger sks; or write captions: bowerbird caption."
                ) from error
        return Captions(tuple(tuple(f"{trigger}, {text}" for text in texts) or (trigger,) for texts in pictures.captions), OWN)

    def _cond(self, chosen: NDArray[np.int64], samples: NDArray[np.int64], drop: bool) -> Cond:
        return self._told(self.pictures, self.latents, self.captions, chosen, samples, drop)

    def _told(
        self,
        pictures: Pictures,
        latents: LatentSamples,
        captions: Captions,
        chosen: NDArray[np.int64],
        samples: NDArray[np.int64],
        drop: bool,
    ) -> Cond:
        """What the U-Net is told of the chosen pictures as samples number `samples`: their words, and XL their sizes."""
        seed = self.recipe.data.seed
        said = captions.drawn(seed, chosen, samples) if drop else captions.first(chosen)
        off = dropped(seed, "text", samples, self.recipe.condition.text_drop if drop else 0.0)
        cond = dict(self.words(["" if out else text for text, out in zip(said, off.tolist(), strict=True)]))
        if self.unet.config.addition_embed_type is not None:
            mirrored, fit = latents.mirrored(chosen, samples) & drop, self.recipe.data.fit
            told = [_sizes(pictures, latents, fit, *each) for each in zip(chosen.tolist(), mirrored.tolist(), strict=True)]
            cond["sizes"] = torch.tensor(told)
        return to(cond, self.device)


def _in_batches(latents: LatentSamples, pictures: Pictures) -> OneShapeABatch:
    train = latents.store.recipe.train
    return OneShapeABatch(pictures.train, latents.shapes[pictures.train], train.batch, latents.store.recipe.data.seed)


def _masks(pictures: Pictures, latents: LatentSamples, on_progress: OnProgress | None) -> Masks | None:
    return Masks(pictures, latents, on_progress) if pictures.masks else None


def _sizes(pictures: Pictures, latents: LatentSamples, fit: Fit, picture: int, mirrored: bool) -> list[float]:
    """What XL is told of a picture, in pixels (arXiv:2307.01952, section 2.2).

    Height and width as it came; top and left of what is shown, once it is scaled; height and width of that.
    """
    one, (wide, high) = pictures.examined[picture], latents.shapes[picture].tolist()
    if fit == "pad":
        return [one.height, one.width, 0, 0, high, wide]
    if fit == "box":
        left, top, side = window(one.width, one.height, pictures.boxes.get(pictures.paths[picture]))
        right = left + side
    else:
        left, top, right, _ = frame(one.width, one.height, (wide, high))
    scale = wide / (right - left)
    return [one.height, one.width, round(top * scale), round((one.width - right if mirrored else left) * scale), high, wide]


def _require_memory_for_all(count: int, device: torch.device, on_progress: OnProgress | None) -> None:
    """Says what so many weights take that all learn, in float32: themselves, their average, gradient and two moments.

    ResourceError where that is more than there is.
    """
    needed, free = 5 * 4 * count, hardware.available_memory_bytes(device)
    words = (
        f"all {count / 1e6:,.0f} M weights of the U-Net learn, which takes {needed / 1e9:.1f} GB of memory before the first picture, and "
    )
    if needed > free:
        raise ResourceError(f"{words}only {free / 1e9:.1f} GB are free. Make a LoRA instead: leave lora.targets out.")
    note(on_progress, f"{words}{free / 1e9:.1f} GB are free")


def betas_of(config: Mapping[str, Any], ours: Betas) -> Betas:
    """The noise schedule of a scheduler's config, which for all of the family is `ours`; ModelError else."""
    usual = {"beta_schedule": "scaled_linear", "beta_start": ours.start, "beta_end": ours.end, "num_train_timesteps": ours.num_steps}
    other = [name for name, value in usual.items() if config.get(name, value) != value]
    if other or config.get("rescale_betas_zero_snr"):
        name = (other or ["rescale_betas_zero_snr"])[0]
        raise ModelError(
            f"this model was trained on another noise schedule than Stable Diffusion's ({name} differs); no LoRA is made for it."
        )
    return ours


def _check_size(recipe: Recipe, unet: nn.Module, factor: int) -> None:
    """Each level of the U-Net halves the latents."""
    multiple = factor * 2 ** (len(unet.config.block_out_channels) - 1)  # type: ignore[union-attr,arg-type]
    size = recipe.data.size
    multiple = math.lcm(multiple, SHAPE_STEP) if recipe.data.fit == "shape" else multiple
    if size % multiple:
        nearest = max(multiple, round(size / multiple) * multiple)
        raise RecipeError(f"data.size = {size} is no multiple of {multiple}, as this model's pictures are. The nearest is {nearest}.")


def _prior(recipe: Recipe, pictures: Pictures, store: LatentStore, scale: Scale | None, on_progress: OnProgress | None) -> Prior | None:
    """What the recipe names to be kept as it was; PictureFolderError where it has no words, or would be learnt as one's own."""
    own = recipe.lora
    if not own.prior:
        return None
    kept = open_pictures(Path(own.prior), recipe.data.size, recipe.data.fit, 0.0, recipe.data.seed, on_progress)
    if kept.root.is_relative_to(pictures.root):
        raise PictureFolderError(f"lora.prior = {own.prior!r} lies among the pictures to learn, which it is to differ from. Move it out.")
    kept = replace(kept, train=np.arange(len(kept.pixels)), held=kept.held[:0])  # some data sets say which to hold out
    if own.prior_caption:
        captions = Captions(((own.prior_caption,),) * len(kept.pixels), OWN)
    else:
        try:
            captions = captions_of(kept)
        except PictureFolderError as error:
            raise PictureFolderError(
                f"the pictures in lora.prior = {own.prior!r} have neither captions nor class folders. Say what they are: "
                "--set lora.prior_caption='a bird'."
            ) from error
    samples = LatentSamples(store, kept, on_progress, scale)
    return Prior(kept, samples, captions, _in_batches(samples, kept), _masks(kept, samples, on_progress))
