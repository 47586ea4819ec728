"""What the page says of a job, and of what cannot be."""

from __future__ import annotations

import html
from collections.abc import Iterable

from bowerbird.jobs import Job


def sentence(words: str, kind: str = "") -> str:
    """kind: bad for what cannot be, note for a remark."""
    return f'<p class="sentence {kind}" role="status">{html.escape(words)}</p>'


def notes_of(notes: Iterable[str]) -> str:
    return "".join(sentence(words, "note") for words in notes)


def progress_of(job: Job) -> str:
    """How far a job is, why it failed, or its notes once it is done."""
    notes = notes_of(job.notes)
    if job.error is not None:
        return sentence(job.error.message, "bad") + notes
    if job.state == "cancelled":
        return sentence("stopped") + notes
    if job.state == "queued":
        return sentence("waiting for its turn")
    if job.is_over:
        return notes
    progress = job.progress
    if progress is None or not progress.total:
        return sentence("opening the model")
    left = f", about {progress.seconds_left:.0f} s left" if progress.seconds_left else ""
    share = 100 * progress.done / progress.total
    return f'<div class="bar" role="progressbar" aria-valuenow="{share:.0f}"><i style="width:{share:.1f}%"></i></div>' + sentence(
        f"{progress.phase}{left}"
    )
