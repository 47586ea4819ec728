"""Paints from our own models: a request in, pictures out.

Picture i of a request starts from a generator of its own, seeded seed + i and drawn on the CPU, so it is the same
picture alone or in a batch.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from bowerbird import hardware
from bowerbird.canvas import Size, close_up, region_to_repaint, squared
from bowerbird.diffusion.guidance import Clip, clip_x0, guide, keep
from bowerbird.diffusion.samplers import SAMPLERS, Sampler, ddim_with_clip, ddpm_fixed_large
from bowerbird.diffusion.schedule import angle_grid, karras_grid, timestep_grid
from bowerbird.errors import RequestError, did_you_mean
from bowerbird.model_folder import Model
from bowerbird.models.conditioning import Cond, to
from bowerbird.models.denoiser import Steps
from bowerbird.picture_files import Painted
from bowerbird.pixels import to_picture, to_x0
from bowerbird.progress import OnProgress, Progress, note, tell
from bowerbird.prompts import announced, finish
from bowerbird.prompts.language import parse, plain, segments
from bowerbird.prompts.speeds import Pace, pace
from bowerbird.prompts.vocabulary import Vocabulary
from bowerbird.repaint import Repaint, canvas_of, is_repainting, open_picture, strength_of, usual_size
from bowerbird.request import PaintRequest, read_request

BATCH = 16  # pictures painted together; two cores gain nothing from more
GUIDED_AT_ONCE = 2  # pictures; for more, two calls cost less than one of twice the rows, all with the longer one's words (docs/text.md)
SPREAD = 2.0  # of euler's angles, times sigma_data: best in 4 and in 6 steps, with guidance and without (docs/lab-log.md, 2026-11-28)
OnStep = Callable[[int, int, Tensor], None]
_STEERING = ("prompt", "negative", "label")  # fields of a request that one condition or another reads
_NOT_OURS = ("loras", "then", "noise", "consistent")


class Painter(Protocol):
    """Whatever can paint."""

    def resolve(self, request: PaintRequest) -> PaintRequest: ...

    def paint(self, request: PaintRequest, on_progress: OnProgress | None = None) -> Iterator[Painted]: ...

    def describe(self) -> dict[str, Any]: ...


@runtime_checkable
class BatchPainter(Painter, Protocol):
    """Whatever can paint several requests in one walk."""

    def paint_together(
        self, requests: Sequence[PaintRequest], on_progress: OnProgress | None = None
    ) -> Iterator[tuple[int, list[Painted]]]: ...


class OwnPainter:
    """Paints from a `Model`: one trained here, or somebody else's DDPM.

    precision: 'fp32' or 'bf16', of the arithmetic of its networks; the sampler's state is float32 in either.
    """

    def __init__(self, name: str, model: Model, precision: str = "fp32") -> None:
        assert model.sampling is not None and model.denoiser is not None, "what paints says how"
        self.name = name
        self.model = model
        self.denoiser = model.denoiser
        self.sampling = model.sampling
        self.precision = precision
        vocabularies = (getattr(condition, "vocabulary", None) for condition in model.conditions.values())
        self.vocabulary: Vocabulary | None = next(filter(None, vocabularies), None)  # for the prompt's expander

    def describe(self) -> dict[str, Any]:
        return self.model.describe()

    def resolve(self, request: PaintRequest) -> PaintRequest:
        """The request with final words and every default filled in; RequestError names what this model cannot do."""
        request = finish(request, self.vocabulary)[0]
        for field in _NOT_OURS:
            if _is_set(request, field):
                raise RequestError(f"this model cannot use {field!r}. Leave it out, or choose another model.")
        read = {field for condition in self.model.conditions.values() for field in condition.fields}
        for field in _STEERING:
            if field not in read and _is_set(request, field):
                raise RequestError(f"this model reads no {field}: it was trained without. Leave it out, or choose another model.")
        asked = pace(request, "ours", Pace(self.sampling.steps, self.sampling.sampler, self.sampling.guidance))
        if asked.sampler not in SAMPLERS:
            raise RequestError(f"there is no sampler {asked.sampler!r}.{did_you_mean(asked.sampler, SAMPLERS)}")
        self.sigmas(request.model_copy(update={"sampler": asked.sampler, "steps": asked.steps}))  # too many are refused
        for condition in self.model.conditions.values():
            condition.asked(_spoken(request), [0])  # what it does not know, it says before anything is painted
        fill: dict[str, Any] = {
            "seed": secrets.randbelow(2**32) if request.seed is None else request.seed,
            "size": request.size or (usual_size(request, "paint", 0) if is_repainting(request) else self.native),
            "steps": asked.steps,
            "sampler": asked.sampler,
            "guidance": asked.guidance,
            "strength": strength_of(request, "paint"),
        }
        return read_request({**request.model_dump(), **fill})

    @property
    def native(self) -> Size:
        """Width and height in pixels of what it paints."""
        _, height, width = (self.model.space.autoencoder.factor * side for side in self.denoiser.spec.sample_shape)
        return width, height

    def paint(self, request: PaintRequest, on_progress: OnProgress | None = None) -> Iterator[Painted]:
        """Yield `count` pictures, for each value of the prompt's arrays if it has some.

        Cancelled is raised at the step at which the callback returns False.
        """
        for final in self._final(request, on_progress):
            yield from self._paint(final, on_progress)

    def _final(self, request: PaintRequest, on_progress: OnProgress | None) -> Iterator[PaintRequest]:
        """What a request asks in final words; people are told of them, and of what this model does not read of them."""
        for final in announced(request, self.vocabulary, on_progress):
            if any(weight != 1 for _, weight in segments(parse(final.prompt))):
                note(on_progress, "this model reads words without weights: (word:1.2) is read as word")
            for condition in self.model.conditions.values():
                for remark in condition.remarks(_spoken(final)):
                    note(on_progress, f"this model {remark}")
            yield final

    @torch.inference_mode()
    def _paint(self, request: PaintRequest, on_progress: OnProgress | None) -> Iterator[Painted]:
        request = self.resolve(request)
        assert request.seed is not None and request.size is not None
        source = self.source(request)
        batch = 1 if request.exact else BATCH
        for start in range(0, request.count, batch):
            seeds = [request.seed + i for i in range(start, min(start + batch, request.count))]
            for seed, x0 in zip(seeds, self._paint_batch(request, source, seeds, start, on_progress), strict=True):
                yield self._finished(x0, source, seed, request)

    def _paint_batch(self, request: PaintRequest, source: Source, seeds: list[int], start: int, on_progress: OnProgress | None) -> Tensor:
        assert request.size is not None
        size = request.size

        def on_step(step: int, steps: int, x0: Tensor) -> None:
            done = start * steps + step * len(seeds)
            tell(on_progress, Progress("paint", done, request.count * steps, preview=lambda: _fit(self.picture(x0[0]), size)))

        wanted, unwanted = self.conditions(request, seeds)
        return self._walk(request, source, seeds, wanted, unwanted, on_step)

    @torch.inference_mode()
    def paint_together(
        self, requests: Sequence[PaintRequest], on_progress: OnProgress | None = None
    ) -> Iterator[tuple[int, list[Painted]]]:
        """(number, pictures) of each request, those in one walk that differ in words, label and seeds alone.

        For few pictures in all: no more are painted together than were asked for.
        """
        finals = [(number, self.resolve(final)) for number, request in enumerate(requests) for final in self._final(request, on_progress)]
        conditioned = [self.conditions(final, _seeds(final)) for _, final in finals]
        alike: dict[Any, list[int]] = {}
        for place, (_, final) in enumerate(finals):
            names = tuple(tuple(cond) for cond in conditioned[place])
            alone = None if final.image is None else place  # each starts from a picture of its own
            alike.setdefault((final.size, final.steps, final.sampler, final.guidance, names, alone), []).append(place)
        painted: dict[int, list[Painted]] = {}
        done, total = 0, sum(final.count * (final.steps or 0) for _, final in finals)
        for places in alike.values():
            first, seeds = finals[places[0]][1], [seed for place in places for seed in _seeds(finals[place][1])]

            def on_step(step: int, steps: int, x0: Tensor, done: int = done, size: tuple[int, int] | None = first.size) -> None:
                assert size is not None
                tell(on_progress, Progress("paint", done + step * len(x0), total, preview=lambda: _fit(self.picture(x0[0]), size)))

            wanted, unwanted = (_one_below_the_other([conditioned[place][side] for place in places]) for side in (0, 1))
            source = self.source(first)
            x0s = iter(self._walk(first, source, seeds, wanted, unwanted, on_step))
            done += len(seeds) * (first.steps or 0)
            for place in places:
                final = finals[place][1]
                assert final.size is not None
                painted[place] = [self._finished(next(x0s), source, seed, final) for seed in _seeds(final)]
        for number in range(len(requests)):
            yield number, [picture for place, (of, _) in enumerate(finals) if of == number for picture in painted[place]]

    def _walk(self, request: PaintRequest, source: Source, seeds: list[int], wanted: Cond, unwanted: Cond, on_step: OnStep) -> Tensor:
        """From where painting starts to x0 (B, C, h, w), a row for each seed and for each row of the conditions."""
        assert request.sampler is not None and request.guidance is not None
        noise = PictureNoise(seeds)
        spec, device = self.denoiser.spec, self.denoiser.device
        sigmas = source.later(self.sigmas(request))
        eps = noise(torch.empty(len(seeds), *spec.sample_shape, device=device))
        x = self.denoiser.start(eps, float(sigmas[0])) if source.from_noise else source.latents + float(sigmas[0]) * eps
        both = self.side_by_side(wanted, unwanted) if len(seeds) <= GUIDED_AT_ONCE else None
        denoise = guide(self.denoiser, wanted, unwanted, scale=request.guidance if wanted or unwanted else 1.0, both=both)
        sampler, clip = self.sampler(request)
        if clip is not None:
            denoise = clip_x0(denoise, clip)
        if source.anew is not None:
            denoise = keep(denoise, source.latents, source.anew)
        with hardware.autocast(device, self.precision):
            return sampler(denoise, x, sigmas, noise, on_step)

    def sampler(self, request: PaintRequest) -> tuple[Sampler, Clip | None]:
        """How to step, and how the denoiser's estimates are clipped: a model trained elsewhere as its own scheduler does."""
        assert request.sampler is not None
        spec = self.denoiser.spec
        own = spec.steps or Steps()
        clip = own.clip if spec.clip_x0 else None
        if spec.steps is not None and request.sampler == "ddim" and clip is not None:
            return ddim_with_clip(clip), None
        if request.sampler == "ddpm" and own.variance == "fixed-large":
            return ddpm_fixed_large, clip
        return SAMPLERS[request.sampler], clip

    def _finished(self, x0: Tensor, source: Source, seed: int, request: PaintRequest) -> Painted:
        assert request.size is not None
        picture = self.picture(x0)
        if source.repaint is not None:
            picture = source.repaint.put_back(picture)
        return Painted(_fit(picture, request.size), seed, request)

    def source(self, request: PaintRequest) -> Source:
        """What a resolved request starts from: noise, a picture, or a picture of which a part is painted anew."""
        if request.image is None or request.strength is None:
            return Source(torch.empty(0), 1.0)
        if not is_repainting(request):
            picture = ImageOps.fit(open_picture(request.image), self.native, Image.Resampling.LANCZOS)
            return Source(self.latents(picture), request.strength)
        original, mask = canvas_of(request)
        box = close_up(mask) if request.detail else region_to_repaint(mask, max(self.native))
        box = squared(box, original.size)
        picture, part = (whole.crop(box).resize(self.native, Image.Resampling.LANCZOS) for whole in (original, mask.convert("L")))
        pixels = torch.from_numpy(np.asarray(part) > 0).float()[None, None]
        anew = F.max_pool2d(pixels, self.model.space.autoencoder.factor) > 0  # a latent with any pixel of the mask is painted anew
        return Source(self.latents(picture), request.strength, anew.to(self.denoiser.device), Repaint(original, mask, box))

    def latents(self, picture: Image.Image) -> Tensor:
        """A picture of the native size as what the model learnt on, (1, C, h, w)."""
        pixels = np.asarray(picture.convert("RGB" if self.model.kind == "latent" or self.denoiser.spec.sample_shape[0] == 3 else "L"))
        x0 = to_x0(pixels.reshape(*pixels.shape[:2], -1)[None]).to(self.denoiser.device)
        return self.model.space.encode(x0)

    def picture(self, x0: Tensor) -> Image.Image:
        """What x0 (C, h, w) looks like.  Decoded one at a time: latents are small, pictures are not."""
        with hardware.autocast(x0.device, self.precision):
            return to_picture(self.model.space.decode(x0[None])[0].float())

    def sigmas(self, request: PaintRequest) -> Tensor:
        """The noise levels to walk down, to 0.

        A model on a DDPM's schedule has its own timesteps for its own samplers and Karras' grid for the others, as elsewhere.  Of the
        others euler goes far in few steps on evenly spaced angles; those of second order keep Karras' grid, which more steps suit.
        """
        assert request.steps is not None
        own = self.denoiser.spec.steps or Steps()
        if self.denoiser.schedule is not None and (request.sampler == "ddpm" or (request.sampler == "ddim" and self.denoiser.spec.steps)):
            ends_at_zero = own.ends_at_zero or request.sampler == "ddpm"
            return timestep_grid(request.steps, self.denoiser.schedule, own.spacing, own.offset, ends_at_zero)
        spec = self.denoiser.spec
        if self.denoiser.schedule is None and request.sampler in ("euler", "ddim"):
            return angle_grid(request.steps, spec.sigma_min, spec.sigma_max, SPREAD * spec.sigma_data)
        return karras_grid(request.steps, spec.sigma_min, spec.sigma_max)

    def conditions(self, request: PaintRequest, seeds: list[int]) -> tuple[Cond, Cond]:
        """What to paint, and what guidance leads away from; both empty where nothing is asked for."""
        request = _spoken(request)
        wanted, unwanted = dict[str, Tensor](), dict[str, Tensor]()
        for condition in self.model.conditions.values():
            wanted |= condition.asked(request, seeds)
            unwanted |= condition.unwanted(request, len(seeds))
        return to(wanted, self.denoiser.device), to(unwanted, self.denoiser.device)

    def side_by_side(self, wanted: Cond, unwanted: Cond) -> Cond:
        """The rows of `wanted` and below them those of `unwanted`; what one of the two leaves open says nothing there."""
        nothing = {name: self.model.conditions[name].nothing(rows) for name, rows in {**wanted, **unwanted}.items()}
        return _one_below_the_other([{**nothing, **wanted}, {**nothing, **unwanted}])


@dataclass(frozen=True)
class Source:
    """Where painting starts.  latents (1, C, h, w) of a picture; anew (1, 1, h, w) bool: the part that is painted, all of it by default."""

    latents: Tensor
    strength: float
    anew: Tensor | None = None
    repaint: Repaint | None = None

    @property
    def from_noise(self) -> bool:
        return self.strength == 1

    def later(self, sigmas: Tensor) -> Tensor:
        """The part of the grid that is walked: as large a share of its steps as the strength, one at least."""
        steps = len(sigmas) - 1
        return sigmas[steps - max(1, round(self.strength * steps)) :]


class PictureNoise:
    """noise(like) -> standard normal of the shape of `like`, row i from picture i's own generator on the CPU."""

    def __init__(self, seeds: list[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, like: Tensor) -> Tensor:
        return torch.stack([torch.randn(like.shape[1:], generator=g) for g in self.generators]).to(like)


def _seeds(request: PaintRequest) -> list[int]:
    assert request.seed is not None, "resolved"
    return [request.seed + i for i in range(request.count)]


def _one_below_the_other(conditions: Sequence[Cond]) -> Cond:
    """The rows of several conditions of the same names as one condition; rows of words as long as the longest."""
    longest = {name: max(cond[name].shape[-1] for cond in conditions) for name in conditions[0]}
    return {
        name: torch.cat(
            [cond[name] if cond[name].ndim == 1 else F.pad(cond[name], (0, longest[name] - cond[name].shape[-1])) for cond in conditions]
        )
        for name in conditions[0]
    }


def _spoken(request: PaintRequest) -> PaintRequest:
    """The request with its prompts as plain words: our own networks read no weights."""
    words = {name: plain(parse(getattr(request, name))) for name in ("prompt", "negative")}
    return request.model_copy(update=words)


def _is_set(request: PaintRequest, field: str) -> bool:
    return bool(getattr(request, field) != PaintRequest.model_fields[field].get_default(call_default_factory=True))


def _fit(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled until it covers (width, height), the borders cut off evenly."""
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
