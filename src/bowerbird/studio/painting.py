"""The Paint tab: a prompt, a click, pictures; a preview on the way; what the model reads, always shown."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from bowerbird.errors import BowerbirdError
from bowerbird.jobs import Catalogue, Job, Queue
from bowerbird.jobs.asking import paint_request
from bowerbird.picture_metadata import read_metadata
from bowerbird.studio.form import FOLDED, MOST_AT_ONCE, SIDES, component, fields_of, labels_of

EXAMPLES = ("3D fluent emoji of a penguin", "noto emoji of a birthday cake", "flat fluent emoji of a police officer")
PREVIEWS = 8


def paint_tab(queue: Queue, catalogue: Catalogue) -> dict[str, Any]:
    """Build the tab; returns its components by name, for the other tabs to fill in."""
    names = [entry.name for entry in catalogue.entries()]
    default = catalogue.find(None) if names else None
    with gr.Row(elem_classes="ask"):
        prompt = gr.Textbox(
            show_label=False, container=False, lines=2, max_lines=8, autofocus=True, elem_id="prompt", scale=8,
            placeholder="What should be painted?   Ctrl+Enter paints, Escape stops",
        )  # fmt: skip
        with gr.Column(scale=1, min_width=120):
            go = gr.Button("Paint", variant="primary", elem_id="paint")
            stop = gr.Button("Stop", elem_id="stop", size="sm")
    with gr.Row(elem_classes="examples"):
        for words in EXAMPLES:
            gr.Button(words, size="sm").click(lambda words=words: words, None, prompt, show_progress="hidden")
    with gr.Row():
        model = gr.Dropdown(
            names, value=default.name if default else None, label="model", allow_custom_value=True, scale=2
        )  # it may be gone by the click
        count = gr.Slider(1, MOST_AT_ONCE, value=4, step=1, label="pictures", scale=1)
    said = gr.HTML(elem_id="said")
    shown = gr.HTML(elem_id="shown")
    with gr.Accordion("More settings", open=False):
        folded: dict[str, Any] = {}
        choices = {"label": default.labels if default else (), "then": upscalers(catalogue)}
        for row in (FOLDED[:2], FOLDED[2:6], FOLDED[6:9], FOLDED[9:12]):
            with gr.Row():
                folded |= {name: component(name, choices.get(name, ())) for name in row}
    with gr.Accordion("From a picture: vary it, paint a part anew, continue it", open=False):
        gr.Markdown("Drop a picture. Brush over what is to be painted anew; without a brush stroke the whole picture is varied.")
        picture = gr.ImageEditor(
            type="pil", layers=False, height=360, label="picture", brush=gr.Brush(colors=["#ffffff"], default_size=24), transforms=()
        )
        folded["strength"] = component("strength")
        with gr.Row():
            sides = gr.CheckboxGroup(list(SIDES), label="continue it to the")
            beyond = gr.Number(64, minimum=8, maximum=4096, precision=0, label="by so many pixels")
    job_ids = gr.State([])

    def paint(words: str, chosen: str, how_many: float, editor: Any, outward: list[str], pixels: float, *values: Any) -> Iterator[Any]:
        try:
            fields = fields_of(dict(zip(folded, values, strict=True)))
            fields["then"] = [catalogue.find(name).where for name in fields.get("then", ())]
            fields |= _from_picture(queue, editor, outward, int(pixels or 0))
            if "image" not in fields:
                fields.pop("strength", None)
            request, notes = paint_request(catalogue.find(chosen), words or "", {**fields, "count": int(how_many)})
            (job,) = queue.submit("paint", [request], origin="studio", previews=PREVIEWS)
        except BowerbirdError as error:
            yield _sentence(str(error), "bad"), gr.update(), []
            return
        for now in queue.follow(job.id):
            yield _notes(notes) + _progress(now), _results(now) if now.is_over else _preview(now), [now.id]

    def cancel(ids: list[str]) -> None:
        for job_id in ids:
            queue.cancel(job_id)

    inputs = [prompt, model, count, picture, sides, beyond, *folded.values()]
    for event in (go.click, prompt.submit):
        event(paint, inputs, [said, shown, job_ids], show_progress="hidden", concurrency_limit=None)
    stop.click(cancel, job_ids, None, show_progress="hidden", concurrency_limit=None)
    model.change(lambda name: labels_of(catalogue.find(name)), model, folded["label"], show_progress="hidden")
    return {"prompt": prompt, "model": model, "count": count, **folded}


def upscalers(catalogue: Catalogue) -> list[str]:
    """The models that take a picture further."""
    return [entry.name for entry in catalogue.entries() if entry.kind == "upscaler"]


def _from_picture(queue: Queue, editor: Any, outward: list[str], pixels: int) -> dict[str, Any]:
    """image, mask and outpaint of a request, from what was dropped and brushed."""
    background = (editor or {}).get("background")
    if background is None:
        return {}
    fields: dict[str, Any] = {"image": queue.keep_input(_png(background.convert("RGB")), ".png")}
    strokes = [np.asarray(layer.convert("RGBA"))[..., 3] for layer in editor.get("layers") or ()]
    brushed = np.max(strokes, axis=0) if strokes else np.zeros(1)
    if brushed.any():
        fields["mask"] = queue.keep_input(_png(Image.fromarray(np.where(brushed > 0, 255, 0).astype(np.uint8))), ".png")
    if outward:
        fields["outpaint"] = dict.fromkeys(outward, pixels)
    return fields


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _sentence(words: str, kind: str = "") -> str:
    return f'<p class="sentence {kind}" role="status">{html.escape(words)}</p>'


def _notes(notes: Iterable[str]) -> str:
    return "".join(_sentence(words, "note") for words in notes)


def _progress(job: Job) -> str:
    notes = _notes(job.notes)
    if job.error is not None:
        return _sentence(job.error.message, "bad") + notes
    if job.state == "cancelled":
        return _sentence("stopped") + notes
    if job.state == "queued":
        return _sentence("waiting for its turn")
    if job.is_over:
        return notes
    progress = job.progress
    if progress is None or not progress.total:
        return _sentence("opening the model")
    left = f", about {progress.seconds_left:.0f} s left" if progress.seconds_left else ""
    share = 100 * progress.done / progress.total
    return f'<div class="bar" role="progressbar" aria-valuenow="{share:.0f}"><i style="width:{share:.1f}%"></i></div>' + _sentence(
        f"{progress.phase}{left}"
    )


def _preview(job: Job) -> Any:
    newest = job.preview_paths()[-1:]
    if not newest:
        return gr.update()
    place = f"/api/jobs/{job.id}/preview?{newest[0].name}"
    return f'<div class="tiles"><figure><img class="early" src="{place}" alt="how it looks now"></figure></div>'


def _results(job: Job) -> Any:
    if job.state != "done":
        return gr.update()
    return f'<div class="tiles">{"".join(tile(job, number) for number in range(len(job.paths)))}</div>{_final_prompt(job.paths)}'


def tile(job: Job, number: int) -> str:
    """A picture that opens in full on a click; its name carries its seed."""
    words = html.escape(str(job.request.get("prompt") or "without words"), quote=True)
    place = f"/pictures/{job.id}/{number}"
    image = f'<img src="{place}" alt="{words}" loading="lazy">'
    return f'<figure data-job="{job.id}"><a href="{place}" target="_blank" title="{words}">{image}</a></figure>'


def _final_prompt(paths: list[Path]) -> str:
    """What the model read, where that is not what was typed."""
    final = str(read_metadata(paths[0]).fields.get("prompt", "")) if paths else ""
    return f'<p class="sentence">the model read: <b>{html.escape(final)}</b></p>' if final else ""
