"""A model and a request in, pictures out.

    open_model(where)  -> a painter: one of ours (below), or a pretrained pipeline behind the same two verbs
    painter.paint(request, on_progress) -> Painted, Painted, ...

Picture i of a request starts from a generator of its own, seeded seed + i and drawn on the CPU, so it is the same
picture alone or in a batch.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image, ImageOps
from torch import Tensor

from bowerbird import hardware, pretrained
from bowerbird.conditions import Condition
from bowerbird.conditions.image_embedding import Representations
from bowerbird.diffusion.guidance import clip_x0, guide
from bowerbird.diffusion.samplers import SAMPLERS
from bowerbird.diffusion.schedule import karras_grid, timestep_grid
from bowerbird.errors import ModelError, RequestError, did_you_mean
from bowerbird.model_folder import (
    MANIFEST,
    Manifest,
    SamplingDefaults,
    open_autoencoder_part,
    open_latent_space,
    open_model_folder,
    open_representations,
    read_manifest,
    scale_of,
)
from bowerbird.models.autoencoder import Autoencoder, LatentSpace, Rgb
from bowerbird.models.denoiser import Denoiser
from bowerbird.pixels import to_picture
from bowerbird.pretrained.autoencoders import autoencoder_place, is_pretrained_autoencoder, open_pretrained_autoencoder
from bowerbird.pretrained.ddpm_folder import is_ddpm_folder, open_ddpm_folder
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.request import Painted, PaintRequest, read_request
from bowerbird.run_folder import is_run, model_of_run

BUNDLED = Path(__file__).parent / "models/bundled"  # model folders that come with the project
BATCH = 16  # pictures painted together; two cores gain nothing from more
_NOT_OURS = ("prompt", "negative", "image", "mask", "outpaint", "loras", "styles", "then", "speed")


class Painter(Protocol):
    """Whatever can paint."""

    def paint(self, request: PaintRequest, on_progress: OnProgress | None = None) -> Iterator[Painted]: ...

    def describe(self) -> dict[str, Any]: ...


def load(where: str | Path, device: str | None = None) -> Painter:
    """Open a model for use from Python: `bowerbird.load('runs/birds').paint(...)`."""
    return open_model(where, hardware.choose_device(device))


def open_model(where: str | Path, device: torch.device, opening: Opening | None = None) -> Painter:
    """A painter for a run, a bundled model, a folder, a checkpoint or a hub name; ModelError when it is none of them."""
    opening = opening or Opening()
    path = pretrained.fetched(where, opening.offline, opening.ask)
    if pretrained.can_open(path):
        if opening.autoencoder is not None:
            raise ModelError(f"{str(where)!r} has an autoencoder of its own; leave --autoencoder out.")
        return pretrained.open_pretrained(where, device, opening.dtype, opening.family, opening.prediction, opening.offline, opening.ask)
    folder = find_model_folder(path)
    if (folder / MANIFEST).is_file():
        model, manifest = open_model_folder(folder)
        return OwnPainter(
            str(where), model.to(device), manifest, open_latent_space(folder, manifest).to(device), open_representations(folder)
        )
    if is_ddpm_folder(folder):
        autoencoder = open_autoencoder(opening.autoencoder, device, opening) if opening.autoencoder is not None else None
        model, space = open_ddpm_folder(folder, autoencoder)
        manifest = Manifest(
            rung="latent" if space else "pixel",
            denoiser=model.spec,
            latents=scale_of(space) if space else None,
            sampling=SamplingDefaults(sampler="dpm++2m", steps=20),
            licence="See its source.",
        )
        return OwnPainter(str(where), model.to(device), manifest, space.to(device) if space else None)
    raise ModelError(
        f"{str(where)!r} is neither a run, a model folder nor a diffusers folder. A model folder holds {MANIFEST} or a U-Net's config.json."
    )


def open_autoencoder(where: str | Path, device: torch.device, opening: Opening | None = None) -> Autoencoder:
    """An autoencoder of ours (bundled by name, a run or a model folder) or of another project, on `device`.

    The latter is a diffusers folder, an autoencoder's or a whole pipeline's, or the hub name of one.
    """
    opening = opening or Opening()
    folder = autoencoder_folder(pretrained.fetched(where, opening.offline, opening.ask, only_autoencoder=True))
    if (folder / MANIFEST).is_file():
        if read_manifest(folder).rung != "autoencoder":
            raise ModelError(f"{str(where)!r} paints; it is no autoencoder. Bundled ones: {', '.join(bundled(autoencoders=True))}.")
        return open_autoencoder_part(folder).to(device)
    if autoencoder_place(folder) is None:
        raise ModelError(
            f"{str(where)!r} is no autoencoder. Bundled ones: {', '.join(bundled(autoencoders=True))}; or give the run of one."
        )
    return open_pretrained_autoencoder(folder).to(device)


def bundled(autoencoders: bool) -> dict[str, Path]:
    """The model folders that come with the project, by name: autoencoders, or those that paint."""
    folders = sorted(path.parent for path in BUNDLED.glob(f"*/{MANIFEST}"))
    return {folder.name: folder for folder in folders if (folder / "transformer").is_dir() != autoencoders}


def autoencoder_folder(where: str | Path) -> Path:
    """The folder of a bundled autoencoder, by name, or of any other as for `find_model_folder`."""
    names = bundled(autoencoders=True)
    if str(where) in names:
        return names[str(where)]
    if not Path(str(where).partition("@")[0]).exists():
        raise ModelError(f"there is no autoencoder {str(where)!r}.{did_you_mean(str(where), names)} Or give the run or folder of one.")
    return find_model_folder(where)


def is_autoencoder(where: str | Path) -> bool:
    """Whether `open_autoencoder` has something to open there."""
    try:
        folder = autoencoder_folder(where)
    except ModelError:
        return False
    if (folder / MANIFEST).is_file():
        return read_manifest(folder).rung == "autoencoder"
    return is_pretrained_autoencoder(folder)


def is_model(where: str | Path) -> bool:
    """Whether `open_model` has something to open there, rather than, say, a folder of pictures."""
    folder = Path(str(where).partition("@")[0])
    return (
        str(where) in bundled(autoencoders=False)
        or pretrained.is_remote(where)
        or pretrained.can_open(Path(where))
        or is_run(folder)
        or (folder / MANIFEST).is_file()
        or is_ddpm_folder(folder)
    )


@dataclass(frozen=True)
class Opening:
    """How somebody else's model is to be opened; our own need none of it."""

    dtype: torch.dtype | None = None  # None: what is safe and fast on the device
    family: str | None = None  # instead of the recognised one
    prediction: str | None = None  # "eps" or "v", instead of the guessed one
    autoencoder: str | None = None  # of a latent model that brings none
    offline: bool = False  # never download
    ask: pretrained.Ask | None = None  # called before a download, which happens only if it says yes


def find_model_folder(where: str | Path) -> Path:
    """The folder behind a MODEL argument: a bundled model by name, a run's best model, RUN@latest, or the folder itself."""
    names = bundled(autoencoders=False)
    if str(where) in names:
        return names[str(where)]
    path, _, which = str(where).partition("@")
    folder = Path(path)
    if not folder.exists():
        raise ModelError(
            f"there is no model at {path!r}. Give a run, a model folder, a diffusers folder or a bundled model: {', '.join(names)}."
        )
    return model_of_run(folder, which or "best") if is_run(folder) else folder


def describe_model(where: str | Path) -> dict[str, Any]:
    """What `info` tells of a model, without loading its weights where the manifest suffices."""
    folder = find_model_folder(where)
    if (folder / MANIFEST).is_file():
        return {"path": str(folder), **describe_manifest(read_manifest(folder))}
    return {"path": str(folder), **open_model(where, torch.device("cpu")).describe()}


class OwnPainter:
    """Paints from a `Denoiser`: a model trained here, or somebody else's DDPM."""

    def __init__(
        self,
        name: str,
        model: Denoiser,
        manifest: Manifest,
        space: LatentSpace | None = None,
        representations: Representations | None = None,
    ) -> None:
        assert manifest.sampling is not None, "what paints says how"
        self.name = name
        self.model = model
        self.manifest = manifest
        self.space = space or LatentSpace(Rgb())  # pixels
        self.representations = representations
        self.sampling = manifest.sampling

    def describe(self) -> dict[str, Any]:
        return describe_manifest(self.manifest)

    def resolve(self, request: PaintRequest) -> PaintRequest:
        """The request with every default filled in; RequestError names what this model cannot do."""
        for field in _NOT_OURS:
            if getattr(request, field) != PaintRequest.model_fields[field].get_default(call_default_factory=True):
                raise RequestError(f"this model cannot use {field!r}: it was trained without it. Leave it out, or choose another model.")
        labels = self.manifest.labels
        if request.label is not None and request.label not in labels:
            known = did_you_mean(request.label, labels) if labels else " This model knows no labels; leave it out."
            raise RequestError(f"this model has no label {request.label!r}.{known}")
        sampling = self.sampling
        sampler = request.sampler or sampling.sampler
        if sampler not in SAMPLERS:
            raise RequestError(f"there is no sampler {sampler!r}.{did_you_mean(sampler, SAMPLERS)}")
        _, height, width = (self.space.autoencoder.factor * side for side in self.model.spec.sample_shape)
        fill = {
            "seed": secrets.randbelow(2**32) if request.seed is None else request.seed,
            "size": request.size or (width, height),
            "steps": request.steps or sampling.steps,
            "sampler": sampler,
            "guidance": sampling.guidance if request.guidance is None else request.guidance,
        }
        return read_request({**request.model_dump(), **fill})

    @torch.inference_mode()
    def paint(self, request: PaintRequest, on_progress: OnProgress | None = None) -> Iterator[Painted]:
        """Yield `count` pictures.  Cancelled is raised at the step at which the callback returns False."""
        request = self.resolve(request)
        assert request.seed is not None and request.size is not None
        batch = 1 if request.exact else BATCH
        for start in range(0, request.count, batch):
            seeds = [request.seed + i for i in range(start, min(start + batch, request.count))]
            for seed, x0 in zip(seeds, self._paint_batch(request, seeds, start, on_progress), strict=True):
                yield Painted(_fit(self.picture(x0), request.size), seed, request)

    def _paint_batch(self, request: PaintRequest, seeds: list[int], start: int, on_progress: OnProgress | None) -> Tensor:
        assert request.steps is not None and request.sampler is not None and request.size is not None and request.guidance is not None
        size, total = request.size, request.count * request.steps

        def on_step(step: int, steps: int, x0: Tensor) -> None:
            done = start * steps + step * len(seeds)
            tell(on_progress, Progress("paint", done, total, preview=lambda: _fit(self.picture(x0[0]), size)))

        noise = PictureNoise(seeds)
        spec, device = self.model.spec, self.model.device
        sigmas = self.sigmas(request)
        x = self.model.start(noise(torch.empty(len(seeds), *spec.sample_shape, device=device)), float(sigmas[0]))
        wanted, hidden = self._conditions(request, seeds)
        denoise = guide(self.model, wanted, hidden, scale=1.0 if wanted is hidden else request.guidance)
        if spec.clip_x0:
            denoise = clip_x0(denoise)
        return SAMPLERS[request.sampler](denoise, x, sigmas, noise, on_step)

    def picture(self, x0: Tensor) -> Image.Image:
        """What x0 (C, h, w) looks like.  Decoded one at a time: latents are small, pictures are not."""
        return to_picture(self.space.decode(x0[None])[0])

    def sigmas(self, request: PaintRequest) -> Tensor:
        """The noise levels to walk down: a DDPM's own timesteps for its ancestral sampler, Karras' grid for the others."""
        assert request.steps is not None
        if request.sampler == "ddpm" and self.model.schedule is not None:
            return timestep_grid(request.steps, self.model.schedule, "leading")
        return karras_grid(request.steps, self.model.spec.sigma_min, self.model.spec.sigma_max)

    def _conditions(self, request: PaintRequest, seeds: list[int]) -> tuple[Condition, Condition]:
        """What to paint, and what guidance leads away from: the same with everything hidden, one object where nothing is asked for."""
        labels, device = self.manifest.labels, self.model.device
        hidden = Condition(label=torch.full((len(seeds),), len(labels), device=device) if labels else None)
        number = labels.index(request.label) if request.label is not None else None
        if number is None and self.representations is None:
            return hidden, hidden
        label = hidden.label if number is None else torch.full((len(seeds),), number, device=device)
        shown = self.representations.drawn(seeds, number).to(device) if self.representations is not None else None
        return Condition(label=label, representation=shown), hidden


class PictureNoise:
    """noise(like) -> standard normal of the shape of `like`, row i from picture i's own generator on the CPU."""

    def __init__(self, seeds: list[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, like: Tensor) -> Tensor:
        return torch.stack([torch.randn(like.shape[1:], generator=g) for g in self.generators]).to(like)


def describe_manifest(manifest: Manifest) -> dict[str, Any]:
    """The manifest for people: everything but the file hashes."""
    return manifest.model_dump(mode="json", exclude={"files"})


def _fit(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled until it covers (width, height), the borders cut off evenly."""
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
