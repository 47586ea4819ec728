"""Our own routes: every kind of job, its progress as events, its files; models and recipes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from bowerbird.jobs import CompareRequest, DescribeRequest, EvaluateRequest, Job, Kind, ModelEntry, State, TrainRequest, TuneRequest
from bowerbird.jobs.asking import final_words
from bowerbird.jobs.requests import CAPTIONERS, AnyRequest, read_job_request
from bowerbird.prompts import in_words, lock
from bowerbird.prompts.library import style_families, style_previews
from bowerbird.recipe import built_in_recipes, recipe_text
from bowerbird.request import PaintRequest, read_request
from bowerbird.server.errors import RESPONSES, ApiError
from bowerbird.server.serving import Serving
from bowerbird.server.uploads import keep_picture

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # of single pictures
_MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif"}
JobId = Annotated[str, InPath(pattern="^[0-9a-f]{16}$")]


class JobsAsked(BaseModel):
    """Jobs to accept, all or none."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["paint", "upscale", "compare"] = Field("paint", description="compare: a sheet along `x`, `y`, `z`, the last of its paths")
    requests: list[dict[str, Any]] = Field(min_length=1, max_length=1000, description="painting requests; `model` is a name of /api/models")
    previews: int = Field(0, ge=0, le=50, description="how many pictures on the way")
    lock: bool = Field(False, description="the prompts are final: they are read as they stand")


class Moved(BaseModel):
    to: int = Field(ge=0, le=1_000_000, description="place among the waiting jobs, 0 being the next")


class Uploaded(BaseModel):
    pictures: Path = Field(description="what to name as `pictures` of a training, as `image` or `mask` of a painting, or to be described")


class StyleEntry(BaseModel):
    """What `styles` of a request may name."""

    name: str
    family: str
    prompt: str = Field(description="the words around a prompt, {prompt}")
    negative: str
    preview: str | None = Field(description="where its preview picture is, if it has one")


class Final(BaseModel):
    """Words as a model will read them."""

    prompt: str
    negative: str
    seed: int | None = Field(description="of the first picture that reads them, with which they are drawn again")
    count: int = Field(description="how many pictures read them")


def preview_address(style: str) -> str:
    """Where the preview picture of a style is fetched from."""
    return f"/api/styles/{quote(style, safe='')}/preview"


def routes(serving: Serving) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["Bowerbird"], responses=RESPONSES)
    queue = serving.queue

    @router.get("/models")
    async def models() -> list[ModelEntry]:
        return serving.catalogue.entries()

    @router.get("/models/{name}")
    async def model(name: str) -> ModelEntry:
        found = {entry.name: entry for entry in serving.catalogue.entries()}
        if name not in found:
            raise ApiError(404, f"there is no model {name!r:.80}.", param="model", code="model_not_found")
        return found[name]

    @router.get("/recipes")
    async def recipes() -> dict[str, str]:
        """The built-in recipes as TOML; the comment at the top of each says hardware, time and expected result."""
        return {name: recipe_text(name) for name in built_in_recipes()}

    @router.get("/styles")
    async def styles() -> list[StyleEntry]:
        shown = style_previews()
        return [
            StyleEntry(
                name=name,
                family=family,
                prompt=style.prompt,
                negative=style.negative,
                preview=preview_address(name) if name in shown else None,
            )
            for family, members in style_families().items()
            for name, style in members.items()
        ]

    @router.get("/styles/{name:path}/preview", response_class=FileResponse)
    async def style_preview(name: str) -> FileResponse:
        """How the style looks, a small WebP."""
        place = style_previews().get(name)
        if place is None:
            raise ApiError(404, f"there is no preview of a style {name!r:.80}.", code="not_found")
        return FileResponse(place, media_type=_MEDIA[".webp"])

    @router.get("/jobs")
    async def jobs(
        state: Annotated[list[State] | None, Query()] = None,
        kind: Annotated[list[Kind] | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        before: Annotated[float | None, Query(description="only those created earlier, to page on")] = None,
    ) -> list[Job]:
        """Jobs, the newest first; asked for those that wait alone, in their order."""
        return queue.jobs(state or (), kind or (), limit, before)

    @router.post("/jobs", status_code=202)
    async def submit(asked: JobsAsked, request: Request) -> list[Job]:
        """Accept painting requests; they are on the disk when this answers."""
        requests = [_painting(serving, fields, asked.kind) for fields in asked.requests]
        if asked.lock:
            if asked.kind == "compare":
                raise ApiError(400, "lock: a sheet's prompts are made anew in each place.", param="lock", code="invalid_value")
            requests = [lock(each) for each in requests]
        for each in requests:
            for place in filter(None, (each.image, each.mask, *(lora.file for lora in each.loras))):
                _check_place(serving, place, "image")
        return await serving.submit(asked.kind, requests, request, asked.previews)

    @router.post("/final")
    async def final(asked: dict[str, Any]) -> list[Final]:
        """The final prompts of a painting request, before it is painted, one for each that differs; with that seed they are painted."""
        entry = serving.catalogue.find(None if asked.get("model") is None else str(asked["model"]))
        words = await run_in_threadpool(final_words, entry, _painting(serving, asked))
        return [Final(prompt=in_words(one), negative=one.negative, seed=one.seed, count=one.count) for one in words]

    @router.post("/describe", status_code=202)
    async def describe(asked: DescribeRequest, request: Request) -> Job:
        """Accept pictures to put into words, the `captions` of the job's result; `like` may be a model of /api/models trained here."""
        for place in asked.pictures:
            _check_place(serving, place, "pictures")
        known = {entry.name: entry.where for entry in serving.catalogue.entries()}
        if asked.like is not None and str(asked.like) in known:
            asked = asked.model_copy(update={"like": Path(known[str(asked.like)])})
        elif asked.like is not None:
            _check_place(serving, asked.like, "like")
        if asked.captioner is not None and asked.captioner not in CAPTIONERS:
            _check_place(serving, Path(asked.captioner), "captioner")
        requests: list[AnyRequest] = [asked]
        return (await serving.submit("describe", requests, request))[0]

    @router.post("/train", status_code=202)
    async def train(asked: dict[str, Any], request: Request) -> Job:
        """Accept a training; with the `out` of an earlier one, go on with it."""
        training: TrainRequest | TuneRequest
        if "model" in asked:
            training = read_job_request(TuneRequest, asked)
            training = training.model_copy(update={"model": _where(serving, training.model)})
        else:
            training = read_job_request(TrainRequest, asked)
        if not serving.may_read(training.pictures):
            raise ApiError(400, "pictures: upload them to /api/pictures and give what it answers.", param="pictures", code="invalid_value")
        runs = queue.home / "runs"
        if training.out is not None and not serving.loopback and training.out.absolute().parent != runs:
            raise ApiError(400, f"out: a run in {str(runs)!r}, or leave it out.", param="out", code="invalid_value")
        if isinstance(training, TrainRequest) and training.recipe not in built_in_recipes():
            _check_place(serving, Path(training.recipe), "recipe")
        return (await serving.submit("tune" if isinstance(training, TuneRequest) else "train", [training], request))[0]

    @router.post("/evaluate", status_code=202)
    async def evaluate(asked: EvaluateRequest, request: Request) -> Job:
        """Accept an evaluation of a model (by name) or of a folder of pictures."""
        known = {entry.name: entry.where for entry in serving.catalogue.entries()}
        if asked.generated in known:
            asked = asked.model_copy(update={"generated": known[asked.generated]})
        else:
            _check_place(serving, Path(asked.generated), "generated")
        for name in ("against", "train", "captions", "clip"):
            place: Path | None = getattr(asked, name)
            if place is not None:
                _check_place(serving, place, name)
        requests: list[AnyRequest] = [asked]
        return (await serving.submit("evaluate", requests, request))[0]

    @router.post("/pictures", openapi_extra=_UPLOAD)
    async def pictures(request: Request) -> Uploaded:
        """Keep an archive of pictures to train on, or one picture to paint from or to describe."""
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise ApiError(400, "The body must be multipart/form-data with one file.", code="invalid_body")
        async with request.form(max_files=1, max_fields=0) as form:
            files = [value for value in form.values() if isinstance(value, UploadFile)]
            name = (files[0].filename or "") if files else ""
            suffix = next((suffix for suffix in (*_ARCHIVES, *_SUFFIXES) if name.lower().endswith(suffix)), None)
            if not files or suffix is None:
                kinds = ", ".join((*_ARCHIVES, *_SUFFIXES))
                raise ApiError(400, f"send one file, an archive or a picture: {kinds}.", param="file", code="invalid_value")
            data = await files[0].read()
        if suffix in _SUFFIXES:
            return Uploaded(pictures=(await keep_picture(queue, data, "file"))[0])
        return Uploaded(pictures=await run_in_threadpool(queue.keep_input, data, suffix))

    @router.get("/jobs/{job_id}")
    async def job(job_id: JobId) -> Job:
        return queue.get(job_id)

    @router.delete("/jobs/{job_id}")
    async def cancel(job_id: JobId) -> Job:
        """Cancel a job; a worker on it stops within a step.  One that is over stays as it is."""
        return await serving.write(queue.cancel, job_id)

    @router.post("/jobs/{job_id}/move")
    async def move(job_id: JobId, moved: Moved) -> list[Job]:
        """Give a waiting job another place; the waiting jobs in their order."""
        await serving.write(queue.move, job_id, moved.to)
        return queue.jobs(states=("queued",))

    @router.get("/jobs/{job_id}/events", response_class=StreamingResponse)
    async def events(job_id: JobId) -> StreamingResponse:
        """The job at each change, as server-sent events, until it is over."""
        queue.get(job_id)
        return StreamingResponse(_events(serving, job_id), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @router.get("/jobs/{job_id}/preview", response_class=FileResponse)
    async def preview(job_id: JobId) -> FileResponse:
        """How it looks now."""
        progress = queue.get(job_id).progress
        if progress is None or progress.preview_path is None or not progress.preview_path.is_file():
            raise ApiError(404, "there is no preview yet.", code="not_found")
        return FileResponse(progress.preview_path, media_type="image/png", headers={"Cache-Control": "no-store"})

    return router


def pictures(serving: Serving) -> APIRouter:
    """Finished pictures, by an address that only who asked for them knows."""
    router = APIRouter(tags=["Bowerbird"], responses=RESPONSES)

    @router.get("/pictures/{job_id}/{number}", response_class=FileResponse)
    async def picture(job_id: JobId, number: Annotated[int, InPath(ge=0, le=10_000)]) -> FileResponse:
        paths = serving.queue.get(job_id).paths
        if number >= len(paths) or not paths[number].is_file() or paths[number].suffix not in _MEDIA:
            raise ApiError(404, "there is no such picture, or no longer.", code="not_found")
        return FileResponse(paths[number], media_type=_MEDIA[paths[number].suffix])

    return router


async def _events(serving: Serving, job_id: str) -> AsyncIterator[bytes]:
    async for job in serving.follow(job_id):
        yield b": ping\n\n" if job is None else f"event: job\ndata: {job.model_dump_json()}\n\n".encode()


def _painting(serving: Serving, fields: dict[str, Any], kind: Kind = "paint") -> PaintRequest:
    """A painting request whose models are looked up by their names."""
    fields = {**fields, "model": _where(serving, fields.get("model"))}
    asked = read_job_request(CompareRequest, fields) if kind == "compare" else read_request(fields)
    return asked.model_copy(update={"then": [_where(serving, name) for name in asked.then]})


def _where(serving: Serving, name: object) -> str:
    return serving.catalogue.find(None if name is None else str(name)).where


def _check_place(serving: Serving, place: Path, param: str) -> None:
    if not serving.may_read(place):
        raise ApiError(400, f"{param}: only what was uploaded can be named from another machine.", param=param, code="invalid_value")


_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"]}
            }
        },
    }
}
