"""The routes of AUTOMATIC1111's web UI that editors' plug-ins use.  Fields that have no meaning here are accepted."""

from __future__ import annotations

import base64
import json
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from bowerbird.jobs import Job
from bowerbird.jobs.asking import check_size, paint_request
from bowerbird.picture_files import infotext
from bowerbird.request import PaintRequest
from bowerbird.server.errors import RESPONSES, ApiError, of_job
from bowerbird.server.serving import Serving
from bowerbird.server.uploads import from_base64, keep_mask, keep_picture

_SAMPLERS = {"DPM++ 2M": "dpm++2m", "Euler": "euler", "Heun": "heun", "DDIM": "ddim", "DDPM": "ddpm"}
_PRETRAINED_SAMPLERS = {**_SAMPLERS, "Euler a": "euler-ancestral", "LCM": "lcm"}
_MAX_COUNT = 16


class Txt2Img(BaseModel):
    """What is read of a txt2img body; these clients send much more."""

    model_config = ConfigDict(extra="ignore")

    prompt: str = Field("", max_length=32_000)
    negative_prompt: str = Field("", max_length=32_000)
    seed: int = Field(-1, ge=-1, lt=2**63)
    steps: int | None = Field(None, ge=1, le=10_000)
    cfg_scale: float | None = Field(None, ge=0, le=100)
    width: int | None = Field(None, ge=8, le=8192)
    height: int | None = Field(None, ge=8, le=8192)
    batch_size: int = Field(1, ge=1, le=_MAX_COUNT)
    n_iter: int = Field(1, ge=1, le=_MAX_COUNT)
    sampler_name: str | None = Field(None, max_length=80)
    sampler_index: str | None = Field(None, max_length=80)
    override_settings: dict[str, Any] = Field(default_factory=dict)


class Img2Img(Txt2Img):
    init_images: list[str] = Field(min_length=1, max_length=1, description="one picture, base64")
    mask: str | None = Field(None, description="base64; white is painted anew")
    denoising_strength: float = Field(0.75, ge=0, le=1)


class Images(BaseModel):
    images: list[str]
    parameters: dict[str, Any]
    info: str


def routes(serving: Serving) -> APIRouter:
    router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"], responses=RESPONSES)

    @router.post("/txt2img", response_model=Images)
    async def txt2img(asked: Txt2Img, request: Request) -> Images:
        return await _paint(serving, request, asked, {})

    @router.post("/img2img", response_model=Images)
    async def img2img(asked: Img2Img, request: Request) -> Images:
        image, size = await keep_picture(serving.queue, from_base64(asked.init_images[0], "init_images"), "init_images")
        fields: dict[str, Any] = {"image": image, "strength": asked.denoising_strength}
        if asked.mask is not None:
            fields["mask"] = await keep_mask(serving.queue, from_base64(asked.mask, "mask"), size, from_alpha=False)
        return await _paint(serving, request, asked, fields)

    @router.get("/progress")
    async def progress(skip_current_image: bool = False) -> dict[str, Any]:
        running = serving.queue.jobs(states=("running",), kinds=("paint", "upscale"), limit=1)
        at = running[0].progress if running else None
        state = {
            "skipped": False,
            "interrupted": False,
            "job": running[0].id if running else "",
            "job_count": serving.queue.counts()["queued"] + len(running),
            "sampling_step": at.done if at else 0,
            "sampling_steps": at.total if at else 0,
        }
        preview = None
        if at is not None and at.preview_path is not None and not skip_current_image:
            preview = base64.b64encode(at.preview_path.read_bytes()).decode()
        done = at.done / at.total if at and at.total else 0.0
        eta = (at.seconds_left if at else None) or 0.0
        return {"progress": done, "eta_relative": eta, "state": state, "current_image": preview, "textinfo": at.message if at else None}

    @router.post("/interrupt")
    async def interrupt() -> dict[str, Any]:
        running: list[Job] = serving.queue.jobs(states=("running",), kinds=("paint", "upscale"))
        await serving.cancel(running)
        return {}

    @router.get("/sd-models")
    async def sd_models() -> list[dict[str, Any]]:
        return [
            {"title": entry.name, "model_name": entry.name, "hash": None, "sha256": None, "filename": entry.name, "config": None}
            for entry in serving.catalogue.entries()
        ]

    @router.get("/samplers")
    async def samplers() -> list[dict[str, Any]]:
        return [{"name": name, "aliases": [ours], "options": {}} for name, ours in _PRETRAINED_SAMPLERS.items()]

    @router.get("/options")
    async def options() -> dict[str, Any]:
        return {"sd_model_checkpoint": serving.catalogue.find(None).name, "samples_format": "png"}

    return router


async def _paint(serving: Serving, request: Request, asked: Txt2Img, pictures: dict[str, Any]) -> Images:
    if asked.n_iter * asked.batch_size > _MAX_COUNT:
        raise ApiError(400, f"n_iter times batch_size is at most {_MAX_COUNT}.", param="batch_size", code="invalid_value")
    chosen = asked.override_settings.get("sd_model_checkpoint")
    entry = serving.catalogue.find(chosen if isinstance(chosen, str) else None, forgiving=True)
    samplers = _PRETRAINED_SAMPLERS if entry.kind in ("diffusers", "checkpoint") else _SAMPLERS
    size = check_size(asked.width, asked.height) if asked.width and asked.height else None
    fields = {
        "negative": asked.negative_prompt or None,
        "count": asked.n_iter * asked.batch_size,
        "seed": asked.seed if asked.seed >= 0 else None,
        "steps": asked.steps,
        "guidance": asked.cfg_scale,
        "size": size,
        "sampler": samplers.get(asked.sampler_name or asked.sampler_index or ""),  # one it has not: the model's own
        **pictures,
    }
    asked_for, notes = paint_request(entry, asked.prompt, fields)
    (job,) = await serving.over(await serving.submit("paint", [asked_for], request), request)
    if job.error is not None:
        raise of_job(job.error)
    if job.state != "done":
        raise ApiError(409, "the job was cancelled.", code="job_cancelled")
    settings = PaintRequest.model_validate(job.result["settings"])
    seeds = job.result["seeds"]
    texts = [infotext(settings.model_copy(update={"seed": seed, "count": 1})) for seed in seeds]
    width, height = job.result["sizes"][0]
    info = {
        "prompt": settings.prompt,
        "all_prompts": [settings.prompt] * len(seeds),
        "negative_prompt": settings.negative,
        "seed": seeds[0],
        "all_seeds": seeds,
        "width": width,
        "height": height,
        "sampler_name": settings.sampler,
        "cfg_scale": settings.guidance,
        "steps": settings.steps,
        "sd_model_name": entry.name,
        "infotexts": texts,
        "extra_generation_params": {},
        "notes": [*notes, *job.notes],
    }
    images = [base64.b64encode(path.read_bytes()).decode() for path in job.paths]
    return Images(images=images, parameters=asked.model_dump(exclude={"init_images", "mask"}), info=json.dumps(info))
