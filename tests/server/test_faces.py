"""The same request reads the same on every face: each hands it to `finish`, with the model's own phrases, or locks what it was told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import gradio as gr
import numpy as np
import pytest
from mcp import Client
from PIL import Image

from bowerbird.generate import load
from bowerbird.jobs import Catalogue, Job, Queue
from bowerbird.jobs.asking import final_words, paint_request
from bowerbird.mcp import create_tools
from bowerbird.picture_metadata import read_metadata
from bowerbird.prompts import in_words, is_locked, lock
from bowerbird.request import PaintRequest, read_request
from bowerbird.studio.painting import paint_tab
from tests.conftest import run_command
from tests.pretrained import checkpoints
from tests.server.conftest import Served

MODEL = "tiny-sd"

ASKED: dict[str, dict[str, Any]] = {
    "weights": {"prompt": "a (red:1.3) bird", "negative": "(fog)"},
    "wildcards": {"prompt": "a __colour__ __bird__"},
    "arrays": {"prompt": "a [[red, blue]] bird"},
    "styles": {"prompt": "a bird", "styles": ["random", "oil"]},
    "preset": {"prompt": "a bird", "preset": "photo"},
    "expand": {"prompt": "a bird", "expand": "words"},
    "literal": {"prompt": "a __colour__ (red) bird", "literal": ["wildcards", "weights"]},
    "everything": {"prompt": "[[a, the]] (__colour__:1.2) bird", "negative": "fog", "styles": ["random"], "expand": "words"},
    "lora": {"model": MODEL, "prompt": "a (red <lora:ink:0.8>:1.2) __bird__", "negative": "fog", "styles": ["oil"]},
}
Words = list[tuple[str, str]]  # final prompt, as people are told it, and what to avoid, of each request


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server beside whose starter stands a tiny Stable Diffusion; the user has a LoRA for it, `ink`."""
    home = tmp_path_factory.mktemp("faces")
    (home / "config/loras").mkdir(parents=True)
    checkpoints.write_tiny_families(home / "families")
    networks = checkpoints.networks(home / "families/sd15")
    checkpoints.write_diffusers_folder(home / "models" / MODEL, networks, home / "families/sd15")
    checkpoints.lora_files(home, networks["unet"])[0]["kohya"].rename(home / "config/loras/ink.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_CONFIG", str(home / "config"))
        with Served(Queue(home / "queue", max_waiting=200), Catalogue([home / "models"])) as served:
            yield served


def generate(served: Served, model: str, prompt: str, folder: Path, *flags: str) -> list[PaintRequest]:
    """What `bowerbird generate` painted, as its pictures tell."""
    quick = ["--seed", "7", "--steps", "1", "--guidance", "1", "--size", "64x64", "--count", "1", "--out", str(folder)]
    assert run_command("--device", "cpu", "generate", served.serving.catalogue.find(model).where, prompt, *quick, *flags) == 0
    return [read_request(read_metadata(path).fields) for path in sorted(folder.glob("*.png"))]


def by_command_line(served: Served, fields: dict[str, Any], folder: Path) -> Words:
    flags = {f"--{name}": fields[name] for name in ("negative", "preset", "expand") if name in fields}
    flags |= {"--literal": ",".join(fields["literal"])} if "literal" in fields else {}
    given = [word for flag in flags.items() for word in flag] + [word for style in fields.get("styles", ()) for word in ("--style", style)]
    painted = generate(served, fields.get("model", "starter"), fields["prompt"], folder, *given)
    return [(in_words(each), each.negative) for each in painted]


def by_http(served: Served, fields: dict[str, Any], folder: Path) -> Words:
    told = served.client.post("/api/final", json={"model": "starter", "seed": 7, **fields}).json()
    return [(each["prompt"], each.get("negative", "")) for each in told]


def by_chat(served: Served, fields: dict[str, Any], folder: Path) -> Words:
    told = chat(served, "final_prompt", {"model": "starter", "seed": 7, **fields})
    return [(each["final_prompt"], each["avoids"]) for each in told["finals"]]


def chat(served: Served, tool: str, arguments: dict[str, Any]) -> Any:
    """What the tool answers."""

    async def talk() -> Any:
        async with Client(create_tools(served.queue, served.serving.catalogue)) as client:
            return await client.call_tool(tool, arguments)

    return json.loads(anyio.run(talk).content[0].text)


def by_studio(served: Served, fields: dict[str, Any], folder: Path) -> Words:
    """The first final prompt stands in its field, the others are listed below."""
    _, typed, functions = studio(served, fields)
    *_, (_, prompt, avoid, others, _) = functions["foresee"](typed)
    return [(prompt, avoid), *((each.partition("</li>")[0], avoid) for each in others.split("<li>")[1:])]


def studio(served: Served, fields: dict[str, Any]) -> tuple[Any, dict[Any, Any], dict[str, Any]]:
    """The form of Paint, the values it holds with these fields filled in, and its functions by name."""
    with gr.Blocks() as page:
        form = paint_tab(served.queue, served.serving.catalogue)
    functions = {str(each.name): each for each in page.fns.values()}
    typed = {each: getattr(each, "value", None) for each in functions["paint"].inputs}
    typed |= {form.fields[name]: value for name, value in {"model": "starter", "seed": "7", "count": 1, **fields}.items()}
    return form, typed, {name: each.fn for name, each in functions.items()}


@pytest.mark.parametrize("face", [by_command_line, by_http, by_chat, by_studio])
@pytest.mark.parametrize("fields", ASKED.values(), ids=ASKED)
def test_the_same_request_reads_the_same(served: Served, tmp_path: Path, fields: dict[str, Any], face: Any) -> None:
    """As in Python."""
    entry = served.serving.catalogue.find(fields.get("model", "starter"))
    own = {name: value for name, value in fields.items() if name != "model"}
    request, _ = paint_request(entry, fields["prompt"], {**own, "seed": 7, "count": 1})
    wanted = [(in_words(one), one.negative) for one in final_words(entry, request)]
    assert sorted(face(served, fields, tmp_path / "out")) == sorted(wanted)


QUICK: dict[str, Any] = {"seed": 7, "steps": 1, "guidance": 1.0}


def locked_by_command_line(served: Served, prompt: str, negative: str, folder: Path) -> Path:
    generate(served, MODEL, prompt, folder, "--negative", negative, "--lock")
    (picture,) = folder.glob("*.png")
    return picture


def locked_by_http(served: Served, prompt: str, negative: str, folder: Path) -> Path:
    asked = {"model": MODEL, "prompt": prompt, "negative": negative, "size": [64, 64], **QUICK}
    (job,) = served.client.post("/api/jobs", json={"requests": [asked], "lock": True}).json()
    return picture_of(served, job["id"])


def locked_as_by_openai(served: Served, prompt: str, negative: str, folder: Path) -> Path:
    asked = {"model": MODEL, "prompt": prompt, "negative": negative, "size": "64x64", "response_format": "url", **QUICK}
    (one,) = served.client.post("/v1/images/generations", json={**asked, "lock": True}).json()["data"]
    return picture_of(served, one["url"].split("/")[-2])


def locked_by_chat(served: Served, prompt: str, negative: str, folder: Path) -> Path:
    told = chat(served, "generate", {"model": MODEL, "prompt": prompt, "negative": negative, "size": "64x64", "final": True, **QUICK})
    return picture_of(served, told["pictures"].partition("/")[0])


def locked_by_studio(served: Served, prompt: str, negative: str, folder: Path) -> Path:
    form, typed, functions = studio(served, {"model": MODEL, "prompt": "something else", "steps": "1", "guidance": "1", "size": "64x64"})
    said = list(functions["paint"](typed | {form.final: prompt, form.avoid: negative, form.lock: True}))
    assert "bad" not in said[-1][0]
    return picture_of(served, said[-1][2][0])


def picture_of(served: Served, job_id: str) -> Path:
    *_, job = served.queue.follow(job_id, 60)
    assert isinstance(job, Job) and job.state == "done", job
    return job.paths[0]


@pytest.mark.parametrize(
    ("face", "locked"),
    [
        (by_command_line, locked_by_command_line),
        (by_http, locked_by_http),
        (by_http, locked_as_by_openai),
        (by_chat, locked_by_chat),
        (by_studio, locked_by_studio),
    ],
)
def test_what_a_face_told_is_edited_locked_and_painted_as_it_stands(served: Served, tmp_path: Path, face: Any, locked: Any) -> None:
    """The words, the LoRA and the pixels are those of Python; wildcards that were written into it are words."""
    ((told, avoid),) = face(served, ASKED["lora"], tmp_path / "told")
    assert told.endswith(" <lora:ink:0.8>") and "__" not in told
    prompt = told.replace("oil", "__water__colour")
    where = served.serving.catalogue.find(MODEL).where
    wanted = lock(read_request({"model": where, "prompt": prompt, "negative": avoid, "size": (64, 64), **QUICK}))
    picture = locked(served, prompt, avoid, tmp_path / "locked")
    read = read_request(read_metadata(picture).fields)
    assert is_locked(read) and (read.prompt, read.negative, read.loras) == (wanted.prompt, wanted.negative, wanted.loras)
    (painted,) = load(where, "cpu").paint(wanted)
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(painted.picture))
