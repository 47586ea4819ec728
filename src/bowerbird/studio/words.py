"""What the page says of a job, and of what cannot be."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from bowerbird.jobs import Job

# where a dropped picture is kept says nothing to whoever dropped it; its name does
_KEPT_IN = re.compile(r"""(?<=['"])[^'"]*[\\/]inputs[\\/]+[0-9a-f]{32}[\\/]+""")


def sentence(words: str, kind: str = "") -> str:
    """kind: bad for what cannot be, note for a remark."""
    return f'<p class="sentence {kind}" role="status">{html.escape(words)}</p>'


def notes_of(notes: Iterable[str]) -> str:
    return "".join(sentence(words, "note") for words in notes)


def progress_of(job: Job) -> str:
    """How far a job is, why it failed, or its notes once it is done."""
    notes = notes_of(_KEPT_IN.sub("", words) for words in job.notes)
    if job.error is not None:
        return sentence(_KEPT_IN.sub("", job.error.message), "bad") + notes
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


def progress_of_all(jobs: Sequence[Job]) -> str:
    """How far several jobs are that are done one after the other; what many of them say is said once."""
    told = "".join(dict.fromkeys(progress_of(job) for job in jobs if job.is_over))
    number = next((number for number, job in enumerate(jobs) if not job.is_over), None)
    if number is None:
        return told
    place = sentence(f"picture {number + 1} of {len(jobs)}") if len(jobs) > 1 else ""
    return told + place + progress_of(jobs[number])
