"""What a picture file says about how it was made, whoever made it.

Reading treats a file as a stranger's: three allowed formats, capped sizes, JSON only (never `eval`), pixels are not decoded,
and each value must be valid for PaintRequest.  Names of models and files found in a picture are words: whoever acts on
them (`repeat.py`) looks them up among what the user has.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from bowerbird.errors import BowerbirdError, PictureFolderError, RequestError
from bowerbird.picture_files import A1111_SAMPLERS, EXIF_IFD, FORMAT_VERSION, MAKER_NOTE, SOFTWARE, USER_COMMENT
from bowerbird.request import MAX_SIDE_PX, PaintRequest, read_request

Origin = Literal["bowerbird", "a1111", "fooocus", "comfyui", "invokeai", "unknown"]

MAX_FILE_BYTES = 256 * 2**20
MAX_TEXT_CHARS = 2**20
MAX_ENTRIES = 200
MAX_GRAPH_NODES = 5_000

# What other programs' pictures may fill in: nothing that names a file to open, except the model, which is looked up.
_FOREIGN_FIELDS = ("prompt", "negative", "styles", "model", "steps", "sampler", "guidance", "seed", "size")

_OUR_SAMPLERS = {  # as others write them, lower case and without their word for the noise grid
    **{theirs.lower(): ours for ours, theirs in A1111_SAMPLERS.items()},
    "dpmpp_2m": "dpm++2m",
    "k_euler": "euler",
    "k_heun": "heun",
    "k_dpmpp_2m": "dpm++2m",
}


@dataclass(frozen=True)
class PictureMetadata:
    """What a picture file says about how it was made.

    `fields` has names and valid values of PaintRequest, complete for our own pictures and as many as were found for others';
    `more` is what the file says beyond that; `note` says in words what could not be read.
    """

    origin: Origin
    size: tuple[int, int]
    fields: dict[str, Any] = field(default_factory=dict)
    more: dict[str, str] = field(default_factory=dict)
    digital_source: str | None = None
    note: str = ""


def read_metadata(path: Path) -> PictureMetadata:
    """Read a PNG, JPEG or WebP written by Bowerbird, A1111, Fooocus, ComfyUI or InvokeAI.  PictureFolderError if it is none."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise PictureFolderError(f"{str(path)!r} is larger than {MAX_FILE_BYTES >> 20} MiB, too large to be read as a picture.")
        with Image.open(path, formats=["PNG", "JPEG", "WEBP"]) as picture:
            size, texts = picture.size, _texts(picture)
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise PictureFolderError(f"{str(path)!r} cannot be read as a PNG, JPEG or WebP picture ({error}).") from error
    too_long = sorted(key[:100] for key, text in texts.items() if len(text) > MAX_TEXT_CHARS)
    texts = {key: text for key, text in texts.items() if len(text) <= MAX_TEXT_CHARS}
    source = re.search(r"newscodes/digitalsourcetype/(\w{1,60})", texts.pop("xmp", ""))
    origin, said, note = _understand(texts)
    note += f"not read, because longer than {MAX_TEXT_CHARS:,} letters: {', '.join(too_long)}" if too_long else ""
    fields, more = _valid_fields(said, PaintRequest.model_fields if origin == "bowerbird" else _FOREIGN_FIELDS)
    return PictureMetadata(origin, size, fields, more, source.group(1) if source else None, note)


def _texts(picture: Image.Image) -> dict[str, str]:
    """Every text of the file by key; EXIF's under the keys PNG uses.  `info`, not `text`: the latter would decode the pixels."""
    texts = {key: value for key, value in picture.info.items() if isinstance(key, str) and isinstance(value, str)}
    xmp = picture.info.get("xmp", texts.pop("XML:com.adobe.xmp", ""))
    texts["xmp"] = xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else xmp
    exif = picture.getexif()
    private = {**exif, **exif.get_ifd(EXIF_IFD)}  # Fooocus puts the comment into the first directory
    if USER_COMMENT in private:
        texts.setdefault("parameters", _user_comment(private[USER_COMMENT]))
    if MAKER_NOTE in private:
        maker_note = private[MAKER_NOTE]
        text = maker_note.decode("utf-8", "replace") if isinstance(maker_note, bytes) else str(maker_note)
        texts.setdefault("bowerbird" if text.startswith("{") else "fooocus_scheme", text)
    return texts


def _user_comment(comment: object) -> str:
    if not isinstance(comment, bytes):
        return str(comment)
    code, text = comment[:8], comment[8:]
    if code == b"UNICODE\0":
        little = text[1::2].count(0) > text[0::2].count(0)  # the standard leaves the byte order open
        return text.decode("utf-16-le" if little else "utf-16-be", "replace")
    return (text if code in (b"ASCII\0\0\0", bytes(8)) else comment).decode("utf-8", "replace")


Said = dict[str, Any]  # what a program said: PaintRequest's names where there is one, its own words elsewhere


def _understand(texts: Mapping[str, str]) -> tuple[Origin, Said, str]:
    """Whose metadata it is, what it says, and a note when it is damaged."""
    readers: dict[str, tuple[Origin, Callable[[str], Said]]] = {
        "bowerbird": ("bowerbird", _read_ours),
        "invokeai_metadata": ("invokeai", _read_invokeai),
        "sd-metadata": ("invokeai", _read_old_invokeai),
        "parameters": ("a1111", _read_infotext),
        "prompt": ("comfyui", _read_comfyui),
    }
    for key, (origin, read) in readers.items():
        if key in texts:
            if key == "parameters" and texts[key].lstrip().startswith("{"):
                origin, read = "fooocus", _read_fooocus
            try:
                return "fooocus" if "fooocus_scheme" in texts else origin, read(texts[key]), ""
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, BowerbirdError) as error:
                return origin, {}, f"the text {key!r} is damaged ({str(error)[:200]})"
    return "unknown", {}, ""


def _valid_fields(said: Said, allowed: Collection[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Split what was said into valid fields of a request and the rest, as short text."""
    fields: dict[str, Any] = {}
    more: dict[str, str] = {}
    for name, value in list(said.items())[:MAX_ENTRIES]:
        if value is None or value == "":
            continue
        try:
            if name not in allowed:
                raise RequestError(name)
            fields[name] = getattr(read_request({**fields, name: value}), name)
        except RequestError:
            more[name[:100]] = str(value)[:10_000]
    return fields, more


def _read_ours(text: str) -> Said:
    note = json.loads(text)
    if note["format"] > FORMAT_VERSION:
        raise ValueError(f"written by {note['software']}, newer than {SOFTWARE}")
    return read_request(note["request"]).model_dump()


def _read_infotext(text: str) -> Said:
    """A1111's text: the last line holds parameters only if it has at least three `key: value` pairs."""
    *lines, last = text.strip().split("\n")
    pairs = dict(_pairs(last[:20_000]))
    if len(pairs) < 3:
        lines, pairs = [*lines, last], {}
    start = next((i for i, line in enumerate(lines) if line.strip().startswith("Negative prompt:")), len(lines))
    sampler = pairs.pop("Sampler", None)
    return {
        "prompt": pairs.pop("Raw prompt", "\n".join(lines[:start]).strip()),
        "negative": pairs.pop("Raw negative prompt", "\n".join(lines[start:]).strip().removeprefix("Negative prompt:").strip()),
        "steps": pairs.pop("Steps", None),
        **_sampler(sampler),
        "guidance": pairs.pop("CFG scale", None),
        "seed": pairs.pop("Seed", None),
        "size": _size(pairs.pop("Size", None)),
        "model": pairs.pop("Model", None),
        "strength": pairs.pop("Denoising strength", None),
        **pairs,
    }


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    for match in re.finditer(r'\s*([\w][\w \-/]{0,99}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)', line):
        key, value = match.groups()
        try:
            yield key, json.loads(value) if value.startswith('"') else value.strip()
        except ValueError:
            yield key, value


def _read_fooocus(text: str) -> Said:
    said: Said = json.loads(text)
    return {
        "negative": said.pop("negative_prompt", None),
        "guidance": said.pop("guidance_scale", None),
        "model": said.pop("base_model", None),
        **_sampler(said.pop("sampler", None)),
        "size": _size(said.pop("resolution", None)),
        "styles": re.findall(r"['\"]([^'\"]*)['\"]", str(said.pop("styles", ""))),
        **said,
    }


def _read_comfyui(text: str) -> Said:
    """An API graph: the node that samples has the numbers; its links lead to the prompts and the model."""
    graph = json.loads(text)
    if len(graph) > MAX_GRAPH_NODES:
        raise ValueError(f"a graph of {len(graph)} nodes")
    samplers = [node for node in graph.values() if {"seed", "noise_seed"} & node["inputs"].keys() and "positive" in node["inputs"]]
    if not samplers:
        raise ValueError("no node that samples")
    inputs = samplers[0]["inputs"]
    latent = _follow(graph, inputs.get("latent_image"), "width")
    return {
        "prompt": _follow(graph, inputs.get("positive"), "text").get("text"),
        "negative": _follow(graph, inputs.get("negative"), "text").get("text"),
        "steps": inputs.get("steps"),
        **_sampler(inputs.get("sampler_name")),
        "scheduler": inputs.get("scheduler"),
        "guidance": inputs.get("cfg"),
        "seed": inputs.get("seed", inputs.get("noise_seed")),
        "size": (latent["width"], latent["height"]) if "height" in latent else None,
        "model": _follow(graph, inputs.get("model"), "ckpt_name").get("ckpt_name"),
        "strength": inputs.get("denoise"),
    }


def _follow(graph: Said, link: object, wanted: str) -> Said:
    """The inputs of the nearest node behind `link` that has a plain value `wanted`; {} when there is none."""
    queue, seen = [link], set()
    for link in queue:
        node_id = str(link[0]) if isinstance(link, list) and link else None
        if node_id is None or node_id in seen or node_id not in graph:
            continue
        seen.add(node_id)
        inputs: Said = graph[node_id]["inputs"]
        if isinstance(inputs.get(wanted), str | int):
            return inputs
        queue += inputs.values()
    return {}


def _read_invokeai(text: str) -> Said:
    said: Said = json.loads(text)
    model = said.pop("model", None) or {}
    return {
        "prompt": said.pop("positive_prompt", None),
        "negative": said.pop("negative_prompt", None),
        **_sampler(said.pop("scheduler", None)),
        "guidance": said.pop("cfg_scale", None),
        "size": _size((said.pop("width", None), said.pop("height", None))),
        "model": model.get("name", model.get("model_name")),
        **said,
    }


def _read_old_invokeai(text: str) -> Said:
    """`sd-metadata`: prompts with weights, the negative part in square brackets."""
    said: Said = json.loads(text)
    image: Said = said["image"]
    prompt = image["prompt"]
    words = prompt if isinstance(prompt, str) else ", ".join(part["prompt"] for part in prompt)
    return {
        "prompt": re.sub(r"\s*\[[^\[\]]*\]", "", words),
        "negative": ", ".join(re.findall(r"\[([^\[\]]*)\]", words)),
        "steps": image.get("steps"),
        **_sampler(image.get("sampler")),
        "guidance": image.get("cfg_scale"),
        "seed": image.get("seed"),
        "size": _size((image.get("width"), image.get("height"))),
        "model": said.get("model_weights"),
    }


def _sampler(theirs: object) -> Said:
    """Our name of a sampler if we have it, and their word otherwise; older files append the noise grid ("DPM++ 2M Karras")."""
    if theirs is None:
        return {}
    plain = str(theirs).lower().removesuffix(" karras").removesuffix("_k")
    return {"sampler": _OUR_SAMPLERS[plain]} if plain in _OUR_SAMPLERS else {"Sampler": theirs}


def _size(theirs: object) -> tuple[int, int] | None:
    """Width and height from "512x768", "(512, 768)" or a pair of numbers."""
    numbers = [int(number) for number in re.findall(r"\d{1,6}", str(theirs)[:100])]
    return (numbers[0], numbers[1]) if len(numbers) == 2 and max(numbers) <= MAX_SIDE_PX else None
