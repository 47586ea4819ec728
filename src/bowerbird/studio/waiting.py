"""The Queue tab: what runs, what waits, what it will take; cancel, and another place."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from bowerbird.jobs import Job, Queue


def queue_tab(queue: Queue) -> gr.Timer:
    """Build the tab; returns the timer that keeps it fresh while it is open."""
    table = gr.HTML()
    with gr.Row():
        chosen = gr.Dropdown([], label="job", scale=4)
        cancel, first = gr.Button("Cancel", variant="stop", scale=1), gr.Button("Next in line", scale=1)
    timer = gr.Timer(2, active=False)

    def show() -> tuple[str, Any]:
        jobs = [*queue.jobs(states=("running",)), *queue.jobs(states=("queued",))]
        forecast = queue.forecast()
        rows = "".join(_row(job, forecast.get(job.id)) for job in jobs)
        page = f'<table class="told"><tr><th>what</th><th>state</th><th>how far</th><th>ready in</th></tr>{rows}</table>'
        names = [(f"{job.kind} {_words(job)[:50]} · {job.id[:4]}", job.id) for job in jobs]
        return page if jobs else '<p class="sentence">nothing waits</p>', gr.update(choices=names)

    def do_cancel(job_id: str | None) -> tuple[str, Any]:
        if job_id:
            queue.cancel(job_id)
        return show()

    def do_first(job_id: str | None) -> tuple[str, Any]:
        if job_id:
            queue.move(job_id, 0)
        return show()

    timer.tick(show, None, [table, chosen], show_progress="hidden")
    cancel.click(do_cancel, chosen, [table, chosen], show_progress="hidden")
    first.click(do_first, chosen, [table, chosen], show_progress="hidden")
    return timer


def _words(job: Job) -> str:
    if job.kind == "describe":
        return "a picture" if len(job.request["pictures"]) == 1 else f"{len(job.request['pictures'])} pictures"
    return str(job.request.get("prompt") or job.request.get("pictures") or job.request.get("generated") or job.request.get("model") or "")


def _row(job: Job, seconds: float | None) -> str:
    progress = job.progress
    done = f"{100 * progress.done / progress.total:.0f} %" if progress and progress.total else ""
    left = progress.seconds_left if progress and progress.seconds_left else seconds
    cells = (f"{job.kind}: {_words(job)[:80]}", job.state, done, f"{left:.0f} s" if left else "")
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
