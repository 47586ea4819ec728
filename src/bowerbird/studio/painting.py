"""The Paint tab: a prompt, a click, pictures; a preview on the way; what the model reads, shown, edited, locked."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from bowerbird.errors import BowerbirdError, RequestError
from bowerbird.jobs import Catalogue, CompareRequest, Job, Kind, ModelEntry, Queue
from bowerbird.jobs.asking import final_words, paint_request
from bowerbird.jobs.requests import read_job_request
from bowerbird.picture_folder import for_each_picture
from bowerbird.prompts import in_words, with_preset
from bowerbird.prompts import lock as locked
from bowerbird.request import PaintRequest
from bowerbird.studio.form import FOLDED, MOST_AT_ONCE, Form, component, fields_of, labels_of
from bowerbird.studio.source import source_part
from bowerbird.studio.styles import style_strip
from bowerbird.studio.words import notes_of, progress_of_all, sentence

EXAMPLES = ("3D fluent emoji of a penguin", "noto emoji of a birthday cake", "flat fluent emoji of a police officer")
PREVIEWS = 8
TOLD = 20  # final prompts listed of a request that has many
AXES = {"x": "compare, in columns", "y": "and in rows", "z": "and in sections"}
UNLOCKED = "() => ['', '', false, '']"  # in the browser: other words are asked anew


def paint_tab(queue: Queue, catalogue: Catalogue) -> Form:
    """Build the tab; returns its components, for the other tabs to fill in."""
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
        examples = [gr.Button(words, size="sm") for words in EXAMPLES]
    with gr.Row():
        model = gr.Dropdown(
            names, value=default.name if default else None, label="model", allow_custom_value=True, scale=2
        )  # it may be gone by the click
        count = gr.Slider(1, MOST_AT_ONCE, value=4, step=1, label="pictures", scale=1)
    said = gr.HTML(elem_id="said")
    shown = gr.HTML(elem_id="shown")
    with gr.Accordion("Final prompt: what the model reads; edit it, lock it", open=False, elem_id="reads") as reads:
        with gr.Row():
            final = gr.Textbox(label="it reads", info="edited, it is locked: painted as it stands", scale=3, elem_id="final")
            avoid = gr.Textbox(label="and avoids", info="made from negative words, styles and preset", scale=2, elem_id="avoid")
        with gr.Row():
            show = gr.Button("Show it before painting", size="sm", elem_id="show")
            lock = gr.Checkbox(label="lock", info="later pictures read these words, until you write or choose others", elem_id="lock")
        more = gr.HTML()
    folded: dict[str, Any] = {}
    with gr.Accordion("More settings", open=False):
        choices = {"label": default.labels if default else (), "then": upscalers(catalogue)}
        for row in (FOLDED[:2], FOLDED[2:6], FOLDED[6:10], FOLDED[10:13]):
            with gr.Row():
                folded |= {name: component(name, choices.get(name, ())) for name in row}
            if "styles" in row:
                strip = style_strip(folded["styles"])
        with gr.Row():
            axes = {name: gr.Textbox(label=label, info=CompareRequest.model_fields[name].description) for name, label in AXES.items()}
    title = "From a picture, or many: vary it, paint a part anew, continue it, enlarge it, put it into words"
    with gr.Accordion(title, open=False, elem_id="from-picture"):
        job_ids, drawn = gr.State([]), gr.State({})
        source = source_part(queue, catalogue, model, [prompt, final, avoid, lock], job_ids)

    def asked(values: dict[Any, Any], from_picture: dict[str, Any], lock_them: bool) -> tuple[ModelEntry, PaintRequest, list[str]]:
        """What the form asks for, of which model, and notes; BowerbirdError when that cannot be."""
        entry, before = catalogue.find(values[model]), values[drawn]
        fields = fields_of({name: values[each] for name, each in folded.items()}) | from_picture
        if enlarges(entry):
            fields.pop("strength", None)
        fields |= {
            "count": 1 if enlarges(entry) else int(values[count]),
            "then": [catalogue.find(name).where for name in fields.get("then", ())],
        }
        if lock_them:
            own = {name: value for name, value in fields.items() if name not in ("styles", "expand")}  # their words are in it
            own |= {"negative": values[avoid], "loras": before.get("loras")}
            request, notes = paint_request(entry, values[final], own)
            return entry, locked(request), notes
        if before.get("seed") is not None:
            fields.setdefault("seed", before["seed"])  # so that what was shown is what is painted
        return entry, *paint_request(entry, values[prompt] or "", fields)

    def foresee(values: dict[Any, Any]) -> Iterator[Any]:
        """The final words as they would be painted now; locked ones stay."""
        if values[lock] and values[final]:
            yield (gr.skip(),) * 5
            return
        try:
            entry, request, notes = asked(values, {}, False)
            if with_preset(request).expand == "llm":
                yield sentence("asking the language model"), *(gr.skip(),) * 4
            finals = final_words(entry, request)
        except BowerbirdError as error:
            yield sentence(str(error), "bad"), *(gr.skip(),) * 4
            return
        yield notes_of(notes), in_words(finals[0]), finals[0].negative, others(finals), {"seed": finals[0].seed}

    def paint(values: dict[Any, Any]) -> Iterator[Any]:
        lock_it, kept = bool(values[lock]), (gr.skip(), gr.skip(), "", gr.skip())
        try:
            entry, request, notes = asked(values, source.fields(queue, values), lock_it)
            if not lock_it and with_preset(request).expand != "llm":  # the worker asks a language model; one question is enough
                finals = final_words(entry, request)
                kept = (in_words(finals[0]), finals[0].negative, others(finals), {})
            along, requests = fields_of({name: values[each] for name, each in axes.items()}), for_each_picture(request)
            if along and len(requests) > 1:
                raise RequestError("a sheet compares settings for one picture; leave its fields empty, or drop one picture alone.")
            if along:  # a sheet has one picture in each place
                requests = [read_job_request(CompareRequest, {**requests[0].model_dump(), "count": 1, **along})]
            kind: Kind = "compare" if along else "upscale" if enlarges(entry) else "paint"
            jobs = queue.submit(kind, requests, origin="studio", previews=PREVIEWS)
        except BowerbirdError as error:
            yield sentence(str(error), "bad"), gr.update(), [], gr.skip(), gr.skip(), gr.skip(), gr.skip()
            return
        for number, job in enumerate(jobs):
            for now in queue.follow(job.id):
                jobs[number] = now
                yield notes_of(notes) + progress_of_all(jobs), _shown(jobs, now), [each.id for each in jobs], *kept
                kept = (gr.skip(),) * 4
        done = next((job for job in jobs if job.state == "done"), None)
        if done is not None and kind == "paint" and not lock_it:
            read = PaintRequest.model_validate(done.result["settings"])
            yield gr.skip(), gr.skip(), gr.skip(), in_words(read), read.negative, gr.skip(), {}

    def cancel(ids: list[str]) -> None:
        for job_id in ids:
            queue.cancel(job_id)

    everything = {prompt, model, count, final, avoid, lock, drawn, *folded.values(), *axes.values(), *source.components()}
    quietly: dict[str, Any] = {"show_progress": "hidden"}
    for event in (go.click, prompt.submit):
        event(paint, everything, [said, shown, job_ids, final, avoid, more, drawn], **quietly, concurrency_limit=None)
    stop.click(cancel, job_ids, None, **quietly, concurrency_limit=None)
    for event in (show.click, reads.expand, lock.input):
        event(foresee, everything, [said, final, avoid, more, drawn], **quietly, concurrency_limit=None)
    worded = (prompt, *(folded[name] for name in ("negative", "styles", "preset", "expand", "literal")))
    for changed in (strip.select, *(each.input for each in worded)):  # a style clicked at is no input of the list
        changed(None, None, [final, avoid, lock, more], js=UNLOCKED, **quietly)
        changed(dict, None, drawn, **quietly, queue=False)
    for each in (final, avoid):
        each.input(None, None, lock, js="() => true", **quietly)
    for button, words in zip(examples, EXAMPLES, strict=True):
        button.click(lambda words=words: (words, "", "", False, "", {}), None, [prompt, final, avoid, lock, more, drawn], **quietly)
    model.change(lambda name: labels_of(catalogue.find(name)), model, folded["label"], **quietly)
    fields = {"prompt": prompt, "model": model, "count": count, **folded}
    fields |= {"strength": source.strength, "mask_tolerance": source.tolerance, "detail": source.detail}
    return Form(fields, final, avoid, lock, drawn, source.picture, source.points, source.many, source.masks)


def enlarges(entry: ModelEntry) -> bool:
    """Whether it takes a picture further instead of painting one: it needs no strength, and makes one picture of one."""
    return entry.kind == "upscaler"


def upscalers(catalogue: Catalogue) -> list[str]:
    """The models that take a picture further."""
    return [entry.name for entry in catalogue.entries() if enlarges(entry)]


def others(finals: Sequence[PaintRequest]) -> str:
    """The final prompts after the first: of arrays, or of pictures that draw words of their own."""
    rows = "".join(f"<li>{html.escape(in_words(one))}</li>" for one in finals[1 : TOLD + 1])
    left = f"<li>and {len(finals) - TOLD - 1:,} more</li>" if len(finals) > TOLD + 1 else ""
    return f'<p class="sentence">the other pictures read, unless these words are locked for all:</p><ul>{rows}{left}</ul>' if rows else ""


def _shown(jobs: Sequence[Job], now: Job) -> Any:
    """The pictures that are done, and how the one under way looks; until there is one, what was there before stays."""
    if now.kind == "compare" and now.state == "done":
        return f'<div class="tiles sheet">{tile(now, len(now.paths) - 1)}</div>'
    done = [job for job in jobs if job.state == "done"]
    tiles = [tile(job, number) for job in done for number in range(len(job.paths))]
    if not now.is_over and (newest := now.preview_paths()[-1:]):
        place = f"/api/jobs/{now.id}/preview?{newest[0].name}"
        tiles.append(f'<figure><img class="early" src="{place}" alt="how it looks now"></figure>')
    return f'<div class="tiles">{"".join(tiles)}</div>{_final_prompt(done)}' if tiles else gr.update()


def tile(job: Job, number: int) -> str:
    """A picture that opens in full on a click; its name carries its seed."""
    words = html.escape(str(job.request.get("prompt") or "without words"), quote=True)
    place = f"/pictures/{job.id}/{number}"
    image = f'<img src="{place}" alt="{words}" loading="lazy">'
    return f'<figure data-job="{job.id}"><a href="{place}" target="_blank" title="{words}">{image}</a></figure>'


def _final_prompt(done: Sequence[Job]) -> str:
    """What the model read, where it read the same for all of them."""
    read = {str(job.result["settings"]["prompt"] or "") for job in done}
    return f'<p class="sentence">the model read: <b>{html.escape(words)}</b></p>' if len(read) == 1 and (words := read.pop()) else ""
