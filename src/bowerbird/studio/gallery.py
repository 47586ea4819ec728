"""The Gallery tab: everything painted through this queue; search, compare, settings again, a bin."""

from __future__ import annotations

import html
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from bowerbird.errors import BowerbirdError, PictureFolderError
from bowerbird.jobs import Catalogue, Job, Queue
from bowerbird.picture_metadata import read_metadata
from bowerbird.prompts import is_locked
from bowerbird.repaint import open_mask, open_picture
from bowerbird.request import PaintRequest, read_request
from bowerbird.studio.form import Form
from bowerbird.studio.painting import tile
from bowerbird.studio.words import sentence

SHOWN = 120
_CHOOSES_NOT = ("image", "mask", "loras", "then")  # a picture that is dropped: what it names on this machine is not opened
# a click on a picture chooses it, with the Shift key as the one beside; Ctrl+click opens it as everywhere
PICK = """element.addEventListener("click", (event) => {
  const job = event.target.closest("[data-job]")?.dataset.job;
  if (!job || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  trigger("select", {value: job, index: event.shiftKey ? 1 : 0});
});"""


def found(queue: Queue, words: str) -> list[Job]:
    """Finished paintings whose words hold every one of `words`, the newest first."""
    wanted = words.lower().split()
    jobs = queue.jobs(states=("done",), kinds=("paint", "upscale", "compare"), limit=1000)
    text = (
        (job, f"{job.request.get('prompt', '')} {job.request.get('label') or ''} {job.request.get('model', '')}".lower()) for job in jobs
    )
    return [job for job, said in text if all(word in said for word in wanted) and any(path.is_file() for path in job.paths)]


def to_bin(queue: Queue, job_id: str) -> None:
    """Out of the gallery; its folder stays in HOME/bin until somebody empties it."""
    queue.get(job_id)
    folder = queue.home / "jobs" / job_id
    if folder.is_dir():
        (queue.home / "bin").mkdir(exist_ok=True)
        shutil.move(folder, queue.home / "bin" / job_id)
    queue.forget(job_id)


def gallery_tab(queue: Queue, catalogue: Catalogue, form: Form, tab: gr.Tab) -> None:
    """Build the tab into `tab`; `form`: the components of Paint, which it can fill in."""
    with gr.Row():
        search = gr.Textbox(placeholder="words of the prompt", label="search", scale=4)
        refresh = gr.Button("Look again", scale=1)
    sheet = gr.HTML(js_on_load=PICK)
    with gr.Row():
        one = gr.Dropdown([], label="picture", scale=3)
        other = gr.Dropdown([], label="beside", scale=3)
        again = gr.Button("Use its settings", scale=1)
        away = gr.Button("Into the bin", scale=1, variant="stop")
    beside = gr.HTML()
    dropped = gr.File(
        label="or drop a picture file, of ours or of another program, to paint with its settings", height=170, elem_id="recall"
    )
    said = gr.HTML()

    def show(words: str) -> tuple[Any, Any, Any]:
        jobs = found(queue, words)
        tiles = [tile(job, number) for job in jobs for number in range(len(job.paths))][:SHOWN]
        names = [(_title(job), job.id) for job in jobs]
        page = f'<div class="tiles small">{"".join(tiles)}</div>' if tiles else '<p class="sentence">nothing painted yet</p>'
        return page, gr.update(choices=names), gr.update(choices=names)

    def pick(event: gr.SelectData) -> tuple[Any, Any]:
        return (gr.skip(), event.value) if event.index else (event.value, gr.skip())

    def compare(first: str | None, second: str | None) -> str:
        jobs = [queue.get(each) for each in (first, second) if each]
        return '<div class="tiles">' + "".join(tile(job, 0) + _told(job) for job in jobs) + "</div>"

    def recall(job_id: str | None) -> list[Any]:
        if not job_id:
            return [gr.skip(), *(gr.skip() for _ in form.components())]
        job = queue.get(job_id)
        names = {entry.where: entry.name for entry in catalogue.entries()}
        fields = job.request | {"seed": _carried(job).get("seed")}  # the one that was drawn, if none was asked for
        fields["then"] = [names[where] for where in fields["then"] if where in names]
        gone = [] if fields["model"] in names and len(fields["then"]) == len(job.request["then"]) else ["a model that is gone"]
        return [told(without(form, fields) + gone), *filled(form, fields, names.get(fields["model"]))]

    def recall_file(file: str | None) -> list[Any]:
        """What the picture says, but never the model: whoever drops it has chosen that."""
        nothing = [gr.skip() for _ in form.components()]
        if not file:
            return ["", *nothing]
        try:
            fields, left_out = settings_of(Path(file))
        except BowerbirdError as error:
            return [sentence(str(error), "bad"), *nothing]
        why = ": a picture chooses no files and models of yours" if left_out else ""
        return [told(left_out + without(form, fields), why), *filled(form, fields)]

    def throw(job_id: str | None, words: str) -> tuple[Any, Any, Any]:
        if job_id:
            to_bin(queue, job_id)
        return show(words)

    for event in (tab.select, search.change, refresh.click):
        event(show, search, [sheet, one, other], show_progress="hidden")
    sheet.select(pick, None, [one, other], show_progress="hidden")
    for chosen in (one, other):
        chosen.change(compare, [one, other], beside, show_progress="hidden")
    again.click(recall, one, [said, *form.components()], show_progress="hidden")
    dropped.change(recall_file, dropped, [said, *form.components()], show_progress="hidden")
    away.click(throw, [one, search], [sheet, one, other], show_progress="hidden")


def settings_of(picture: Path) -> tuple[dict[str, Any], list[str]]:
    """The fields a picture file was painted with, as they were asked for, and the names of those that it may not choose: files, models.

    BowerbirdError when it is no picture, or says nothing of how it was painted.
    """
    found = read_metadata(picture)
    if not found.fields:
        raise PictureFolderError(f"{picture.name!r} does not say how it was painted. {found.note}".rstrip())
    asked = found.fields.get("asked")
    fields = {name: value for name, value in found.fields.items() if name not in _CHOOSES_NOT}
    left_out = [name for name in _CHOOSES_NOT if found.fields.get(name) or (asked is not None and getattr(asked, name, None))]
    return fields | {"asked": asked and asked.model_copy(update={"loras": []})}, left_out


def as_asked(fields: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The fields with the words as they were typed, from which the same seed draws the same final words; and whether they were locked."""
    known = PaintRequest.model_fields.keys() - {"model"}
    request = read_request({name: value for name, value in fields.items() if name in known and value is not None})
    if request.asked is None or is_locked(request):
        return dict(fields), request.asked is not None
    return {**fields, **request.asked.model_dump()}, False


def told(left_out: Sequence[str], why: str = "") -> str:
    return sentence("its settings are in Paint" + (f", without {', '.join(left_out)}{why}" if left_out else ""))


def without(form: Form, fields: Mapping[str, Any]) -> list[str]:
    """The settings that say something and for which the form has no place."""
    asked, is_final = as_asked(fields)
    usual = PaintRequest().model_dump()
    placed = {*form.fields, "asked", *(("loras",) if is_final else ()), *(("image", "mask") if _source(fields) is not None else ())}
    return [name for name, value in asked.items() if name not in placed and value not in (None, usual.get(name))]


def filled(form: Form, fields: Mapping[str, Any], model: str | None = None) -> list[Any]:
    """The form with these fields; one that always has a value keeps its own where they name none."""
    (asked, is_final), usual = as_asked(fields), PaintRequest().model_dump() | {"model": None}
    size = asked.get("size")
    values = {**asked, "size": "x".join(map(str, size)) if size else "", "model": model}
    updates = []
    for name, each in form.fields.items():
        value = values.get(name)
        if value is None and (name == "model" or isinstance(each, gr.Slider | gr.Checkbox)):
            updates.append(gr.skip())
        elif isinstance(each, gr.Dropdown) and value == usual[name]:  # what the request leaves open is empty here
            updates.append(gr.update(value=[] if each.multiselect else ""))
        else:
            updates.append(gr.update(value=str(value) if isinstance(each, gr.Textbox) and value is not None else value))
    words = [asked.get("prompt", ""), asked.get("negative", "")] if is_final else ["", ""]
    drawn = {"loras": asked.get("loras")} if is_final else {}
    return [*updates, *words, is_final, drawn, _source(asked), [], None, None]


def _source(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """The picture that it began with, and its mask as if it had been brushed; None where there is none, or no longer."""
    image, mask = fields.get("image"), fields.get("mask")
    try:
        if image is None:
            return None
        layers = []
        if mask is not None:
            covered = open_mask(Path(mask))
            layers = [Image.merge("RGBA", [*[Image.new("L", covered.size, 255)] * 3, covered])]
        return {"background": open_picture(Path(image)), "layers": layers, "composite": None}
    except PictureFolderError:
        return None


def _title(job: Job) -> str:
    return f"{str(job.request.get('prompt') or job.request.get('label') or 'without words')[:60]} · {job.id[:4]}"


def _carried(job: Job) -> dict[str, Any]:
    """The fields in the job's first picture; none where it is gone."""
    metadata = read_metadata(job.paths[0]) if job.paths and job.paths[0].is_file() else None
    return metadata.fields if metadata else {}


def _told(job: Job) -> str:
    """The settings a picture carries."""
    said = {
        name: value for name, value in _carried(job).items() if value not in (None, "", [], {}) and value is not False and name != "asked"
    }
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>" for name, value in said.items())
    return f'<table class="told">{rows}</table>'
