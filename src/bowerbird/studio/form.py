"""Fields of a painting request as components, and back.  Label, help, bounds and choices are those of the request itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import annotated_types
import gradio as gr

from bowerbird.jobs import ModelEntry
from bowerbird.prompts.library import presets, styles
from bowerbird.prompts.speeds import speeds
from bowerbird.repaint import USUAL_STRENGTH
from bowerbird.request import PaintRequest, Syntax

SIDES = ("left", "top", "right", "bottom")
SAMPLERS = ["ddpm", "ddim", "euler", "heun", "dpm++2m", "euler-ancestral", "lcm"]
MOST_AT_ONCE = 64  # pictures a click may ask for; the command line and the server have no such bound
FOLDED = (
    *("negative", "styles", "speed", "preset", "label", "expand", "literal", "size", "then", "seed", "steps", "guidance", "sampler"),
    *("strength", "mask_tolerance", "detail"),  # of a picture to start from
)


@dataclass(frozen=True)
class Form:
    """The components of Paint, for the other tabs to fill in.

    fields: by the names of the request's fields.  final, avoid, lock, drawn: the words as the model reads them, and what was drawn
    or found for them (`seed`, `loras`).  picture, points: what to start from, and where it was clicked at.  many, masks: or many at once.
    """

    fields: dict[str, Any]
    final: Any
    avoid: Any
    lock: Any
    drawn: Any
    picture: Any
    points: Any
    many: Any
    masks: Any

    def components(self) -> list[Any]:
        return [*self.fields.values(), self.final, self.avoid, self.lock, self.drawn, self.picture, self.points, self.many, self.masks]


_NAMED: dict[str, Callable[[], Iterable[str]]] = {
    "speed": speeds,
    "preset": presets,
    "expand": lambda: ("words", "llm"),
    "sampler": lambda: SAMPLERS,
}


def help_of(field: str) -> str:
    return PaintRequest.model_fields[field].description or ""


def bounds(field: str) -> tuple[float | None, float | None]:
    """The lowest and the highest value the request allows."""
    rules = PaintRequest.model_fields[field].metadata
    lowest: list[Any] = [rule.ge for rule in rules if isinstance(rule, annotated_types.Ge)]
    highest: list[Any] = [rule.le for rule in rules if isinstance(rule, annotated_types.Le)]
    return next(iter(lowest), None), next(iter(highest), None)


def component(field: str, choices: Sequence[str] = ()) -> Any:
    """The component for one of FOLDED; empty means that the model decides.

    choices: what depends on the models there are, the labels that the first one knows or the models that take a picture further.
    """
    told: dict[str, Any] = {"label": field.replace("_", " "), "info": help_of(field)}
    if field == "styles":
        return gr.Dropdown(sorted(styles()), multiselect=True, **told)
    if field == "literal":
        return gr.Dropdown(list(get_args(Syntax)), multiselect=True, **told)
    if field == "then":
        return gr.Dropdown(list(choices), multiselect=True, **told)
    if field in _NAMED:
        return gr.Dropdown(["", *_NAMED[field]()], value="", **told)
    if field == "label":
        return gr.Dropdown(list(choices), value=None, allow_custom_value=True, visible=bool(choices), **told)
    if field in ("negative", "size"):
        return gr.Textbox(placeholder="256x256" if field == "size" else "", **told)
    if field == "detail":
        return gr.Checkbox(**told)
    if field in ("strength", "mask_tolerance"):
        (low, high), usual = bounds(field), PaintRequest.model_fields[field].default
        return gr.Slider(low or 0, high or 1, value=USUAL_STRENGTH if usual is None else usual, step=0.05 if usual is None else 1, **told)
    return gr.Textbox(**told)  # not gr.Number: that makes a 0 of an empty one; the request reads the words and checks the bounds


def fields_of(values: dict[str, Any]) -> dict[str, Any]:
    """What was filled in, as fields of a request; RequestError comes later, from the request."""
    stripped = {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}
    filled = {name: value for name, value in stripped.items() if value not in (None, "", []) and value is not False}
    if "size" in filled:
        width, _, height = str(filled["size"]).lower().replace("×", "x").partition("x")
        filled["size"] = (width.strip(), height.strip())
    return filled


def labels_of(entry: ModelEntry) -> Any:
    """The label field for this model."""
    return gr.update(choices=entry.labels, value=None, visible=bool(entry.labels))
