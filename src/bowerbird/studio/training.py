"""The Train tab: a folder, what is in it, a recipe and a budget, and the run while it learns."""

from __future__ import annotations

import html
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import gradio as gr

from bowerbird.errors import BowerbirdError, RequestError
from bowerbird.jobs import EvaluateRequest, Job, Queue, TrainRequest
from bowerbird.jobs.requests import read_job_request
from bowerbird.recipe import built_in_recipes, recipe_text
from bowerbird.studio.dropped import ARCHIVES, keep_archive
from bowerbird.studio.words import sentence

JUDGED = 200  # pictures painted to judge a run; the command line takes any number
MAX_FORECAST_SECONDS, LOOK_SECONDS, END_SECONDS = 600.0, 0.5, 10.0
SHOWN_FILES = ("grid", "curves.png", "progress.gif", "report.html")  # of a run, by the names under which its route has them


def train_tab(queue: Queue, options: Sequence[str]) -> gr.Timer:
    """Build the tab; returns the timer that keeps the run fresh while it is open.  options: of the command line, for forecasts."""
    trial = Trial(options)
    with gr.Row():
        folder = gr.Textbox(label="pictures", info=TrainRequest.model_fields["pictures"].description, scale=4, elem_id="folder")
        look = gr.Button("Look through", scale=1)
    drop = gr.File(
        label="or drop pictures here: several, with a .txt of words beside each if you like, or one archive",
        file_count="multiple", file_types=["image", ".txt", ".json", *ARCHIVES], height=170, elem_id="drop",
    )  # fmt: skip
    found = gr.HTML()
    with gr.Row():
        recipe = gr.Dropdown(built_in_recipes(), value="latent-64", label="recipe", scale=2)
        hours = gr.Number(0.2, minimum=0.01, label="hours", info=TrainRequest.model_fields["hours"].description, scale=1)
        with gr.Column(scale=1, min_width=120):
            ahead = gr.Button("Forecast", elem_id="forecast")
            leave = gr.Button("Leave it", size="sm", visible=False, elem_id="leave")
        go = gr.Button("Train", variant="primary", scale=1, elem_id="train")
    about = gr.HTML(_about("latent-64"))
    state = gr.HTML()
    with gr.Row():
        run = gr.Dropdown([], label="run", scale=4)
        stop, go_on, judge = gr.Button("Stop", scale=1), gr.Button("Go on", scale=1), gr.Button("Judge", scale=1)
    shown = gr.HTML()
    judged = gr.HTML()
    timer = gr.Timer(3, active=False)

    def inspect(where: str) -> str:
        from bowerbird.data.report import inspect as look_through

        try:
            return f'<pre class="told">{html.escape(look_through(Path(where), 64).to_text())}</pre>'
        except BowerbirdError as error:
            return sentence(str(error), "bad")

    def take(files: list[str] | None) -> tuple[Any, str]:
        if not files:
            return gr.update(), ""
        try:
            kept = str(keep_archive(queue, [Path(file) for file in files]))
        except BowerbirdError as error:
            return gr.update(), sentence(str(error), "bad")
        return kept, inspect(kept)

    def foretell(where: str, which: str, how_long: float) -> Iterator[Any]:
        try:
            for words in trial.forecast(read_job_request(TrainRequest, {"pictures": where, "recipe": which, "hours": how_long})):
                yield sentence(words), gr.update(visible=True)
        except BowerbirdError as error:
            yield sentence(str(error), "bad"), gr.update(visible=False)
        else:
            yield gr.skip(), gr.update(visible=False)

    def start(where: str, which: str, how_long: float) -> Any:
        try:
            asked = read_job_request(TrainRequest, {"pictures": where, "recipe": which, "hours": how_long})
            (job,) = queue.submit("train", [asked], origin="studio")
        except BowerbirdError as error:
            return sentence(str(error), "bad"), gr.update()
        return sentence("accepted; it goes on when this page is closed"), gr.update(choices=_names(queue), value=job.id)

    def show(job_id: str | None) -> tuple[Any, str, str]:
        names = _names(queue)
        job_id = job_id or (names[0][1] if names else None)
        if job_id is None:
            return gr.update(choices=names), "", ""
        job = queue.get(job_id)
        return gr.update(choices=names, value=job_id), _run(job), _judgement(queue, job)

    def cancel(job_id: str | None) -> None:
        if job_id:
            queue.cancel(job_id)

    def resume(job_id: str | None) -> Any:
        """The same training again goes on from its checkpoint."""
        if not job_id:
            return gr.update()
        (job,) = queue.submit("train", [queue.get(job_id).asked()], origin="studio")
        return gr.update(choices=_names(queue), value=job.id)

    def evaluate(job_id: str | None) -> str:
        """The run against the pictures of its folder that it did not learn from, with a look for copies of the others."""
        if not job_id:
            return ""
        job = queue.get(job_id)
        try:
            asked = {"generated": str(job.request.get("out")), "against": str(job.request.get("pictures")), "count": JUDGED}
            queue.submit("evaluate", [read_job_request(EvaluateRequest, asked)], origin="studio")
        except BowerbirdError as error:
            return sentence(str(error), "bad")
        return _judgement(queue, job)

    drop.change(take, drop, [folder, found])
    look.click(inspect, folder, found)
    recipe.change(_about, recipe, about, show_progress="hidden")
    ahead.click(foretell, [folder, recipe, hours], [state, leave], show_progress="hidden", concurrency_limit=None)
    leave.click(trial.stop, None, None, show_progress="hidden", concurrency_limit=None)
    go.click(start, [folder, recipe, hours], [state, run], show_progress="hidden")
    stop.click(cancel, run, None, show_progress="hidden")
    go_on.click(resume, run, run, show_progress="hidden")
    judge.click(evaluate, run, judged, show_progress="hidden")
    timer.tick(show, run, [run, shown, judged], show_progress="hidden")
    return timer


class Trial:
    """`bowerbird train --forecast` in a process of its own, one at a time.  options: of every command, such as --device."""

    def __init__(self, options: Sequence[str] = (), max_seconds: float = MAX_FORECAST_SECONDS) -> None:
        self._options, self._max_seconds = options, max_seconds
        self._running: subprocess.Popen[str] | None = None

    def forecast(self, asked: TrainRequest) -> Iterator[str]:
        """How long it has been measuring, then what it says.  RequestError in its words, or when it takes too long or is stopped."""
        self.stop()
        length = [f"--hours={asked.hours}"] if asked.hours is not None else []
        command = [sys.executable, "-m", "bowerbird", *self._options, "train", "--forecast", f"--recipe={asked.recipe}", *length]
        began = time.monotonic()
        with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
            running = subprocess.Popen(
                [*command, "--", str(asked.pictures)], stdin=subprocess.DEVNULL, stdout=said, stderr=errors, text=True
            )
            self._running = running
            try:
                while running.poll() is None:
                    passed = time.monotonic() - began
                    if passed > self._max_seconds:
                        raise RequestError(
                            f"the forecast took longer than {self._max_seconds:.0f} s and was left. Train, or ask again later."
                        )
                    yield f"measuring, {passed:.0f} s"
                    time.sleep(LOOK_SECONDS)
            finally:
                _end(running)  # also when nobody listens any more
            told, complaint = (_text(file) for file in (said, errors))
        if self._running is not running:
            raise RequestError("the forecast was stopped.")
        if running.returncode:
            raise RequestError(complaint.splitlines()[-1] if complaint else "the forecast ended without a word.")
        yield told

    def stop(self) -> None:
        """End the one that runs, if one does."""
        running, self._running = self._running, None
        if running is not None:
            _end(running)


def _end(process: subprocess.Popen[str]) -> None:
    """Ask it to end, which clears its files away; then make it.  Nothing, when it has ended."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip()


def file_of_run(job: Job, name: str) -> Path | None:
    """One of SHOWN_FILES of a training's folder, or the report of a judgement, if it is there."""
    if job.kind == "evaluate":
        return next((path for path in job.paths if path.name == name and path.is_file()), None)
    where = job.request.get("out")
    if where is None or name not in SHOWN_FILES:
        return None
    if name == "grid":
        return max((Path(where) / "samples").glob("epoch-*.png"), default=None)
    path = Path(where) / name
    return path if path.is_file() else None


def _names(queue: Queue) -> list[tuple[str, str]]:
    jobs = queue.jobs(kinds=("train", "tune"), limit=50)
    return [(f"{Path(str(job.request.get('pictures'))).name} · {job.state} · {job.id[:4]}", job.id) for job in jobs]


def _about(name: str) -> str:
    """What the recipe says of itself."""
    lines = [line.removeprefix("# ") for line in recipe_text(name).splitlines() if line.startswith("#")]
    return f'<p class="sentence">{html.escape(" ".join(lines))}</p>'


def _run(job: Job) -> str:
    progress = job.progress
    words = job.error.message if job.error else job.state
    if progress is not None and progress.total and not job.is_over:
        left = f", about {progress.seconds_left / 60:.0f} min left" if progress.seconds_left else ""
        words = f"{progress.phase} {progress.done:,} of {progress.total:,}{left}"
    notes = "".join(f'<p class="sentence note">{html.escape(note)}</p>' for note in job.notes)
    stamp = progress.done if progress else 0
    pictures = "".join(
        f'<figure><img src="/studio-files/{job.id}/{name}?{stamp}" alt="{name} of the run"></figure>'
        for name in ("grid", "curves.png")
        if file_of_run(job, name)
    )
    report = f'<a href="/studio-files/{job.id}/report.html" target="_blank">the whole report</a>' if file_of_run(job, "report.html") else ""
    kind = "bad" if job.error else ""
    return f'<p class="sentence {kind}">{html.escape(words)}</p>{notes}<div class="tiles wide">{pictures}</div>{report}'


def _judgement(queue: Queue, run: Job) -> str:
    """The newest judgement of this run: how far it is, or its figures and its report."""
    about = [job for job in queue.jobs(kinds=("evaluate",), limit=50) if job.request.get("generated") == str(run.request.get("out"))]
    if not about:
        return ""
    job = about[0]
    if job.error is not None:
        return f'<p class="sentence bad">{html.escape(job.error.message)}</p>'
    if job.state != "done":
        progress = job.progress
        words = f"{progress.phase} {progress.done:,} of {progress.total:,}" if progress and progress.total else job.state
        return f'<p class="sentence">judging: {html.escape(words)}</p>'
    link = f'<a href="/studio-files/{job.id}/report.html" target="_blank">its figures and the closest pairs</a>'
    verdict = html.escape(str(job.result.get("report", {}).get("verdict", "")))
    return f'<p class="sentence">{verdict} {link}</p>'
