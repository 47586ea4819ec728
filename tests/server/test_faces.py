"""The same request reads the same on every face: each hands it to `finish`, with the model's own phrases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import gradio as gr
import pytest
from mcp import Client

from bowerbird.jobs.asking import final_words, paint_request
from bowerbird.mcp import create_tools
from bowerbird.picture_metadata import read_metadata
from bowerbird.studio.painting import paint_tab
from tests.conftest import run_command
from tests.server.conftest import Served

ASKED: dict[str, dict[str, Any]] = {
    "weights": {"prompt": "a (red:1.3) bird", "negative": "(fog)"},
    "wildcards": {"prompt": "a __colour__ __bird__"},
    "arrays": {"prompt": "a [[red, blue]] bird"},
    "styles": {"prompt": "a bird", "styles": ["random", "oil"]},
    "preset": {"prompt": "a bird", "preset": "photo"},
    "expand": {"prompt": "a bird", "expand": "words"},
    "literal": {"prompt": "a __colour__ (red) bird", "literal": ["wildcards", "weights"]},
    "everything": {"prompt": "[[a, the]] (__colour__:1.2) bird", "negative": "fog", "styles": ["random"], "expand": "words"},
}
Words = list[tuple[str, str]]  # final prompt and what to avoid, of each request


def by_command_line(served: Served, fields: dict[str, Any], folder: Path) -> Words:
    flags = {"--seed": "7", "--steps": "1", "--size": "16x16", "--count": "1", "--out": str(folder)}
    flags |= {f"--{name}": fields[name] for name in ("negative", "preset", "expand") if name in fields}
    flags |= {"--literal": ",".join(fields["literal"])} if "literal" in fields else {}
    given = [word for flag in flags.items() for word in flag] + [word for style in fields.get("styles", ()) for word in ("--style", style)]
    assert run_command("generate", "starter", fields["prompt"], *given) == 0
    read = [read_metadata(path).fields for path in sorted(folder.glob("*.png"))]
    return [(each["prompt"], each.get("negative", "")) for each in read]


def by_http(served: Served, fields: dict[str, Any], folder: Path) -> Words:
    told = served.client.post("/api/final", json={"model": "starter", "seed": 7, **fields}).json()
    return [(each["prompt"], each.get("negative", "")) for each in told]


def by_chat(served: Served, fields: dict[str, Any], folder: Path) -> Words:
    async def talk() -> Any:
        async with Client(create_tools(served.queue, served.serving.catalogue)) as client:
            return await client.call_tool("final_prompt", {"model": "starter", "seed": 7, **fields})

    return [(each["final_prompt"], each["avoids"]) for each in json.loads(anyio.run(talk).content[0].text)["finals"]]


def by_studio(served: Served, fields: dict[str, Any], folder: Path) -> Words:
    """The first final prompt stands in its field, the others are listed below."""
    with gr.Blocks() as page:
        form = paint_tab(served.queue, served.serving.catalogue)
    foresee = next(each for each in page.fns.values() if each.name == "foresee")
    assert foresee.fn is not None
    typed = {each: getattr(each, "value", None) for each in foresee.inputs}
    typed |= {form.fields[name]: value for name, value in {"model": "starter", "seed": "7", "count": 1, **fields}.items()}
    _, prompt, avoid, others, _ = foresee.fn(typed)
    return [(prompt, avoid), *((each.partition("</li>")[0], avoid) for each in others.split("<li>")[1:])]


@pytest.mark.parametrize("face", [by_command_line, by_http, by_chat, by_studio])
@pytest.mark.parametrize("fields", ASKED.values(), ids=ASKED)
def test_the_same_request_reads_the_same(served: Served, tmp_path: Path, fields: dict[str, Any], face: Any) -> None:
    """As in Python."""
    entry = served.serving.catalogue.find("starter")
    request, _ = paint_request(entry, fields["prompt"], {**fields, "seed": 7, "count": 1})
    wanted = [(one.prompt, one.negative) for one in final_words(entry, request)]
    assert sorted(face(served, fields, tmp_path / "out")) == sorted(wanted)
