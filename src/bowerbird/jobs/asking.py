"""From a client's words to a request that this model can honour, and to the words it will read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bowerbird.errors import RequestError
from bowerbird.jobs.catalogue import ModelEntry, vocabulary_of
from bowerbird.jobs.requests import DescribeRequest, read_job_request
from bowerbird.prompts import finish
from bowerbird.request import PaintRequest, read_request

MAX_PIXELS = 4096 * 4096  # of one picture that a client asks for


class SizeError(RequestError):
    """A size that no picture can have here."""


def paint_request(entry: ModelEntry, prompt: str, fields: dict[str, Any]) -> tuple[PaintRequest, list[str]]:
    """The request, and notes on what of it this model cannot use.  Fields that are None are left to the model.

    Clients of these faces always send a prompt.  A model that reads no text gets the label that the prompt names, if it has
    labels, and the prompt is left out with a note; every other field that is impossible is a RequestError.
    """
    notes: list[str] = []
    if entry.reads_text:
        fields = {**fields, "prompt": prompt}
    elif prompt:
        label = fields.get("label") or named_label(prompt, entry.labels)
        fields = {**fields, "label": label, "negative": None}
        instead = f"it paints its label {label!r}." if label else "the prompt was left out."
        notes.append(f"the model {entry.name!r} reads no text; {instead}")
    return read_request({"model": entry.where, **{name: value for name, value in fields.items() if value is not None}}), notes


def final_words(entry: ModelEntry, request: PaintRequest) -> list[PaintRequest]:
    """The request as its worker will read it, in final words, before anything is painted; with the seed that was drawn, if any."""
    return finish(request, vocabulary_of(entry))


def describe_request(entry: ModelEntry, pictures: Sequence[Path], words_of: str = "") -> DescribeRequest:
    """Put the pictures into words: those of a folder of captioned pictures or of a captioner, else those that this model learnt from.

    RequestError when they are not here, as those of a model from elsewhere.
    """
    chosen = Path(words_of)
    if words_of and (not chosen.is_dir() or (chosen / "config.json").is_file()):
        return read_job_request(DescribeRequest, {"pictures": pictures, "captioner": words_of})
    run = chosen if words_of else Path(entry.where)
    if not words_of and not (run / "run.json").is_file():
        raise RequestError(
            f"the pictures that {entry.name!r} learnt from are not here. Choose a model that was trained here, or name a folder of "
            "captioned pictures, or a captioner."
        )
    return read_job_request(DescribeRequest, {"pictures": pictures, "like": run})


def named_label(prompt: str, labels: list[str]) -> str | None:
    """The longest label whose words stand in the prompt, in its order; numbers before a name, as of CUB's folders, do not count."""
    named = [label for label in labels if _words(label) != "  " and _words(label) in _words(prompt)]
    return max(named, key=len, default=None)


def _words(text: str) -> str:
    return f" {' '.join(re.findall(r'[a-z]+', text.lower()))} "


def read_size(size: str | None) -> tuple[int, int] | None:
    """WIDTHxHEIGHT; None, or auto, for the model's own size."""
    if size is None or size == "auto":
        return None
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", size)
    if match is None:
        raise SizeError(f"Invalid size {size!r:.40}: it is WIDTHxHEIGHT, such as 512x512, or auto.")
    return check_size(int(match[1]), int(match[2]))


def check_size(width: int, height: int) -> tuple[int, int]:
    """The size, if a picture of it can be asked for."""
    if min(width, height) < 8 or max(width, height) > 8192 or width * height > MAX_PIXELS:
        raise SizeError(f"The size {width}x{height} is not possible: sides are 8 to 8192 pixels, and at most {MAX_PIXELS:,} pixels in all.")
    return width, height
