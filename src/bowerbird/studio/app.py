"""The page: its tabs, its look, its keys."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from bowerbird.jobs import Catalogue, Queue
from bowerbird.studio.form import Form
from bowerbird.studio.gallery import gallery_tab
from bowerbird.studio.painting import paint_tab
from bowerbird.studio.training import train_tab
from bowerbird.studio.waiting import queue_tab

CSS = Path(__file__).with_name("studio.css")
# Ctrl+Enter paints, Escape stops, wherever the focus is
KEYS = """<script>
document.addEventListener("keydown", (event) => {
  const id = event.key === "Enter" && (event.ctrlKey || event.metaKey) ? "paint" : event.key === "Escape" ? "stop" : null;
  if (id) { document.getElementById(id)?.click(); event.preventDefault(); }
});
</script>"""
ANEW = ("prompt", "model", "label", "detail")  # not remembered: what depends on the models there are, and on a picture
REMEMBERED = "bowerbird-studio"  # the browser keeps the settings under this name


def look() -> dict[str, Any]:
    """Theme, style and keys, for whoever mounts the page.  The system's own fonts: nothing is fetched from elsewhere."""
    theme = gr.themes.Base(
        primary_hue="indigo", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return {"theme": theme, "css": CSS.read_text(), "head": KEYS}


def create_studio(queue: Queue, catalogue: Catalogue, options: Sequence[str] = ()) -> gr.Blocks:
    """The Studio as a Gradio page over this queue.  options: of the command line, for what is tried in a process of its own."""
    page = gr.Blocks(title="Bowerbird Studio", analytics_enabled=False, fill_width=True)
    with page:
        gr.HTML('<h1 class="name">Bowerbird</h1>')
        with gr.Tabs():
            with gr.Tab("Paint") as painting:
                form = paint_tab(queue, catalogue)
            with gr.Tab("Gallery") as gallery:
                gallery_tab(queue, catalogue, form, gallery)
            with gr.Tab("Train") as train:
                training = train_tab(queue, options)
            with gr.Tab("Queue") as waiting:
                queued = queue_tab(queue)
            with gr.Tab("Models") as models:
                cards = gr.HTML()
        for tab, timer in ((train, training), (waiting, queued)):  # only an open tab asks again and again
            tab.select(lambda: gr.Timer(active=True), None, timer, show_progress="hidden")
        painting.select(lambda: _offered(catalogue), None, form.fields["model"], show_progress="hidden")  # a run may have ended since
        page.load(lambda: _offered(catalogue), None, form.fields["model"], show_progress="hidden")
        models.select(lambda: _cards(catalogue), None, cards, show_progress="hidden")
        _remember(page, form)
    return page


def _remember(page: gr.Blocks, form: Form) -> None:
    """Settings are those of last time, also after a restart of program or machine: the browser keeps them."""
    kept = gr.BrowserState({}, storage_key=REMEMBERED, secret=REMEMBERED)  # not a secret: only so that a restart can read it
    fields = [name for name in form.fields if name not in ANEW]

    def save(*values: Any) -> dict[str, Any]:
        return dict(zip(fields, values, strict=True))

    def recall(before: dict[str, Any]) -> list[Any]:
        return [gr.update(value=before[name]) if (before or {}).get(name) is not None else gr.update() for name in fields]

    components = [form.fields[name] for name in fields]
    page.load(recall, kept, components, show_progress="hidden")
    for each in components:
        each.change(save, components, kept, show_progress="hidden", queue=False)


def _offered(catalogue: Catalogue) -> Any:
    """The models there are now, as choices."""
    return gr.update(choices=[entry.name for entry in catalogue.entries()])


def _cards(catalogue: Catalogue) -> str:
    rows = []
    for entry in catalogue.entries():
        told = entry.details.get("training") or {}
        seen = told.get("pictures_seen")
        learnt = f"{seen:,} pictures seen in {told.get('hours', '?')} h" if isinstance(seen, int) else ""
        reads = ", ".join(filter(None, ("words" if entry.reads_text else "", f"{len(entry.labels)} labels" if entry.labels else "")))
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in (entry.name, entry.kind, reads or "-", learnt))
        short, _, more = entry.licence.partition(". ")
        licence = f"<details><summary>{html.escape(short)}</summary>{html.escape(more)}</details>" if more else html.escape(short)
        rows.append(f"<tr>{cells}<td>{licence}</td></tr>")
    head = "<tr><th>model</th><th>kind</th><th>reads</th><th>learnt from</th><th>licence</th></tr>"
    return f'<table class="told">{head}{"".join(rows)}</table>'
