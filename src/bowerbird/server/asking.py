"""From a client's words to a PaintRequest that this model can honour."""

from __future__ import annotations

import re
from typing import Any

from bowerbird.jobs import ModelEntry
from bowerbird.request import PaintRequest, read_request
from bowerbird.server.errors import ApiError

MAX_PIXELS = 4096 * 4096  # of one picture asked for over HTTP


def paint_request(entry: ModelEntry, prompt: str, fields: dict[str, Any]) -> tuple[PaintRequest, list[str]]:
    """The request, and notes on what of it this model cannot use.

    Clients of these APIs always send a prompt.  A model that reads no text gets the label that the prompt names, if it has
    labels, and the prompt is left out with a note; every other field that is impossible is an error.
    """
    notes: list[str] = []
    if entry.reads_text:
        fields["prompt"] = prompt
    elif prompt:
        label = named_label(prompt, entry.labels)
        if label is not None:
            fields.setdefault("label", label)
        notes.append(
            f"the model {entry.name!r} reads no text; "
            + (f"it paints the label {fields['label']!r}, which the prompt names." if label else "the prompt was left out.")
        )
        fields.pop("negative", None)
    return read_request({"model": entry.where, **{name: value for name, value in fields.items() if value is not None}}), notes


def named_label(prompt: str, labels: list[str]) -> str | None:
    """The longest label whose words stand in the prompt."""
    words = _words(prompt)
    return max((label for label in labels if _words(label) and _words(label) in words), key=len, default=None)


def _words(text: str) -> str:
    return f" {' '.join(re.findall(r'[a-z]+', text.lower()))} " if re.search("[a-z]", text.lower()) else ""


def read_size(size: str | None) -> tuple[int, int] | None:
    """WIDTHxHEIGHT; None for the model's own size."""
    if size is None or size == "auto":
        return None
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", size)
    if match is None:
        raise ApiError(400, f"Invalid size {size!r:.40}: it is WIDTHxHEIGHT, such as 512x512, or auto.", param="size", code="invalid_size")
    return check_size(int(match[1]), int(match[2]))


def check_size(width: int, height: int) -> tuple[int, int]:
    """The size, if a picture of it can be asked for."""
    if min(width, height) < 8 or max(width, height) > 8192 or width * height > MAX_PIXELS:
        raise ApiError(
            400,
            f"The size {width}x{height} is not possible: sides are 8 to 8192 pixels, and at most {MAX_PIXELS:,} pixels in all.",
            param="size",
            code="invalid_size",
        )
    return width, height
