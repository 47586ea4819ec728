"""The Gallery tab: everything painted through this queue; search, compare, settings again, a bin."""

from __future__ import annotations

import html
import shutil
from pathlib import Path
from typing import Any

import gradio as gr

from bowerbird.errors import BowerbirdError, PictureFolderError
from bowerbird.jobs import Job, Queue
from bowerbird.picture_metadata import read_metadata
from bowerbird.studio.painting import tile

SHOWN = 120
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
    jobs = queue.jobs(states=("done",), kinds=("paint", "upscale"), limit=1000)
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


def gallery_tab(queue: Queue, form: dict[str, Any], tab: gr.Tab) -> None:
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
        label="or drop a picture file, of ours or of another program, to paint with its settings", height=110, elem_id="recall"
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
            return [gr.update() for _ in form]
        job = queue.get(job_id)
        fields = job.request | {"seed": _carried(job).get("seed")}  # the one that was drawn, if none was asked for
        return _filled(form, fields)

    def recall_file(file: str | None) -> list[Any]:
        """What the picture says, but never the model: whoever drops it has chosen that."""
        nothing = [gr.update() for _ in form]
        if not file:
            return ["", *nothing]
        try:
            fields = settings_of(Path(file))
        except BowerbirdError as error:
            return [f'<p class="sentence bad">{html.escape(str(error))}</p>', *nothing]
        return ['<p class="sentence">its settings are in Paint</p>', *_filled(form, fields)]

    def throw(job_id: str | None, words: str) -> tuple[Any, Any, Any]:
        if job_id:
            to_bin(queue, job_id)
        return show(words)

    for event in (tab.select, search.change, refresh.click):
        event(show, search, [sheet, one, other], show_progress="hidden")
    sheet.select(pick, None, [one, other], show_progress="hidden")
    for chosen in (one, other):
        chosen.change(compare, [one, other], beside, show_progress="hidden")
    again.click(recall, one, list(form.values()), show_progress="hidden")
    dropped.change(recall_file, dropped, [said, *form.values()], show_progress="hidden")
    away.click(throw, [one, search], [sheet, one, other], show_progress="hidden")


def settings_of(picture: Path) -> dict[str, Any]:
    """The fields a picture file was painted with, as they were asked for.  A picture chooses no files: those are left out.

    BowerbirdError when it is no picture, or says nothing of how it was painted.
    """
    found = read_metadata(picture)
    if not found.fields:
        raise PictureFolderError(f"{picture.name!r} does not say how it was painted. {found.note}".rstrip())
    asked = found.fields.get("asked")
    said = found.fields | (asked.model_dump() if asked else {})  # as typed: the same seed draws the same words again
    return {name: value for name, value in said.items() if name not in ("image", "mask", "loras", "then")}


def _filled(form: dict[str, Any], fields: dict[str, Any]) -> list[Any]:
    """The form with these fields; one that always has a value keeps its own where they name none."""
    size = fields.get("size")
    values = {**fields, "size": "x".join(map(str, size)) if size else ""}
    texts = {name for name, each in form.items() if isinstance(each, gr.Textbox)}
    read = {name: str(values[name]) if name in texts and values.get(name) is not None else values.get(name) for name in form}
    sliders = {name for name, each in form.items() if isinstance(each, gr.Slider)}
    keeps = {"model"} | {name for name in sliders if read[name] is None}
    return [gr.update() if name in keeps else gr.update(value=read[name]) for name in form]


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
