"""Paints with a Stable Diffusion model: diffusers' pipelines inside, our request, seeds, previews and cancel around them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from bowerbird.errors import ModelError, PictureFolderError, RequestError, did_you_mean
from bowerbird.models.pretrained import memory
from bowerbird.models.pretrained.canvas import Box, Size, cover, extend, join, region_to_repaint, working_size
from bowerbird.models.pretrained.clip import MAX_TOKENS
from bowerbird.models.pretrained.loading import Parts
from bowerbird.models.pretrained.lora import check_lora
from bowerbird.models.pretrained.samplers import SAMPLERS, own_sampler, scheduler_for, watch
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.request import Lora, Painted, PaintRequest

SPEEDS = {"fast": 0.5, "normal": 1.0, "fine": 2.0}  # times the model's usual number of steps
FEW_STEPS = 4
UPSCALE = 4
UPSCALE_NOISE_LEVEL = 20  # of 350: how much of the small picture's detail the x4 upscaler may replace; diffusers' default
PREVIEW_LATENTS = 24  # longest side of the latents a preview is decoded from
OPEN_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")

_PIPELINES = {
    ("sd", "text"): "StableDiffusionPipeline",
    ("sd", "image"): "StableDiffusionImg2ImgPipeline",
    ("sd", "inpaint"): "StableDiffusionInpaintPipeline",
    ("sd", "upscale"): "StableDiffusionUpscalePipeline",
    ("sdxl", "text"): "StableDiffusionXLPipeline",
    ("sdxl", "image"): "StableDiffusionXLImg2ImgPipeline",
    ("sdxl", "inpaint"): "StableDiffusionXLInpaintPipeline",
}


@dataclass(frozen=True)
class Work:
    """What one request asks of a pipeline, the same for each of its pictures."""

    task: str  # text, image, inpaint or upscale
    size: Size  # what the network paints
    arguments: dict[str, Any]
    canvas: Image.Image | None = None  # what a repainted part is put back into
    mask: Image.Image | None = None
    box: Box | None = None  # where in the canvas the repainted part lies


class PretrainedPainter:
    """An opened Stable Diffusion model.  Its weights stay in memory from picture to picture."""

    def __init__(self, name: str, parts: Parts, device: torch.device, compile: bool = False) -> None:
        self.name = name
        self.parts = parts
        self.device = device
        self.placement = memory.place(parts.networks, device, self.native)
        if compile:
            parts.networks["unet"].compile()
        self._pipelines: dict[str, Any] = {}
        self._ready: Any = None
        self._loras: list[Lora] = []

    @property
    def native(self) -> int:
        """Side in pixels of the pictures the model was trained on."""
        side = self.parts.networks["unet"].config.sample_size
        return int(side if isinstance(side, int) else side[0]) * self._scale

    @property
    def _scale(self) -> int:
        """Pixels a latent stands for, along one side."""
        return int(2 ** (len(self.parts.networks["vae"].config.block_out_channels) - 1))

    def describe(self) -> dict[str, Any]:
        """What `info` tells of the model."""
        unet = next(self.parts.networks["unet"].parameters())
        return {
            "model": self.name,
            "family": self.parts.family.name,
            "what": self.parts.family.words,
            "ground": self.parts.ground,
            "prediction": self.parts.prediction,
            "size": [self.native, self.native],
            "parameters": {name: sum(p.numel() for p in network.parameters()) for name, network in sorted(self.parts.networks.items())},
            "precision": str(unet.dtype).removeprefix("torch."),
            "device": str(self.device),
            "placement": self.placement,
            "sampler": self._own_sampler or self.parts.family.sampler,
            "samplers": sorted(SAMPLERS),
            "licence": "that of the checkpoint's publisher",
        }

    @property
    def _own_sampler(self) -> str | None:
        return own_sampler(self.parts.schedulers["scheduler"])

    def resolve(self, request: PaintRequest) -> PaintRequest:
        """The request with every default filled in; RequestError names what this model cannot do."""
        for field in ("label", "styles", "then"):
            if getattr(request, field):
                raise RequestError(f"a Stable Diffusion model does not read {field!r} itself. Leave it out.")
        if request.speed is not None and request.speed not in SPEEDS:
            raise RequestError(f"there is no speed {request.speed!r}.{did_you_mean(request.speed, SPEEDS)}")
        family, distilled = self.parts.family, self._own_sampler
        if family.kind == "upscale" and (request.image is None or request.mask is not None or request.outpaint):
            raise RequestError("this model enlarges pictures: give it an image, and neither mask nor outpaint.")
        sampler = request.sampler or distilled or family.sampler
        if sampler not in SAMPLERS:
            raise RequestError(f"there is no sampler {sampler!r}.{did_you_mean(sampler, SAMPLERS)}")
        guided_inside = getattr(self.parts.networks["unet"].config, "time_cond_proj_dim", None) is not None
        usual_steps = FEW_STEPS if distilled else family.steps
        usual_guidance = 1.0 if distilled and not guided_inside else family.guidance
        fill = {
            "seed": secrets.randbelow(2**32) if request.seed is None else request.seed,
            "size": request.size or self._usual_size(request),
            "steps": request.steps or max(1, round(usual_steps * SPEEDS[request.speed or "normal"])),
            "sampler": sampler,
            "guidance": usual_guidance if request.guidance is None else request.guidance,
        }
        if (request.mask is not None or request.outpaint) and "strength" not in request.model_fields_set:
            fill["strength"] = 1.0  # a masked part is painted anew unless the request says how much of it to keep
        return request.model_copy(update=fill)

    def _usual_size(self, request: PaintRequest) -> Size:
        if request.image is None:
            return self.native, self.native
        width, height = open_picture(request.image).size
        width += request.outpaint.get("left", 0) + request.outpaint.get("right", 0)
        height += request.outpaint.get("top", 0) + request.outpaint.get("bottom", 0)
        return (width * UPSCALE, height * UPSCALE) if self.parts.family.kind == "upscale" else (width, height)

    @torch.inference_mode()
    def paint(self, request: PaintRequest, on_progress: OnProgress | None = None) -> Iterator[Painted]:
        """Yield `count` pictures, one at a time, so that the bytes of one never depend on how many were asked for.

        Cancelled is raised at the step at which the callback returns False.
        """
        request = self.resolve(request)
        assert request.seed is not None and request.size is not None
        self._use_loras(request.loras)
        work = self._plan(request)
        self._warn_of_long_prompt(request, on_progress)
        for number in range(request.count):
            painted = self._paint_one(request, work, number, on_progress)
            if work.canvas is not None and work.mask is not None and work.box is not None:
                painted = _put_back(painted, work.canvas, work.mask, work.box)
            yield Painted(cover(painted, request.size), request.seed + number, request)

    # What to ask of which pipeline

    def _plan(self, request: PaintRequest) -> Work:
        assert request.size is not None and request.steps is not None
        always: dict[str, Any] = {
            "prompt": request.prompt,
            "negative_prompt": request.negative,
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance,
        }
        kind = self.parts.family.kind
        if kind == "upscale":
            assert request.image is not None
            return self._plan_upscale(open_picture(request.image), always)
        strength = max(request.strength, 1 / request.steps)  # at least one step
        if request.mask is not None or request.outpaint:
            return self._plan_inpaint(*_canvas(request), {**always, "strength": strength})
        size = working_size(request.size, self.native)
        shape = {"width": size[0], "height": size[1]}
        start = cover(open_picture(request.image), size) if request.image is not None else None
        if kind == "inpaint":  # its network always wants a picture and a mask: all of it is painted anew
            everything = {"image": start or Image.new("RGB", size, "grey"), "mask_image": Image.new("L", size, 255)}
            return Work("inpaint", size, {**always, **shape, **everything, "strength": strength if start else 1.0})
        if start is None:
            return Work("text", size, {**always, **shape})
        return Work("image", size, {**always, "image": start, "strength": strength})

    def _plan_inpaint(self, picture: Image.Image, mask: Image.Image, always: dict[str, Any]) -> Work:
        box = region_to_repaint(mask, self.native)
        part, part_mask = picture.crop(box), mask.crop(box)
        size = working_size(part.size, self.native)
        pictures = {"image": part.resize(size, Image.Resampling.LANCZOS), "mask_image": part_mask.resize(size, Image.Resampling.NEAREST)}
        return Work("inpaint", size, {**always, **pictures, "width": size[0], "height": size[1]}, picture, mask, box)

    def _plan_upscale(self, picture: Image.Image, always: dict[str, Any]) -> Work:
        size = (picture.width * UPSCALE, picture.height * UPSCALE)
        return Work("upscale", size, {**always, "image": picture, "noise_level": UPSCALE_NOISE_LEVEL})

    # One picture

    def _paint_one(self, request: PaintRequest, work: Work, number: int, on_progress: OnProgress | None) -> Image.Image:
        assert request.seed is not None and request.sampler is not None
        generator = torch.Generator().manual_seed(request.seed + number)
        pipeline = self._pipeline(work.task)
        scheduler = scheduler_for(request.sampler, self.parts.schedulers["scheduler"])

        def on_step(done: int, total: int, x0: Tensor | None) -> None:
            preview = None if x0 is None else lambda: self._preview(x0, work.size)
            tell(on_progress, Progress("paint", number * total + done, request.count * total, preview=preview))

        watch(scheduler, on_step)
        pipeline.scheduler = scheduler
        arguments = work.arguments
        if work.task == "text":
            arguments = {**arguments, "latents": self._noise(work.size, generator)}
        memory.fit_decoder(self.parts.networks["vae"], work.size, self.device)
        try:
            picture: NDArray[np.float32] = pipeline(**arguments, generator=generator, output_type="np").images[0]
        except torch.cuda.OutOfMemoryError as error:
            raise memory.too_large(work.size, self.device) from error
        finally:
            pipeline.maybe_free_model_hooks()
        if not np.isfinite(picture).all():
            raise ModelError(f"{self.name!r} painted values that are not numbers. Try --precision fp32, or another copy of the model.")
        return Image.fromarray((picture * 255).round().astype(np.uint8))

    def _noise(self, size: Size, generator: torch.Generator) -> Tensor:
        """Where a picture starts: drawn in float32 on the CPU whatever the model runs in, so a seed means the same everywhere."""
        unet = self.parts.networks["unet"]
        shape = (1, unet.config.out_channels, size[1] // self._scale, size[0] // self._scale)
        return torch.randn(shape, generator=generator).to(self.device, unet.dtype)

    def _preview(self, x0: Tensor, size: Size) -> Image.Image:
        """The picture so far, decoded from shrunken latents: a fraction of a whole decoding, whatever the autoencoder."""
        vae = self.parts.networks["vae"]
        shrink = max(1, max(x0.shape[-2:]) // PREVIEW_LATENTS)
        latents = torch.nn.functional.avg_pool2d(x0[:1].float(), shrink) / vae.config.scaling_factor
        pixels = vae.decode(latents.to(vae.device, vae.dtype)).sample[0].float()
        pixels = pixels.nan_to_num().div(2).add(0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        return Image.fromarray(pixels.movedim(0, -1).cpu().numpy()).resize(size, Image.Resampling.BILINEAR)

    def _pipeline(self, task: str) -> Any:
        """The pipeline for a task, made once; all of them share the same networks."""
        if task not in self._pipelines:
            import diffusers

            kind = "sdxl" if "text_encoder_2" in self.parts.networks else "sd"
            options: dict[str, Any] = {**self.parts.options, "add_watermarker": False} if kind == "sdxl" else {"safety_checker": None}
            if task != "upscale" and kind == "sd":
                options |= {"feature_extractor": None, "requires_safety_checker": False}
            if task == "upscale":
                options["low_res_scheduler"] = scheduler_for("ddpm", self.parts.schedulers["low_res_scheduler"])
            if kind == "sdxl" and task == "text":
                options.pop("requires_aesthetics_score", None)
            scheduler = scheduler_for("ddim", self.parts.schedulers["scheduler"])
            cls = getattr(diffusers, _PIPELINES[kind, task])
            self._pipelines[task] = cls(**self.parts.networks, **self.parts.tokenizers, **options, scheduler=scheduler)
            self._pipelines[task].set_progress_bar_config(disable=True)
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
        """Load the wanted LoRA files and set their weights; nothing is done when they are the ones in place."""
        if loras == self._loras:
            return
        pipeline = self._pipeline("upscale" if self.parts.family.kind == "upscale" else "text")
        pipeline.unload_lora_weights()
        self._loras = []
        for number, lora in enumerate(loras):
            check_lora(lora.file)
            try:
                pipeline.load_lora_weights(
                    str(lora.file.parent),
                    weight_name=lora.file.name,
                    adapter_name=f"lora{number}",
                    local_files_only=True,
                    use_safetensors=True,
                )
            except Exception as error:  # diffusers and peft raise many kinds for one cause: a file that does not fit this model
                pipeline.unload_lora_weights()
                raise RequestError(
                    f"the LoRA {str(lora.file)!r} does not fit {self.parts.family.words}: {str(error).splitlines()[0][:200]}"
                ) from error
        if loras:
            pipeline.set_adapters([f"lora{number}" for number in range(len(loras))], [lora.weight for lora in loras])
        self._loras = list(loras)

    def _warn_of_long_prompt(self, request: PaintRequest, on_progress: OnProgress | None) -> None:
        length = len(self.parts.tokenizers["tokenizer"](request.prompt).input_ids)
        if length > MAX_TOKENS:
            tell(on_progress, Progress("paint", 0, 1, note=f"the prompt is {length} tokens long; this model reads the first {MAX_TOKENS}"))


def _canvas(request: PaintRequest) -> tuple[Image.Image, Image.Image]:
    """The picture to repaint and the mask of what is painted anew, with new room on the sides that `outpaint` names."""
    assert request.image is not None
    picture = open_picture(request.image)
    mask = Image.new("L", picture.size) if request.mask is None else open_mask(request.mask).resize(picture.size, Image.Resampling.NEAREST)
    if not request.outpaint:
        return picture, mask
    canvas, new_room = extend(picture, **request.outpaint)
    new_room.paste(mask, (request.outpaint.get("left", 0), request.outpaint.get("top", 0)))
    return canvas, new_room


def _put_back(painted: Image.Image, canvas: Image.Image, mask: Image.Image, box: Box) -> Image.Image:
    part = join(canvas.crop(box), painted.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.LANCZOS), mask.crop(box))
    whole = canvas.copy()
    whole.paste(part, box[:2])
    return whole


def open_picture(path: Path) -> Image.Image:
    """A picture to start from, upright and RGB, transparent parts over white.  PictureFolderError when it cannot be read."""
    return _opened(path, "RGB")


def open_mask(path: Path) -> Image.Image:
    return _opened(path, "L")


def _opened(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path, formats=OPEN_FORMATS) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.has_transparency_data:
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
            return picture.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureFolderError(f"{str(path)!r} cannot be read as a picture ({error}).") from error
