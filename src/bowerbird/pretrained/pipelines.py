"""diffusers' pipelines made of a model's parts, and the folders they are kept in."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bowerbird.pretrained.loading import Parts
from bowerbird.pretrained.plan import Task
from bowerbird.pretrained.samplers import scheduler_for

_PIPELINES = {
    ("sd", "text"): "StableDiffusionPipeline",
    ("sd", "image"): "StableDiffusionImg2ImgPipeline",
    ("sd", "inpaint"): "StableDiffusionInpaintPipeline",
    ("sd", "upscale"): "StableDiffusionUpscalePipeline",
    ("sdxl", "text"): "StableDiffusionXLPipeline",
    ("sdxl", "image"): "StableDiffusionXLImg2ImgPipeline",
    ("sdxl", "inpaint"): "StableDiffusionXLInpaintPipeline",
}


def make_pipeline(parts: Parts, task: Task) -> Any:
    """The pipeline of these parts for a task."""
    import diffusers

    kind = "sdxl" if "text_encoder_2" in parts.networks else "sd"
    made = {**parts.networks, **parts.tokenizers, "scheduler": scheduler_for("ddim", parts.schedulers["scheduler"])}
    if kind == "sdxl":
        options = {**parts.options, "add_watermarker": False}  # our mark is in the file, not in the pixels
    elif task == "upscale":
        options = {"low_res_scheduler": scheduler_for("ddpm", parts.schedulers["low_res_scheduler"])}
    else:
        options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = getattr(diffusers, _PIPELINES[kind, task])(**made, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def folder_files(parts: Parts, unet: Any, task: Task) -> Iterator[tuple[str, bytes]]:
    """The files of a diffusers folder of these parts with another U-Net, by name; one in memory at a time."""
    import diffusers

    pipeline = make_pipeline(replace(parts, networks={**parts.networks, "unet": unet}), task)
    own = dict(parts.schedulers["scheduler"])
    pipeline.scheduler = getattr(diffusers, own.pop("_class_name")).from_config(own)
    pipeline.register_modules(scheduler=pipeline.scheduler)
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder, safe_serialization=True)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                yield path.relative_to(folder).as_posix(), path.read_bytes()
