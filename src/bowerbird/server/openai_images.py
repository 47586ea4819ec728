"""OpenAI's Images API: generations, edits, variations, models.

Any model string is accepted: one that is not ours means the default, because clients are configured with "dall-e-3".  Any
size within reason is honoured.  What the API has no word for comes as extra fields of the body (`extra_body` in OpenAI's
Python client): those of `PaintRequest`, by their names and with their bounds.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from copy import copy
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from starlette.datastructures import UploadFile

from bowerbird.faults import first_fault
from bowerbird.jobs import Job, Kind, ModelEntry
from bowerbird.jobs.asking import paint_request, read_size
from bowerbird.prompts import in_words, lock
from bowerbird.request import PaintRequest
from bowerbird.server.errors import RESPONSES, ApiError, of_fields, of_job
from bowerbird.server.serving import Serving
from bowerbird.server.uploads import keep_mask, keep_picture

MAX_COUNT = 10
# Fields of PaintRequest that a client may set beside OpenAI's own; none that names a file.
_EXTRA = (
    *("negative", "label", "seed", "steps", "sampler", "guidance", "speed", "preset", "styles", "expand", "literal"),
    *("mask_at", "mask_tolerance", "detail", "outpaint", "strength", "then", "exact"),
)
_JSON = {"outpaint": '{"left": 64}', "mask_at": "[400, 60]"}  # in a form; with an example
_SPEEDS = {"hd": "quality", "high": "quality", "xhigh": "quality", "max": "quality", "low": "extreme"}
Quality = Literal["standard", "hd", "low", "medium", "high", "xhigh", "max", "auto"]


class _OpenAIFields(BaseModel):
    """What OpenAI's clients send."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field("", max_length=32_000, description="what to paint")
    model: str | None = Field(None, max_length=200, description="a name of /v1/models; any other means the default")
    n: int | None = Field(None, ge=1, le=MAX_COUNT, description="how many pictures")
    size: str | None = Field(None, max_length=40, description="WIDTHxHEIGHT, any; auto is the model's own")
    quality: Quality | None = Field(None, description="low paints in fewer steps, hd and high in more")
    style: Literal["vivid", "natural"] | None = Field(None, description="accepted, and without effect")
    response_format: Literal["url", "b64_json"] | None = Field(None, description="url by default for dall-e models, else b64_json")
    background: Literal["transparent", "opaque", "auto"] | None = Field(None, description="pictures are opaque")
    moderation: Literal["low", "auto"] | None = Field(None, description="accepted, and without effect")
    input_fidelity: Literal["high", "low"] | None = Field(None, description="accepted, and without effect; `strength` decides")
    output_format: Literal["png", "jpeg", "webp"] | None = Field(None, description="file format of the pictures")
    output_compression: int | None = Field(None, ge=0, le=100, description="accepted, and without effect")
    stream: bool | None = Field(None, description="answer as server-sent events")
    partial_images: int | None = Field(None, ge=0, le=3, description="how many pictures on the way, when streaming")
    user: str | None = Field(None, max_length=1000, description="accepted, and without effect")
    safety_identifier: str | None = Field(None, max_length=1000, description="accepted, and without effect")


def _optional(field: FieldInfo) -> Any:
    """The field of PaintRequest with its bounds and help, to be left out at will."""
    optional = copy(field)
    optional.default, optional.default_factory = None, None
    return (field.annotation | None, optional)  # type: ignore[operator]


_extra_fields = {name: _optional(field) for name, field in PaintRequest.model_fields.items() if name in _EXTRA}
_extra_fields["negative_prompt"] = (str | None, Field(None, description="another word for negative"))
_extra_fields["lock"] = (bool, Field(False, description="the prompt is final: it is read as it stands"))
Asked = create_model("Asked", __base__=_OpenAIFields, **_extra_fields)


class GenerationRequest(Asked):
    """The body of /v1/images/generations."""

    prompt: str = Field(min_length=1, max_length=32_000, description="what to paint")


class Picture(BaseModel):
    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = Field(None, description="what was painted in the end, after styles; absent where the model reads no text")
    seed: int = Field(description="asking with this seed, for one picture, paints it again")


class ImagesAnswer(BaseModel):
    """What OpenAI's clients expect, with the seeds and notes beside it, which they pass on."""

    created: int
    data: list[Picture]
    background: str = "opaque"
    output_format: str
    quality: str
    size: str
    model: str = Field(description="which model painted")
    notes: list[str] = Field(default_factory=list, description="what the model could not use of the request, and the like")
    usage: dict[str, Any]


class ModelAnswer(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "bowerbird"


class ModelsAnswer(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelAnswer]


def _usage() -> dict[str, Any]:
    """Nothing here is counted in tokens; clients that add them up find zeros."""
    none = {"text_tokens": 0, "image_tokens": 0}
    return {"total_tokens": 0, "input_tokens": 0, "output_tokens": 0, "input_tokens_details": none, "output_tokens_details": dict(none)}


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        **{name: {"type": "string"} for name in _OpenAIFields.model_fields},
                    },
                    "required": ["image"],
                }
            }
        },
    }
}


def routes(serving: Serving) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=RESPONSES)

    @router.get("/models", response_model=ModelsAnswer)
    async def models() -> ModelsAnswer:
        return ModelsAnswer(data=[ModelAnswer(id=entry.name, created=entry.created) for entry in serving.catalogue.entries()])

    @router.get("/models/{name:path}", response_model=ModelAnswer)
    async def model(name: str) -> ModelAnswer:
        for entry in serving.catalogue.entries():
            if entry.name == name:
                return ModelAnswer(id=entry.name, created=entry.created)
        raise ApiError(404, f"The model '{name:.80}' does not exist.", param="model", code="model_not_found")

    @router.post("/images/generations", response_model=ImagesAnswer, response_model_exclude_none=True)
    async def generations(asked: GenerationRequest, request: Request) -> Any:
        return await _answer(serving, request, asked, "image_generation", {})

    @router.post("/images/edits", response_model=ImagesAnswer, response_model_exclude_none=True, openapi_extra=_BODY)
    async def edits(request: Request) -> Any:
        asked, image, mask = await _read_form(request)
        if not asked.prompt:
            raise ApiError(400, "Missing required parameter: 'prompt'.", param="prompt", code="missing_required_parameter")
        fields = await _pictures(serving, image, mask)
        return await _answer(serving, request, asked, "image_edit", fields)

    @router.post("/images/variations", response_model=ImagesAnswer, response_model_exclude_none=True, openapi_extra=_BODY)
    async def variations(request: Request) -> Any:
        asked, image, mask = await _read_form(request)
        if mask is not None:
            raise ApiError(400, "Unknown parameter: 'mask'.", param="mask", code="unknown_parameter")
        return await _answer(serving, request, asked, "image_edit", await _pictures(serving, image, None))

    return router


async def _answer(serving: Serving, request: Request, asked: Any, event: str, pictures: dict[str, Any]) -> Any:
    """Have it painted, and answer with pictures, or stream them."""
    if asked.background == "transparent":
        raise ApiError(
            400, "The models here paint no transparency; use background auto or opaque.", param="background", code="invalid_value"
        )
    entry = _find(serving, asked.model)
    fields = {name: getattr(asked, name) for name in _EXTRA} | {
        "count": asked.n,
        "size": read_size(asked.size),
        "format": asked.output_format,
        "negative": asked.negative or asked.negative_prompt,
        "then": [serving.catalogue.find(name).where for name in asked.then or ()],
        **pictures,
    }
    if fields["speed"] is None and entry.kind in ("diffusers", "checkpoint"):
        fields["speed"] = _SPEEDS.get(asked.quality or "")
    asked_for, notes = paint_request(entry, asked.prompt, fields)
    if asked.lock:
        asked_for = lock(asked_for)
    kind: Kind = "paint"
    if asked.stream:
        jobs = await serving.submit(kind, [asked_for], request, previews=asked.partial_images or 0)
        return StreamingResponse(_stream(serving, jobs[0], entry, asked, event, notes), media_type="text/event-stream", headers=_LIVE)
    (job,) = await serving.over(await serving.submit(kind, [asked_for], request), request)
    as_url = asked.response_format == "url" or (asked.response_format is None and (asked.model or "").startswith("dall-e"))
    data, paths = [], _result(job)
    read = in_words(PaintRequest.model_validate(job.result["settings"])) or None
    for number, path in enumerate(paths):
        content = {"url": f"{str(request.base_url).rstrip('/')}/pictures/{job.id}/{number}"} if as_url else {"b64_json": _base64(path)}
        data.append(Picture(**content, revised_prompt=read, seed=job.result["seeds"][number]))
    answer = ImagesAnswer(
        created=int(job.created), data=data, model=entry.name, notes=[*notes, *job.notes], usage=_usage(), **_looks(job, asked)
    )
    return JSONResponse(answer.model_dump(exclude_none=True))


def _find(serving: Serving, name: str | None) -> ModelEntry:
    return serving.catalogue.find(name or None, forgiving=True)


def _result(job: Job) -> list[Path]:
    """The pictures of a job that is over; its error raised."""
    if job.error is not None:
        raise of_job(job.error)
    if job.state != "done":
        raise ApiError(409, "the job was cancelled.", code="job_cancelled", headers={"x-should-retry": "false"})
    return job.paths


def _looks(job: Job, asked: Any) -> dict[str, str]:
    width, height = job.result["sizes"][0]
    quality = {"hd": "high", "standard": "medium", "xhigh": "high", "max": "high", "auto": "medium", None: "medium"}
    return {
        "size": f"{width}x{height}",
        "output_format": job.result["settings"]["format"],
        "quality": quality.get(asked.quality, asked.quality),
        "background": "opaque",
    }


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


# ---------------------------------------------------------------------------------------------------- streaming

_LIVE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def _stream(serving: Serving, job: Job, entry: ModelEntry, asked: Any, event: str, notes: list[str]) -> AsyncIterator[bytes]:
    """Partial pictures as they come, then each finished one; the job is cancelled when the client goes away."""
    told, over = 0, False
    size = "x".join(map(str, read_size(asked.size) or entry.size or ("auto",)))
    try:
        async for now in serving.follow(job.id):
            if now is None:
                yield b": ping\n\n"
                continue
            for path in now.preview_paths()[told:]:
                yield _event(
                    f"{event}.partial_image", path, {"partial_image_index": told, "output_format": "png", "size": size, "quality": "medium"}
                )
                told += 1
            over, job = now.is_over, now
        try:
            if not over:
                raise ApiError(503, "the server is shutting down; the job waits and will be done.", code="shutting_down")
            for number, path in enumerate(_result(job)):
                extra = {"seed": job.result["seeds"][number], "usage": _usage(), "notes": [*notes, *job.notes], "model": entry.name}
                yield _event(f"{event}.completed", path, {**_looks(job, asked), **extra})
        except ApiError as error:
            body = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
            yield f"data: {json.dumps({'error': body})}\n\n".encode()
    finally:
        if not over and not serving.draining():
            await serving.cancel([job])


def _event(kind: str, path: Path, more: dict[str, Any]) -> bytes:
    body = {"type": kind, "b64_json": _base64(path), "created_at": int(time.time()), "background": "opaque", **more}
    return f"event: {kind}\ndata: {json.dumps(body)}\n\n".encode()


# ---------------------------------------------------------------------------------------------------- forms


async def _read_form(request: Request) -> tuple[Any, bytes, bytes | None]:
    """Fields, image and mask of a multipart body; everything in it arrives as text."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, "The body must be multipart/form-data.", code="invalid_body")
    fields: dict[str, Any] = {}
    files: dict[str, list[bytes]] = {"image": [], "mask": []}
    async with request.form(max_files=17, max_fields=100, max_part_size=2**20) as form:
        for name, value in form.multi_items():
            plain = name.removesuffix("[]")
            if isinstance(value, UploadFile):
                if plain not in files:
                    raise ApiError(400, f"Unknown parameter: '{name:.80}'.", param=name[:80], code="unknown_parameter")
                files[plain].append(await value.read())
            elif plain in files:
                raise ApiError(400, f"{plain} is a file, not text; no URL is fetched.", param=plain, code="invalid_image")
            elif plain in ("styles", "literal", "then"):
                fields.setdefault(plain, []).append(value)
            else:
                fields[plain] = _plain(plain, value)
    if len(files["image"]) != 1 or len(files["mask"]) > 1:
        words = "Missing required parameter: 'image'." if not files["image"] else "Give one image and at most one mask."
        code = "missing_required_parameter" if not files["image"] else "invalid_value"
        raise ApiError(400, words, param="image", code=code)
    try:
        asked = Asked.model_validate(fields)
    except ValidationError as error:
        raise of_fields(first_fault(error)) from error
    return asked, files["image"][0], (files["mask"] or [None])[0]  # type: ignore[list-item]


def _plain(name: str, text: str) -> Any:
    """A form's text as JSON would have it where it is not a text: outpaint={"left": 64}, mask_at=[400, 60]."""
    if name in _JSON:
        try:
            return json.loads(text)
        except ValueError as error:
            raise ApiError(400, f"{name} is JSON such as {_JSON[name]}.", param=name, code="invalid_value") from error
    return text


async def _pictures(serving: Serving, image: bytes, mask: bytes | None) -> dict[str, Any]:
    """The image and the mask, kept; OpenAI's mask is transparent where the image is painted anew."""
    path, size = await keep_picture(serving.queue, image, "image")
    if mask is None:
        return {"image": path}
    return {"image": path, "mask": await keep_mask(serving.queue, mask, size, from_alpha=True)}
