"""A picture to start from: dropped, a part of it covered by brush or by clicks, which is shown before painting, and put into words.

Many at once are a folder of them, kept in the queue's home, from which each becomes a request as on every face.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageChops, ImageOps

from bowerbird.canvas import region_at
from bowerbird.errors import BowerbirdError, RequestError
from bowerbird.jobs import Catalogue, Job, Queue
from bowerbird.jobs.asking import describe_request
from bowerbird.picture_folder import SUFFIXES, pictures_of
from bowerbird.repaint import strength_of
from bowerbird.request import PaintRequest
from bowerbird.studio.dropped import keep_pictures
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
    many: gr.File
    masks: gr.File

    def components(self) -> list[Any]:
        return [self.picture, self.points, self.tolerance, self.strength, self.detail, self.sides, self.beyond, self.many, self.masks]

    def fields(self, queue: Queue, values: dict[Any, Any]) -> dict[str, Any]:
        """image, mask, outpaint, strength and detail of a request, from what was dropped, brushed over and clicked at.

        image and mask may be folders.  RequestError when it is not clear what to start from.
        """
        found = covered(values[self.picture], values[self.points], int(values[self.tolerance]))
        image, masks = kept(queue, found, values[self.many]), values[self.masks]
        if masks and not values[self.many]:
            raise RequestError("there are masks for many pictures, and no pictures: drop these too, or take the masks away.")
        if image is None:
            return {}
        fields: dict[str, Any] = {"image": image, "strength": values[self.strength]}
        if masks:
            fields |= {"mask": keep_pictures(queue, [Path(file) for file in masks]), "detail": values[self.detail]}
        elif found is not None and found[1].getbbox() is not None:
            fields |= {"mask": queue.keep_input(png(found[1]), ".png"), "detail": values[self.detail]}
        if values[self.sides]:
            fields["outpaint"] = dict.fromkeys(values[self.sides], int(values[self.beyond] or 0))
        return fields


def source_part(queue: Queue, catalogue: Catalogue, model: Any, words: list[Any], job_ids: gr.State) -> Source:
    """Build it.  model: the component that has the chosen model's name; words: prompt, final words, what they avoid, and their lock.

    job_ids: what Stop ends.
    """
    gr.Markdown(
        "Drop a picture. Brush over what is to be painted anew, or click at it in the second picture; otherwise it is varied, or enlarged "
        "by a model for that."
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
    with gr.Accordion("Or many pictures, each alike", open=False, elem_id="many-pictures"), gr.Row():
        several: dict[str, Any] = {"file_count": "multiple", "file_types": list(SUFFIXES), "height": 170}
        many = gr.File(label="pictures", elem_id="many", **several)
        masks = gr.File(label="masks of the same names", elem_id="masks", **several)
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
    source = Source(picture, points, tolerance, strength, detail, sides, beyond, many, masks)

    def look(
        editor: Any, clicked: list[list[int]], like: float, closely: bool, outward: list[str], before: float | None, files: Any, white: Any
    ) -> Any:
        """The picture with its mask over it; the strength becomes the usual one when that changes."""
        found = covered(editor, clicked, int(like))
        over = gr.update(value=None, visible=False) if found is None else gr.update(value=tinted(*found), visible=True)
        if found is None and not files:
            return over, gr.skip(), None
        masked = bool(white) if found is None else found[1].getbbox() is not None
        now = usual_strength(masked, closely, bool(outward))
        return over, gr.skip() if now == before else now, now

    def click(editor: Any, clicked: list[list[int]], event: gr.SelectData) -> list[list[int]]:
        found = covered(editor, (), 0)
        return clicked if found is None else [*clicked, in_the_picture(found[0].size, event.index)]

    def put(editor: Any, files: list[str] | None, chosen: str, in_words_of: str) -> Iterator[Any]:
        try:
            place = kept(queue, covered(editor, (), 0), files)
            if place is None:
                raise RequestError("drop a picture first.")
            asked = describe_request(catalogue.find(chosen), pictures_of([place]), in_words_of.strip())
            (job,) = queue.submit("describe", [asked], origin="studio")
        except BowerbirdError as error:
            yield sentence(str(error), "bad"), gr.update(), []
            return
        for now in queue.follow(job.id):
            yield progress_of(now), gr.update(), [now.id]
        if now.state == "done":
            yield progress_of(now), gr.update(choices=words_found(now, named=bool(files)), value=None, visible=True), [now.id]

    shown: dict[str, Any] = {
        "fn": look, "inputs": [picture, points, tolerance, detail, sides, usual, many, masks], "outputs": [over, strength, usual]
    }  # fmt: skip
    quietly: dict[str, Any] = {"show_progress": "hidden"}
    for event in (picture.upload, picture.clear):
        event(list, None, points, **quietly).then(**shown, **quietly)
    for event in (picture.change, many.change, masks.change, detail.change, sides.change, tolerance.release):
        event(**shown, **quietly, trigger_mode="always_last")
    over.select(click, [picture, points], points, **quietly).then(**shown, **quietly)
    forget.click(list, None, points, **quietly).then(**shown, **quietly)
    describe.click(put, [picture, many, model, whose], [told, captions, job_ids], **quietly, concurrency_limit=None)
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


def kept(queue: Queue, found: tuple[Image.Image, Image.Image] | None, many: Sequence[str] | None) -> Path | None:
    """Where the picture to start from is kept, or the folder of many; None without one.  RequestError for both at once."""
    if not many:
        return None if found is None else queue.keep_input(png(found[0]), ".png")
    if found is not None:
        raise RequestError("there is one picture, and there are many: take the one away, or the many.")
    return keep_pictures(queue, [Path(file) for file in many])


def words_found(job: Job, named: bool) -> list[tuple[str, str]]:
    """The words that a picture got, as they are offered, the best first; named: the best of each of many, after its name."""
    likeness = "" if job.request["captioner"] else " · {likeness:.2f}"
    offered = []
    for picture, captions in zip(job.request["pictures"], job.result["captions"], strict=True):
        name = f"{Path(picture).name}: " if named else ""
        offered += [(name + each["text"] + likeness.format(**each), each["text"]) for each in (captions[:1] if named else captions)]
    return offered


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
