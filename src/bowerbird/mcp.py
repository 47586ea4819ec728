"""Bowerbird as tools for chat assistants (Model Context Protocol): they draw, vary, enlarge and train through the queue.

`create_tools` makes the server object of the `mcp` SDK; `bowerbird mcp` speaks it over standard input and output, and
`bowerbird serve` over streamable HTTP at /mcp.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from bowerbird import __version__
from bowerbird.errors import BowerbirdError
from bowerbird.jobs import Catalogue, CompareRequest, Job, Kind, Queue, TrainRequest
from bowerbird.jobs.asking import describe_request, final_words, paint_request, read_size
from bowerbird.jobs.requests import CAPTIONERS, DEFAULT_RECIPE, AnyRequest, read_job_request
from bowerbird.picture_folder import for_each_picture, pictures_of
from bowerbird.prompts import in_words, lock
from bowerbird.recipe import built_in_recipes
from bowerbird.request import PaintRequest, read_request

MAX_COUNT = 4  # pictures in one answer: a chat has little room
_LOOK_SECONDS = 0.05
_ID_LENGTH = 16  # of a job

INSTRUCTIONS = (
    "Bowerbird paints pictures with models on this machine, some of them trained by the user on the user's own pictures. "
    "Ask list_models what there is and whether a model reads text or labels. Each picture comes with its name, which vary takes."
)

Picture = Annotated[
    str,
    Field(
        description="the name of a picture, as generate or vary gave it, or the path of a picture file, or of a folder: each of it",
        max_length=4000,
    ),
]
ModelName = Annotated[str | None, Field(description="a name of list_models; the default when left out")]


def _of(field: str, bound: dict[str, Any] | None = None) -> Any:
    """A field of the request: what it says of itself is what the assistant is told."""
    return Field(description=PaintRequest.model_fields[field].description, **(bound or {}))


def create_tools(
    queue: Queue,
    catalogue: Catalogue,
    may_read: Callable[[Path], bool] = lambda place: True,
    ready: Callable[[], None] = lambda: None,
) -> MCPServer[Any]:
    """The tools.  may_read: whether this client may name that place as pictures; ready: called before each job, to have workers."""
    tools: MCPServer[Any] = MCPServer("bowerbird", title="Bowerbird", version=__version__, instructions=INSTRUCTIONS, log_level="WARNING")

    @tools.tool(structured_output=False)
    async def generate(
        ctx: Context[Any, Any],
        prompt: Annotated[str, Field(description="what to paint")],
        model: ModelName = None,
        count: Annotated[int, _of("count", {"ge": 1, "le": MAX_COUNT})] = 1,
        size: Annotated[str | None, Field(description="WIDTHxHEIGHT in pixels; the model's own when left out")] = None,
        negative: Annotated[str | None, _of("negative")] = None,
        label: Annotated[str | None, _of("label")] = None,
        styles: Annotated[list[str] | None, _of("styles")] = None,
        preset: Annotated[str | None, _of("preset")] = None,
        speed: Annotated[str | None, _of("speed")] = None,
        expand: Annotated[str | None, _of("expand")] = None,
        literal: Annotated[list[str] | None, _of("literal")] = None,
        seed: Annotated[int | None, _of("seed", {"ge": 0, "lt": 2**63})] = None,
        steps: Annotated[int | None, _of("steps", {"ge": 1, "le": 1000})] = None,
        guidance: Annotated[float | None, _of("guidance", {"ge": 0, "le": 100})] = None,
        then: Annotated[list[str] | None, _of("then")] = None,
        final: Annotated[
            bool, Field(description="the prompt is final: it is read as it stands, such as one of final_prompt, edited")
        ] = False,
    ) -> list[Any]:
        """Paint pictures from words."""
        entry = _sentence(catalogue.find, model, True)
        fields: dict[str, Any] = {"count": count, "negative": negative, "label": label, "styles": styles, "preset": preset, "speed": speed}
        fields |= {
            "expand": expand,
            "literal": literal,
            "seed": seed,
            "steps": steps,
            "guidance": guidance,
            "size": _sentence(read_size, size),
        }
        fields["then"] = [_sentence(catalogue.find, name).where for name in then or ()]
        request, notes = _sentence(paint_request, entry, prompt, fields)
        return await _painted(ctx, _sentence(lock, request) if final else request, entry.name, notes)

    @tools.tool()
    async def final_prompt(
        prompt: Annotated[str, Field(description="what to paint")],
        model: ModelName = None,
        count: Annotated[int, _of("count", {"ge": 1, "le": MAX_COUNT})] = 1,
        negative: Annotated[str | None, _of("negative")] = None,
        styles: Annotated[list[str] | None, _of("styles")] = None,
        preset: Annotated[str | None, _of("preset")] = None,
        expand: Annotated[str | None, _of("expand")] = None,
        literal: Annotated[list[str] | None, _of("literal")] = None,
        seed: Annotated[int | None, _of("seed", {"ge": 0, "lt": 2**63})] = None,
    ) -> str:
        """What the model would read, after styles and prompt language, before anything is painted; with that seed generate reads it."""
        entry = _sentence(catalogue.find, model, True)
        fields = {
            "count": count,
            "negative": negative,
            "styles": styles,
            "preset": preset,
            "expand": expand,
            "literal": literal,
            "seed": seed,
        }
        request, notes = _sentence(paint_request, entry, prompt, fields)
        words = await anyio.to_thread.run_sync(lambda: _sentence(final_words, entry, request))
        finals = [{"final_prompt": in_words(one), "avoids": one.negative, "seed": one.seed, "count": one.count} for one in words]
        return json.dumps({"finals": finals, "notes": notes}, ensure_ascii=False)

    @tools.tool(structured_output=False)
    async def compare(
        ctx: Context[Any, Any],
        prompt: Annotated[str, Field(description="what to paint")],
        x: Annotated[str, Field(description=CompareRequest.model_fields["x"].description)],
        y: Annotated[str | None, Field(description=CompareRequest.model_fields["y"].description)] = None,
        z: Annotated[str | None, Field(description=CompareRequest.model_fields["z"].description)] = None,
        model: ModelName = None,
        seed: Annotated[int | None, _of("seed", {"ge": 0, "lt": 2**63})] = None,
    ) -> list[Any]:
        """The same picture under changed settings, side by side on one labelled sheet."""
        entry = _sentence(catalogue.find, model, True)
        painting, notes = _sentence(paint_request, entry, prompt, {"seed": seed})
        request = _sentence(read_job_request, CompareRequest, {**painting.model_dump(), "x": x, "y": y, "z": z})
        (job,) = await _done(ctx, "compare", [request])
        return [json.dumps({"model": entry.name, "notes": [*notes, *job.notes]}, ensure_ascii=False), Image(path=job.paths[-1])]

    @tools.tool()
    async def describe(
        ctx: Context[Any, Any],
        picture: Picture,
        model: ModelName = None,
        words_of: Annotated[str, Field(description="a folder of captioned pictures, or a captioner; else what the model learnt from")] = "",
    ) -> str:
        """Words for a picture, or each of a folder: captions of the nearest that a model learnt from, or what a captioner says."""
        if words_of and words_of not in CAPTIONERS and not may_read(Path(words_of)):
            raise ToolError("only what was uploaded can be named from another machine.")
        place = _sentence(_place, picture)
        pictures = _sentence(pictures_of, [place])
        request = _sentence(describe_request, _sentence(catalogue.find, model), pictures, words_of)
        (job,) = await _done(ctx, "describe", [request])
        captions = job.result["captions"]
        if place.is_dir():
            each = {picture.name: words for picture, words in zip(pictures, captions, strict=True) if words}
            return json.dumps({"each": each, "notes": job.notes}, ensure_ascii=False)
        return json.dumps(captions[0], ensure_ascii=False)

    @tools.tool()
    async def list_models() -> str:
        """What models there are, whether each reads text, and the labels it knows."""
        return json.dumps(
            [
                {
                    "name": entry.name,
                    "kind": entry.kind,
                    "reads_text": entry.reads_text,
                    "labels": entry.labels[:300],
                    "licence": entry.licence,
                }
                for entry in catalogue.entries()
            ],
            ensure_ascii=False,
        )

    @tools.tool(structured_output=False)
    async def vary(
        ctx: Context[Any, Any],
        picture: Picture,
        strength: Annotated[float | None, _of("strength", {"ge": 0, "le": 1})] = None,
        prompt: Annotated[str | None, Field(description="other words; those it was painted with when left out")] = None,
        count: Annotated[int, _of("count", {"ge": 1, "le": MAX_COUNT})] = 1,
        mask: Annotated[Picture | None, _of("mask")] = None,
        mask_at: Annotated[list[int] | None, _of("mask_at")] = None,
        mask_tolerance: Annotated[int | None, _of("mask_tolerance", {"ge": 0, "le": 255})] = None,
        detail: Annotated[bool, _of("detail")] = False,
        outpaint: Annotated[dict[str, int] | None, _of("outpaint")] = None,
        model: ModelName = None,
    ) -> list[Any]:
        """Paint variations of a picture, or a part of it anew, or continue it on some sides; of each picture, where it is a folder."""
        before, path = _sentence(_earlier, picture)
        fields = {**before, "image": path, "strength": strength, "count": count, "seed": None, "asked": None}
        fields["size"] = None if outpaint else fields.get("size")  # continued, it becomes larger
        fields |= {
            "mask": None if mask is None else _sentence(_place, mask),
            "mask_at": mask_at,
            "mask_tolerance": mask_tolerance,
            "detail": detail,
            "outpaint": outpaint,
        }
        entries = {entry.where: entry for entry in catalogue.entries()}
        own = entries.get(str(fields.pop("model", ""))) if model is None else None
        entry = own or _sentence(catalogue.find, model)
        words = str(fields.pop("prompt", ""))
        request, notes = _sentence(paint_request, entry, words if prompt is None else prompt, fields)
        return await _painted(ctx, request, entry.name, notes)

    @tools.tool(structured_output=False)
    async def upscale(
        ctx: Context[Any, Any],
        picture: Picture,
        model: Annotated[str | None, Field(description="a name of list_models, of one that enlarges; the first when left out")] = None,
    ) -> list[Any]:
        """Enlarge a picture, or each picture of a folder."""
        entry = _sentence(catalogue.find, model or next((each.name for each in catalogue.entries() if each.kind == "upscaler"), None))
        request = _sentence(read_request, {"model": entry.where, "image": _sentence(_place, picture)})
        return await _painted(ctx, request, entry.name, [], "upscale")

    @tools.tool()
    async def start_training(
        pictures: Annotated[str, Field(description="a folder of pictures on this machine, or an archive of one")],
        recipe: Annotated[str, Field(description=f"one of: {', '.join(built_in_recipes())}")] = DEFAULT_RECIPE,
        hours: Annotated[float | None, Field(ge=0.001, description="how long it may take")] = None,
        count: Annotated[int | None, Field(ge=1, description="or how many pictures it sees in all")] = None,
    ) -> str:
        """Train a model on the user's pictures.  It goes on in the background; watch_training says how far it is."""
        fields = {"pictures": pictures, "recipe": recipe, "hours": hours, "count": count}
        request = _sentence(read_job_request, TrainRequest, {name: value for name, value in fields.items() if value is not None})
        if recipe not in built_in_recipes():
            raise ToolError(f"there is no recipe {recipe!r:.80}. Known: {', '.join(built_in_recipes())}.")
        if not may_read(request.pictures):
            raise ToolError("only pictures that were uploaded can be named from another machine.")
        if not request.pictures.exists():
            raise ToolError(f"there is nothing at {pictures!r:.200}. Give the path of a folder of pictures on this machine.")
        ready()
        (job,) = await anyio.to_thread.run_sync(lambda: queue.submit("train", [request], origin="mcp"))
        return f"The training is job {job.id}; its run folder is {job.request['out']}. Ask watch_training({job.id!r}) how far it is."

    @tools.tool(structured_output=False)
    async def watch_training(
        job: Annotated[str, Field(description="what start_training answered", max_length=40)],
        wait_seconds: Annotated[float, Field(ge=0, le=60, description="wait so long for its end before answering")] = 0,
    ) -> list[Any]:
        """How far a training is, what its newest samples look like, and when it should be done."""
        end, now = time.monotonic() + wait_seconds, _sentence(queue.get, job)
        while not now.is_over and time.monotonic() < end:
            await anyio.sleep(_LOOK_SECONDS)
            now = queue.get(job)
        answer: list[Any] = [_in_words(now)]
        grids = sorted((Path(str(now.request.get("out", ""))) / "samples").glob("epoch-*.png"))
        return [*answer, *(Image(path=grid) for grid in grids[-1:])]

    @tools.tool()
    async def stop_training(job: Annotated[str, Field(description="what start_training answered", max_length=40)]) -> str:
        """Stop a training; it is saved where it is."""
        return _in_words(await anyio.to_thread.run_sync(lambda: _sentence(queue.cancel, job)))

    async def _done(ctx: Context[Any, Any], kind: Kind, requests: Sequence[AnyRequest]) -> list[Job]:
        """The jobs when all are over, telling meanwhile how far they are; ToolError when none of them came to something."""
        ready()
        jobs: list[Job] = await anyio.to_thread.run_sync(lambda: _sentence(lambda: queue.submit(kind, requests, origin="mcp")))
        try:
            for number, job in enumerate(jobs):
                told = 0
                while not job.is_over:
                    await anyio.sleep(_LOOK_SECONDS)
                    job = queue.get(job.id)
                    if len(jobs) == 1 and job.progress is not None and job.progress.done > told:
                        told = job.progress.done
                        await ctx.report_progress(told, job.progress.total or None, job.progress.phase)
                jobs[number] = job
                if len(jobs) > 1:
                    await ctx.report_progress(number + 1, len(jobs), "pictures")
        except BaseException:  # the assistant went away, or no longer wants it
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: [queue.cancel(job.id) for job in jobs])
            raise
        if not any(job.state == "done" for job in jobs):
            raise ToolError(_problem(jobs[0]))
        return jobs

    async def _painted(ctx: Context[Any, Any], request: PaintRequest, model: str, notes: list[str], kind: Kind = "paint") -> list[Any]:
        """Have it painted, for each picture where it begins with a folder; the words, then the first few pictures."""
        requests = _sentence(for_each_picture, request)
        jobs = await _done(ctx, kind, requests)
        if requests == [request]:
            said = {"model": model, **_told(jobs[0]), "notes": [*notes, *jobs[0].notes]}
        else:
            pairs = zip(requests, jobs, strict=True)
            said = {"model": model, "each": {one.image.name: _told(job) for one, job in pairs if one.image is not None}, "notes": notes}
        paths = [path for job in jobs for path in job.paths]
        if len(paths) > MAX_COUNT:
            said["shown"] = f"the first {MAX_COUNT} of {len(paths)} pictures"
        words = json.dumps({name: value for name, value in said.items() if value}, ensure_ascii=False)
        return [words, *(Image(path=path) for path in paths[:MAX_COUNT])]

    def _earlier(picture: str) -> tuple[dict[str, Any], Path]:
        """The settings and the file of an earlier picture; of what is the user's, file or folder, no settings."""
        job_id, _, number = picture.partition("/")
        if not (len(job_id) == _ID_LENGTH and number.isdigit()):
            return {}, _place(picture)
        return dict(queue.get(job_id).result.get("settings", {})), _place(picture)

    def _place(picture: str) -> Path:
        """Where the picture of that name lies, or the folder, all of whose pictures may be read."""
        job_id, _, number = picture.partition("/")
        place = Path(picture)
        if len(job_id) == _ID_LENGTH and number.isdigit():
            job = queue.get(job_id)
            if int(number) < len(job.paths) and job.kind in ("paint", "upscale"):
                return job.paths[int(number)]
        elif may_read(place) and (place.is_file() or (place.is_dir() and all(map(may_read, pictures_of([place]))))):
            return place
        raise ToolError(
            f"there is no picture {picture!r:.60}. Give the name that generate answered, or the path of a picture file or of a folder."
        )

    return tools


def _sentence(action: Callable[..., Any], *arguments: Any) -> Any:
    """Do it; what a person can mend becomes the tool's error, in its sentence."""
    try:
        return action(*arguments)
    except BowerbirdError as error:
        raise ToolError(str(error)) from error


def _told(job: Job) -> dict[str, Any]:
    """What became of a painting: what it was painted with, the names of its pictures and their files; or why there is none."""
    if job.state != "done":
        return {"failed": _problem(job)}
    settings = job.result["settings"]
    said = {
        "final_prompt": in_words(PaintRequest.model_validate(settings)),
        "label": settings["label"],
        "seeds": job.result["seeds"],
        "size": "x".join(map(str, job.result["sizes"][0])),
        "steps": settings["steps"],
        "pictures": ", ".join(f"{job.id}/{number}" for number in range(len(job.paths))),
        "files": [str(path) for path in job.paths],
        "notes": job.notes,
    }
    return {name: value for name, value in said.items() if value not in (None, "", [])}


def _problem(job: Job) -> str:
    return job.error.message if job.error else "the job was cancelled."


def _in_words(job: Job) -> str:
    """A job for people."""
    if job.error is not None:
        return f"Job {job.id} failed: {job.error.message}"
    at, parts = job.progress, [f"Job {job.id} is {job.state}."]
    if at is not None and not job.is_over:
        parts.append(f"{at.phase}: {at.done:,} of {at.total:,} {at.unit}{f', {at.message}' if at.message else ''}.")
        if at.seconds_left is not None:
            parts.append(f"About {at.seconds_left / 60:,.1f} minutes left.")
    if job.state == "done":
        parts.append(f"The model is {Path(str(job.request.get('out', ''))).name!r}; generate takes it as `model`.")
    return " ".join([*parts, *job.notes])
