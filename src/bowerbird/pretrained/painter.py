"""Paints with a Stable Diffusion model: diffusers' pipelines inside, our request, seeds, previews and cancel around them."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from bowerbird.canvas import Size, blend, tiles
from bowerbird.errors import ModelError, RequestError, did_you_mean
from bowerbird.picture_files import Painted
from bowerbird.pretrained import memory
from bowerbird.pretrained.configs import first_line
from bowerbird.pretrained.loading import Parts
from bowerbird.pretrained.lora import read_lora
from bowerbird.pretrained.pipelines import make_pipeline
from bowerbird.pretrained.plan import Task, Work, plan
from bowerbird.pretrained.prompting import count_chunks, said
from bowerbird.pretrained.samplers import SAMPLERS, check_steps, own_sampler, scheduler_for, watch
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.prompts import announced, finish
from bowerbird.prompts.speeds import Kind, Pace, pace
from bowerbird.repaint import UPSCALE, is_repainting, strength_of, usual_size
from bowerbird.request import Lora, PaintRequest

FEW_STEPS = 4  # usual for a model distilled to need no more
PREVIEW_LATENTS = 24  # longest side of the latents a preview is decoded from
TILE, OVERLAP = 256, 32  # the x4 upscaler was trained on 128 px; larger pictures are done in parts of this side


class PretrainedPainter:
    """An opened Stable Diffusion model.  Its weights stay in memory from picture to picture."""

    def __init__(self, name: str, parts: Parts, device: torch.device, compile: bool = False) -> None:
        self.name = name
        self.parts = parts
        self.device = device
        self.unet, self.vae = parts.networks["unet"], parts.networks["vae"]
        self.pixels_per_latent = 2 ** (len(self.vae.config.block_out_channels) - 1)
        side = self.unet.config.sample_size
        self.native: int = (side if isinstance(side, int) else side[0]) * self.pixels_per_latent
        self.placement = memory.place(parts.networks, device, self.native)
        if compile:
            self.unet.compile()
        self._pipelines: dict[str, Any] = {}
        self._ready: Any = None
        self._own: list[Lora] = []  # part of the model, whatever a request asks for
        self._loras: list[Lora] = []

    def with_lora(self, name: str, file: Path) -> Self:
        """This painter as the model `name`, which is the one it was with a LoRA."""
        self.name, self._own = name, [Lora(file=file)]
        return self

    def describe(self) -> dict[str, Any]:
        """What `info` tells of the model."""
        return {
            "model": self.name,
            "family": self.parts.family.name,
            "what": self.parts.family.words,
            "ground": self.parts.ground,
            "prediction": self.parts.prediction,
            "size": [self.native, self.native],
            "conditions": {"text": {}},
            "parameters": {name: sum(p.numel() for p in network.parameters()) for name, network in sorted(self.parts.networks.items())},
            "precision": str(self.unet.dtype).removeprefix("torch."),
            "device": str(self.device),
            "placement": self.placement,
            "needs": memory.forecast(self.parts.networks, self.native),
            "sampler": own_sampler(self.parts.schedulers["scheduler"]) or self.parts.family.sampler,
            "samplers": sorted(SAMPLERS),
            "licence": "that of the checkpoint's publisher",
        }

    def resolve(self, request: PaintRequest) -> PaintRequest:
        """The request with final words and every default filled in; RequestError names what this model cannot do."""
        request = finish(request)[0]
        for field in ("label", "then"):
            if getattr(request, field):
                raise RequestError(f"a Stable Diffusion model does not read {field!r} itself. Leave it out.")
        if request.noise is not None or request.consistent:
            raise RequestError("noise and consistent are for upscalers of ours. Leave them out.")
        family, distilled_for = self.parts.family, own_sampler(self.parts.schedulers["scheduler"])
        unfit = is_repainting(request) or request.strength is not None
        if family.kind == "upscale" and (request.image is None or unfit):
            raise RequestError("this model enlarges pictures: give it an image, and neither mask, outpaint nor strength.")
        guided_by_two_predictions = self.unet.config.time_cond_proj_dim is None
        asked = pace(
            request,
            self._kind(),
            Pace(
                steps=FEW_STEPS if distilled_for else family.steps,
                sampler=distilled_for or family.sampler,
                guidance=1.0 if distilled_for and guided_by_two_predictions else family.guidance,
            ),
        )
        if asked.sampler not in SAMPLERS:
            raise RequestError(f"there is no sampler {asked.sampler!r}.{did_you_mean(asked.sampler, SAMPLERS)}")
        check_steps(asked.steps, asked.sampler, self.parts.schedulers["scheduler"])
        fill: dict[str, Any] = {
            "seed": secrets.randbelow(2**32) if request.seed is None else request.seed,
            "size": request.size or usual_size(request, family.kind, self.native),
            "steps": asked.steps,
            "sampler": asked.sampler,
            "guidance": asked.guidance,
            "strength": strength_of(request, family.kind),
        }
        return request.model_copy(update=fill)

    def _kind(self) -> Kind:
        """What the words for speed are to mean."""
        if self.parts.family.kind == "upscale":
            return "upscale"
        if own_sampler(self.parts.schedulers["scheduler"]):
            return "few-step"
        return "sdxl" if "text_encoder_2" in self.parts.networks else "sd"

    def paint(self, request: PaintRequest, on_progress: OnProgress | None = None) -> Iterator[Painted]:
        """Yield `count` pictures, for each value of the prompt's arrays if it has some.

        One at a time, so that the bytes of one never depend on how many were asked for.  Cancelled is raised at the step at
        which the callback returns False.
        """
        for final in announced(request, None, on_progress):
            yield from self._paint(final, on_progress)

    @torch.inference_mode()
    def _paint(self, request: PaintRequest, on_progress: OnProgress | None) -> Iterator[Painted]:
        request = self.resolve(request)
        assert request.seed is not None and request.size is not None
        work = plan(request, self.parts.family.kind, self.native)
        self._use_loras([*self._own, *request.loras])
        for note in (self._in_parts(request), memory.shortage(work.size, self.unet.dtype, self.device)):
            if note:
                tell(on_progress, Progress("paint", 0, 1, note=note))
        for number in range(request.count):
            picture = self._paint_one(request, work, number, on_progress)
            if work.repaint is not None:
                picture = work.repaint.put_back(picture)
            if work.kept is not None:
                picture = picture.crop(work.kept)
            yield Painted(ImageOps.fit(picture, request.size, Image.Resampling.LANCZOS), request.seed + number, request)

    def _paint_one(self, request: PaintRequest, work: Work, number: int, on_progress: OnProgress | None) -> Image.Image:
        assert request.seed is not None
        generator = torch.Generator().manual_seed(request.seed + number)
        if work.task == "text":
            work = work.asking(latents=self._noise(work.size, generator))
        if work.task == "upscale" and max(work.size) > TILE * UPSCALE:
            return self._upscale_in_tiles(request, work, generator, number, on_progress)
        return self._run(request, work, generator, number, request.count, on_progress)

    def _upscale_in_tiles(
        self, request: PaintRequest, work: Work, generator: torch.Generator, number: int, on_progress: OnProgress | None
    ) -> Image.Image:
        """Overlapping parts, each small enough to be seen whole, that start from one field of noise and are faded into each other."""
        picture: Image.Image = work.arguments["image"]
        noise, boxes = self._noise(work.size, generator), tiles(picture.size, TILE, OVERLAP)
        done: list[Image.Image] = []
        for left, top, right, bottom in boxes:
            part = work.asking(image=picture.crop((left, top, right, bottom)), latents=noise[..., top:bottom, left:right])
            nth = number * len(boxes) + len(done)
            done.append(self._run(request, part, generator, nth, request.count * len(boxes), on_progress))
        return blend(done, boxes, UPSCALE, OVERLAP)

    def _run(
        self, request: PaintRequest, work: Work, generator: torch.Generator, nth: int, of: int, on_progress: OnProgress | None
    ) -> Image.Image:
        """One run of a pipeline, the nth `of` so many."""
        assert request.sampler is not None

        def on_step(done: int, total: int, x0: Tensor | None) -> None:
            preview = None if x0 is None else lambda: self._preview(x0, work.size)
            tell(on_progress, Progress("paint", nth * total + done, of * total, preview=preview))

        pipeline = self._pipeline(work.task)
        pipeline.scheduler = scheduler_for(request.sampler, self.parts.schedulers["scheduler"])
        watch(pipeline.scheduler, on_step)
        memory.fit_decoder(self.vae, work.size, self.device)
        try:
            pixels: NDArray[np.float32] = pipeline(**said(pipeline, work.arguments), generator=generator, output_type="np").images[0]
        except torch.cuda.OutOfMemoryError as error:
            raise memory.too_large(work.size, self.device) from error
        finally:
            pipeline.maybe_free_model_hooks()
        if not np.isfinite(pixels).all():
            raise ModelError(f"{self.name!r} painted values that are not numbers. Try --precision fp32, or another copy of the model.")
        return Image.fromarray((pixels * 255).round().astype(np.uint8))

    def _noise(self, size: Size, generator: torch.Generator) -> Tensor:
        """Where a picture starts: drawn in float32 on the CPU whatever the model runs in, so a seed means the same everywhere."""
        shape = (1, self.unet.config.out_channels, size[1] // self.pixels_per_latent, size[0] // self.pixels_per_latent)
        return torch.randn(shape, generator=generator).to(self.device, self.unet.dtype)

    def _preview(self, x0: Tensor, size: Size) -> Image.Image:
        """The picture so far, decoded from shrunken latents: a fraction of a whole decoding, whatever the autoencoder."""
        shrink = max(1, max(x0.shape[-2:]) // PREVIEW_LATENTS)
        latents = torch.nn.functional.avg_pool2d(x0[:1].float(), shrink) / self.vae.config.scaling_factor
        pixels = self.vae.decode(latents.to(self.vae.device, self.vae.dtype)).sample[0].float()
        pixels = pixels.nan_to_num().div(2).add(0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        return Image.fromarray(pixels.movedim(0, -1).cpu().numpy()).resize(size, Image.Resampling.BILINEAR)

    def _pipeline(self, task: Task) -> Any:
        """The pipeline for a task, made once; all of them share the same networks."""
        if task not in self._pipelines:
            self._pipelines[task] = make_pipeline(self.parts, task)
        self._make_ready(self._pipelines[task])
        return self._pipelines[task]

    def _make_ready(self, pipeline: Any) -> None:
        """Networks that do not fit on the GPU together travel there when the pipeline in use calls for them."""
        if self.placement == "whole" or pipeline is self._ready:
            return
        if self.placement == "offload":
            pipeline.enable_model_cpu_offload(device=self.device)
        else:
            pipeline.enable_sequential_cpu_offload(device=self.device)
        self._ready = pipeline

    def _use_loras(self, loras: list[Lora]) -> None:
        """Put the wanted LoRA files in place; nothing is done when they are there.  After an error there are none."""
        if loras == self._loras:
            return
        pipeline = self._pipeline("upscale" if self.parts.family.kind == "upscale" else "text")
        pipeline.unload_lora_weights()
        self._loras = []
        read = [read_lora(lora.file, self.parts.networks, type(pipeline)) for lora in loras]
        try:
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # peft wonders at a second file
                for number, tensors in enumerate(read):
                    pipeline.load_lora_weights(tensors, adapter_name=f"lora{number}")
            if loras:
                pipeline.set_adapters([f"lora{number}" for number in range(len(loras))], [lora.weight for lora in loras])
        except Exception as error:  # diffusers and peft raise many kinds, after they have changed a part of the networks
            pipeline.unload_lora_weights()
            files = ", ".join(str(lora.file) for lora in loras)
            raise RequestError(f"the LoRA {files} does not fit {self.parts.family.words}: {first_line(error)}") from error
        self._loras = list(loras)

    def _in_parts(self, request: PaintRequest) -> str:
        parts = count_chunks(self.parts.tokenizers["tokenizer"], request.prompt)
        return f"the prompt is long and read in {parts} parts, of which the first says most" if parts > 1 else ""
