"""A picture's own request, asked again: what the file may decide, and what only the person who asks.

A picture can come from anybody, and what stands in it is theirs.  Words and numbers are taken as they are.  What names
something on this machine is not: a model is opened only if it is one of the user's own (bundled, or below the folder they
work in), an input picture, a mask or a LoRA only if it is given again.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bowerbird.errors import RequestError
from bowerbird.locate import bundled
from bowerbird.picture_metadata import read_metadata
from bowerbird.prompts import changed
from bowerbird.request import PaintRequest, read_request


def request_again(picture: Path, given: Mapping[str, Any]) -> PaintRequest:
    """The request that `picture` was painted with, changed by the fields that are `given`.

    RequestError when the picture says nothing, and when it names a file or a model that has to be given.
    """
    found = read_metadata(picture)
    if not found.fields:
        raise RequestError(f"{str(picture)!r} does not say how it was painted. {found.note}".rstrip())
    said = {name: value for name, value in found.fields.items() if name not in given}
    for name in ("image", "mask"):
        if said.get(name):
            raise RequestError(
                f"{str(picture)!r} was painted from the {name} {_quoted(said[name])}. A picture may not choose files of yours: "
                f"if this is what you want, give it: --{name} FILE."
            )
    loras = [*said.get("loras", ()), *(said["asked"].loras if said.get("asked") else ())]
    if loras and "loras" not in given:
        named = ", ".join(f"{_quoted(lora.file)} at {lora.weight:g}" for lora in dict.fromkeys(loras))
        raise RequestError(
            f"{str(picture)!r} was painted with LoRAs: {named}. A picture may not choose files of yours: give them with --lora."
        )
    for name in [*([said["model"]] if "model" in said else []), *said.get("then", ())]:
        if not is_own(name):
            raise RequestError(
                f"{str(picture)!r} names the model {_quoted(name)}, which is neither bundled nor below this folder. "
                f"If you have it, or want another, give it: bowerbird generate MODEL --from {shlex.quote(str(picture))}"
            )
    if "model" not in said and "model" not in given:
        raise RequestError(f"{str(picture)!r} names no model. Give one: bowerbird generate MODEL --from {shlex.quote(str(picture))}")
    return read_request(changed(said, given))


def is_own(name: str) -> bool:
    """Whether a name from a picture stands for a model of the user's: a bundled one, or one that lies below the current folder."""
    if name in bundled():
        return True
    path = Path(name.partition("@")[0])
    if path.is_absolute() or ".." in path.parts or "\0" in name:  # looked at no further
        return False
    return path.exists() and path.resolve().is_relative_to(Path.cwd().resolve())


def _quoted(name: object) -> str:
    text = str(name)
    return repr(text if len(text) <= 100 else text[:100] + "...")
