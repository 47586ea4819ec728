"""A picture to start from: dropped, a part of it covered by brush or by clicks, which is shown before painting, and put into words."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageChops, ImageOps

from bowerbird.canvas import region_at
from bowerbird.errors import BowerbirdError
from bowerbird.jobs import Catalogue, Queue
from bowerbird.jobs.asking import describe_request
from bowerbird.repaint import strength_of
from bowerbird.request import PaintRequest
from bowerbird.studio.form import SIDES, component
from bowerbird.studio.words import progress_of, sentence

TINT = (230, 0, 180)  # of what is painted anew; a colour that few pictures have
SHOWN_PX = 768  # the longer side of the picture that is clicked at; clicks count in pixels of the picture itself
_HERE = Path("picture")


@dataclass(frozen=True)
class Source:
    """The components of this part of the form."""

    picture: gr.ImageEditor
    points: gr.State
    tolerance: gr.Slider
    strength: gr.Slider
    detail: gr.Checkbox
    sides: gr.CheckboxGroup
    beyond: gr.Number

    def components(self) -> list[Any]:
        return [self.picture, self.points, self.tolerance, self.strength, self.detail, self.sides, self.beyond]

    def fields(self, queue: Queue, values: dict[Any, Any]) -> dict[str, Any]:
        """image, mask, outpaint, strength and detail of a request, from what was dropped, brushed over and clicked at."""
        found = covered(values[self.picture], values[self.points], int(values[self.tolerance]))
        if found is None:
            return {}
        picture, mask = found
        fields: dict[str, Any] = {"image": queue.keep_input(png(picture), ".png"), "strength": values[self.strength]}
        if mask.getbbox() is not None:
            fields |= {"mask": queue.keep_input(png(mask), ".png"), "detail": values[self.detail]}
        if values[self.sides]:
            fields["outpaint"] = dict.fromkeys(values[self.sides], int(values[self.beyond] or 0))
        return fields


def source_part(queue: Queue, catalogue: Catalogue, model: Any, words: list[Any]) -> Source:
    """Build it.  model: the component that has the chosen model's name; words: prompt, final words, what they avoid, and their lock."""
    gr.Markdown(
        "Drop a picture. Brush over what is to be painted anew, or click at it in the second picture; otherwise all of it is varied."
    )
    with gr.Row():
        picture = gr.ImageEditor(
            type="pil", layers=False, height=360, label="picture", brush=gr.Brush(colors=["#ffffff"], default_size=24), transforms=(),
            elem_id="source",
        )  # fmt: skip
        over = gr.Image(
            height=360, label="click at what is to be painted anew; tinted is what will be", interactive=False, visible=False,
            buttons=[], elem_id="covered",
        )  # fmt: skip
    with gr.Row():
        strength, detail = component("strength"), component("detail")
        with gr.Column():
            tolerance = component("mask_tolerance")
            forget = gr.Button("Forget the clicks", size="sm")
    with gr.Row():
        sides = gr.CheckboxGroup(list(SIDES), label="continue it to the")
        beyond = gr.Number(64, minimum=8, maximum=4096, precision=0, label="by so many pixels")
    with gr.Row():
        whose = gr.Textbox(
            label="in whose words", scale=3, elem_id="whose",
            info="a run, a folder of captioned pictures, or a captioner (blip, or its folder); empty: what the chosen model learnt from",
        )  # fmt: skip
        describe = gr.Button("Put it into words", scale=1, elem_id="describe")
    told = gr.HTML()
    captions = gr.Radio([], label="words for it", visible=False, elem_id="captions")
    points, usual = gr.State([]), gr.State(None)
    source = Source(picture, points, tolerance, strength, detail, sides, beyond)

    def look(editor: Any, clicked: list[list[int]], like: float, closely: bool, outward: list[str], before: float | None) -> Any:
        """The picture with its mask over it; the strength becomes the usual one when that changes."""
        found = covered(editor, clicked, int(like))
        if found is None:
            return gr.update(value=None, visible=False), gr.skip(), None
        masked = found[1].getbbox() is not None
        now = usual_strength(masked, closely, bool(outward))
        return gr.update(value=tinted(*found), visible=True), gr.skip() if now == before else now, now

    def click(editor: Any, clicked: list[list[int]], event: gr.SelectData) -> list[list[int]]:
        found = covered(editor, (), 0)
        return clicked if found is None else [*clicked, in_the_picture(found[0].size, event.index)]

    def put(editor: Any, chosen: str, in_words_of: str) -> Iterator[Any]:
        found = covered(editor, (), 0)
        if found is None:
            yield sentence("drop a picture first.", "bad"), gr.update()
            return
        try:
            kept = queue.keep_input(png(found[0]), ".png")
            (job,) = queue.submit("describe", [describe_request(catalogue.find(chosen), [kept], in_words_of.strip())], origin="studio")
        except BowerbirdError as error:
            yield sentence(str(error), "bad"), gr.update()
            return
        for now in queue.follow(job.id):
            yield progress_of(now), gr.update()
        if now.state == "done":
            likeness = "" if now.request["captioner"] else " · {likeness:.2f}"
            found_words = [(each["text"] + likeness.format(**each), each["text"]) for each in now.result["captions"][0]]
            yield progress_of(now), gr.update(choices=found_words, value=None, visible=True)

    shown: dict[str, Any] = {"fn": look, "inputs": [picture, points, tolerance, detail, sides, usual], "outputs": [over, strength, usual]}
    quietly: dict[str, Any] = {"show_progress": "hidden"}
    for event in (picture.upload, picture.clear):
        event(list, None, points, **quietly).then(**shown, **quietly)
    for event in (picture.change, detail.change, sides.change, tolerance.release):
        event(**shown, **quietly, trigger_mode="always_last")
    over.select(click, [picture, points], points, **quietly).then(**shown, **quietly)
    forget.click(list, None, points, **quietly).then(**shown, **quietly)
    describe.click(put, [picture, model, whose], [told, captions], **quietly, concurrency_limit=None)
    captions.input(lambda chosen: [chosen, "", "", False], captions, words, **quietly)
    return source


def covered(editor: Any, points: Sequence[Sequence[int]], tolerance: int) -> tuple[Image.Image, Image.Image] | None:
    """The picture that was dropped, None without one, and its mask: 255 where it was brushed over or is connected to a point and alike."""
    background = (editor or {}).get("background")
    if background is None:
        return None
    flat = Image.new("RGBA", background.size, "white")
    flat.alpha_composite(background.convert("RGBA"))
    picture, mask = flat.convert("RGB"), Image.new("L", background.size)
    for layer in editor.get("layers") or ():
        strokes = layer.convert("RGBA").getchannel("A").point(lambda alpha: 255 if alpha else 0)
        mask = ImageChops.lighter(mask, strokes.resize(picture.size, Image.Resampling.NEAREST))
    for x, y in points:
        if x < picture.width and y < picture.height:
            mask = ImageChops.lighter(mask, region_at(picture, (x, y), tolerance))
    return picture, mask


def tinted(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture as it is shown to be clicked at, with a colour over what the mask covers."""
    over = Image.composite(Image.blend(picture, Image.new("RGB", picture.size, TINT), 0.6), picture, mask)
    return ImageOps.contain(over, (SHOWN_PX, SHOWN_PX))


def in_the_picture(size: tuple[int, int], shown_at: Sequence[int]) -> list[int]:
    """The pixel of a picture of that size, from a point of it as `tinted` shows it."""
    scale = max(size) / SHOWN_PX
    return [min(side - 1, int((at + 0.5) * scale)) for side, at in zip(size, shown_at, strict=True)]


def usual_strength(masked: bool, detail: bool, outward: bool) -> float | None:
    """How far one usually moves from such a picture, as the request has it."""
    sides: Any = {"left": 8} if outward else {}
    request = PaintRequest(image=_HERE, mask=_HERE if masked else None, detail=masked and detail, outpaint=sides)
    return strength_of(request, "paint")


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
