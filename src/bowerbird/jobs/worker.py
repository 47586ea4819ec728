"""A worker: the process that opens models and does the jobs of one lane, one after the other.

    python -m bowerbird.jobs.worker HOME LANE [--device D] [--precision P]

Two lanes, so that a training of hours keeps no picture waiting, and a crash of one leaves the other alone:
`painting` keeps models loaded between jobs; `training` ends when it has nothing to do, which gives all its memory back.

The worker ends when its standard input does: whoever started it is gone.  SIGTERM: jobs go back to the queue (a training
saves first) and the worker ends.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from bowerbird.errors import BowerbirdError, Stopped
from bowerbird.jobs.job import Job, JobError, JobProgress, Kind
from bowerbird.jobs.queue import LEASE_SECONDS, Queue
from bowerbird.jobs.requests import CompareRequest, DescribeRequest, EvaluateRequest, RunRequest, TrainRequest, TuneRequest
from bowerbird.picture_files import SUFFIXES, Painted, check_fits, encode_picture
from bowerbird.progress import Cancelled, Progress
from bowerbird.prompts import finish, with_preset
from bowerbird.prompts.expander import ASKING
from bowerbird.repaint import check_enlarges
from bowerbird.request import PaintRequest
from bowerbird.storage import Disk, ensure_folder

if TYPE_CHECKING:
    from bowerbird.jobs.loaded import LoadedModels
    from bowerbird.painter import Painter

LANES: dict[str, tuple[Kind, ...]] = {"painting": ("paint", "upscale", "compare", "describe"), "training": ("train", "tune", "evaluate")}
_UNITS = {"paint": "steps", "load": "models", "wait": "", ASKING: "questions"}  # of every other phase: pictures
_REPORT_SECONDS = 0.1
_ORPHAN_SECONDS = 30.0  # for a training to save when whoever started the worker is gone


class Worker:
    """One lane's worker.  `run` claims, works and records until it is told to stop."""

    def __init__(self, queue: Queue, lane: str, device: str | None, precision: str) -> None:
        self.queue, self.lane = queue, lane
        self.name = f"{lane}-{device or 'best'}"
        self._device, self._precision = device, precision
        self._stopping = False
        self._models: LoadedModels | None = None
        self._lease = ""

    def run(self) -> None:
        """Work until stopped; the training lane until there is nothing to do."""
        with filelock.FileLock(self.queue.home / f"{self.name}.lock"):  # a dead worker's lock is free, a living one's is waited for
            self.queue.recover(self.name)
            self.queue.stamp(self.name, "opening")
            if self.lane == "painting":
                self._open_default()
            version, stamped = -1, 0.0
            while not self._stopping:
                lease, jobs = self.queue.claim(self.name, LANES[self.lane])
                if jobs:
                    self._do(lease, jobs)
                    continue
                if self.lane == "training":
                    return
                if time.monotonic() - stamped > 1:
                    self.queue.stamp(self.name, "waiting")
                    stamped = time.monotonic()
                version = self.queue.wait_for_change(version, 0.25)

    def keep_lease(self) -> None:
        """Renew the lease while this process lives, also where the work is silent for long: opening a large model, say."""
        while True:
            time.sleep(LEASE_SECONDS / 4)
            self.queue.renew(self._lease)

    def stop(self, *_: object) -> None:
        """Stop soon; a second time, at once."""
        if self._stopping:
            os._exit(75)
        self._stopping = True

    def _do(self, lease: str, jobs: list[Job]) -> None:
        """Do the jobs of one lease, and record how each of them ended."""
        reporter = Reporter(self.queue, self.name, lease, jobs, lambda: self._stopping)
        work = {
            "paint": self._paint,
            "upscale": self._paint,
            "compare": self._compare,
            "describe": self._describe,
            "train": self._train,
            "tune": self._train,
            "evaluate": self._evaluate,
        }
        self._lease = lease
        try:
            work[jobs[0].kind](lease, jobs, reporter)
        except (Cancelled, Stopped) as error:
            if isinstance(error, Stopped) and reporter.held():  # a signal, not a cancel: the job goes on next time
                self._stopping = True
            self.queue.release(lease)
        except BowerbirdError as error:
            reporter.fail(JobError(kind=type(error).__name__, message=str(error)))
        except Exception as error:
            traceback.print_exc()
            if _is_out_of_memory(error):
                self._forget_models()
                message = "the device has too little memory for this. Ask for fewer or smaller pictures, or a smaller batch."
                reporter.fail(JobError(kind="ResourceError", message=message))
            else:
                reporter.fail(JobError(kind="InternalError", message=f"this is a fault of ours ({type(error).__name__}); the log has it."))

    # ------------------------------------------------------------------------------------------------ painting

    def _paint(self, lease: str, jobs: list[Job], reporter: Reporter) -> None:
        """Paint the jobs of a batch and record each as soon as its pictures are there; one that cannot be painted fails alone."""
        model = str(jobs[0].request["model"])
        reporter.on_progress(Progress("load", 0, 1, note=f"opening {Path(model).name}"))
        painter = self._loaded().get(model)
        possible: dict[str, list[PaintRequest]] = {}
        for job in jobs:
            reporter.wanted = {job.id}
            try:
                request = PaintRequest.model_validate(job.request)
                check_fits(request)
                asked = [request]
                if with_preset(request).expand == "llm":  # asked once, here, where its silence stops no other job
                    asked = finish(request, on_progress=reporter)
                for each in asked:
                    resolved = painter.resolve(each)
                    if job.kind == "upscale":
                        check_enlarges(resolved)
                possible[job.id] = asked
            except BowerbirdError as error:
                reporter.fail(JobError(kind=type(error).__name__, message=str(error)), [job.id])
            except Cancelled:
                if job.id in reporter.held():
                    raise  # nobody cancelled it: the worker is to stop
        reporter.wanted = set(possible)
        try:
            for job_id, pictures in self._painted(painter, possible, reporter):
                self._keep(reporter.open[job_id], lease, pictures, reporter)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            self._loaded().forget(but=painter)  # and once more, one picture at a time
            for job_id in possible.keys() & reporter.open.keys():
                alone = [each.model_copy(update={"exact": True}) for each in possible[job_id]]
                self._keep(reporter.open[job_id], lease, _one_by_one(painter, alone, reporter), reporter)

    def _painted(
        self, painter: Painter, requests: dict[str, list[PaintRequest]], reporter: Reporter
    ) -> Iterator[tuple[str, list[Painted]]]:
        """(job, its pictures): in one batch where there are several and the painter can."""
        from bowerbird.painter import BatchPainter

        if len(requests) > 1 and isinstance(painter, BatchPainter):
            each = [(job_id, request) for job_id, asked in requests.items() for request in asked]
            together = painter.paint_together([request for _, request in each], reporter)
            for job_id, parts in groupby(together, key=lambda part: each[part[0]][0]):
                yield job_id, [picture for _, pictures in parts for picture in pictures]
            return
        for job_id, asked in requests.items():
            reporter.wanted = {job_id}
            try:
                if job_id in reporter.held():
                    yield job_id, _one_by_one(painter, asked, reporter)
            except Cancelled:
                if job_id in reporter.held():
                    raise  # nobody cancelled it: the worker is to stop

    def _keep(self, job: Job, lease: str, pictures: list[Painted], reporter: Reporter) -> None:
        """Write the pictures, durably, and record them as the result."""
        folder, paths = self._folder(job.id, lease), []
        for number, painted in enumerate(pictures):
            path = folder / f"{number}{SUFFIXES[painted.settings.format]}"
            Disk().write(path, encode_picture(painted, "algorithmicallyEnhanced" if job.kind == "upscale" else None))
            paths.append(path)
        Disk().sync_folder(folder)
        settings = pictures[0].settings.model_dump(mode="json")
        result = {"settings": settings, "seeds": [painted.seed for painted in pictures], "sizes": [p.picture.size for p in pictures]}
        reporter.finish(job.id, paths, result)

    def _compare(self, lease: str, jobs: list[Job], reporter: Reporter) -> None:
        """The pictures of a sheet, and the sheet, the last of the paths."""
        from bowerbird.comparison import paint_sheet

        (job,) = jobs
        request = job.asked()
        assert isinstance(request, CompareRequest)
        comparison, folder = request.comparison(), self._folder(job.id, lease)
        paths = paint_sheet(comparison, folder, self._loaded().get(request.model), reporter)
        Disk().sync_folder(folder)
        labels = {"columns": comparison.columns, "rows": comparison.rows, "sections": comparison.sections}
        reporter.finish(job.id, paths, {**labels, "sheet": len(paths) - 1})

    def _describe(self, lease: str, jobs: list[Job], reporter: Reporter) -> None:
        """Words for pictures; one that cannot be read gets none and a note.  Nothing is downloaded for it."""
        from bowerbird import hardware
        from bowerbird.describing import readable, words_for

        (job,) = jobs
        request = job.asked()
        assert isinstance(request, DescribeRequest)
        device = hardware.choose_device(self._device)
        pictures, problems = readable(request.pictures)
        found = words_for(pictures, request.like, request.captioner, request.count, device, offline=True, on_progress=reporter)
        captions = {one.picture: [dataclasses.asdict(caption) for caption in one.captions] for one in found}
        reporter.notes += problems
        reporter.finish(job.id, [], {"captions": [captions.get(picture, []) for picture in request.pictures]})

    def _loaded(self) -> LoadedModels:
        if self._models is None:
            from bowerbird.jobs.loaded import LoadedModels

            self._models = LoadedModels(self._device, self._precision)
        return self._models

    def _open_default(self) -> None:
        """So that the first picture waits for no model.  Not being able to is not a fault: nobody asked for it yet."""
        from bowerbird.jobs.catalogue import DEFAULT

        with contextlib.suppress(BowerbirdError):
            self._loaded().get(DEFAULT)

    def _forget_models(self) -> None:
        if self._models is not None:
            self._models.forget()

    # ------------------------------------------------------------------------------------------------ training, judging

    def _train(self, lease: str, jobs: list[Job], reporter: Reporter) -> None:
        """Train, or go on: a run that was begun resumes from its checkpoint because the same request names the same folder."""
        from bowerbird import hardware
        from bowerbird.locate import locate
        from bowerbird.recipe import read_recipe
        from bowerbird.training import Budget, train
        from bowerbird.training.base import tuning_recipe

        (job,) = jobs
        request = job.asked()
        assert isinstance(request, RunRequest) and request.out is not None, "the queue names a folder for every training"
        changes = [*request.settings, *([f"train.pictures={request.count}"] if request.count else [])]
        if isinstance(request, TuneRequest):
            recipe = tuning_recipe(locate(request.model), changes)
        else:
            assert isinstance(request, TrainRequest), "nothing else makes a run"
            changes += [f"train.init={request.init}"] if request.init is not None else []
            recipe = read_recipe(request.recipe, changes)
        reporter.run = request.out
        budget = Budget(request.hours, request.price, time.monotonic())
        train(request.pictures, request.out, recipe, device=hardware.choose_device(self._device), on_progress=reporter, budget=budget)
        shown = [request.out, *(request.out / name for name in ("report.html", "progress.gif") if (request.out / name).is_file())]
        reporter.finish(job.id, shown, {"run": str(request.out)})

    def _evaluate(self, lease: str, jobs: list[Job], reporter: Reporter) -> None:
        from bowerbird import hardware
        from bowerbird.evaluate import evaluate, open_subject
        from bowerbird.pretrained.clip_model import open_clip

        (job,) = jobs
        request = job.asked()
        assert isinstance(request, EvaluateRequest)
        device = hardware.choose_device(self._device)
        subject = open_subject(request.generated, device, reporter)
        out = self._folder(job.id, lease)
        report = evaluate(
            subject,
            request.against,
            request.train,
            out,
            reporter,
            captions=request.captions,
            clip=open_clip(request.clip, device) if request.clip else None,
            count=request.count,
            seed=request.seed,
            device=device,
        )
        reporter.finish(job.id, [out / "report.html", out / "report.json"], {"report": report.to_json()})

    def _folder(self, job_id: str, lease: str) -> Path:
        """Where this attempt writes; another attempt, from before a crash or beside this one, has a folder of its own."""
        folder = self.queue.home / "jobs" / job_id / lease
        ensure_folder(Disk(), folder)
        return folder


class Reporter:
    """What the work says while it goes on, told to the queue; and the queue's answer, whether to go on.  An `OnProgress`."""

    def __init__(self, queue: Queue, worker: str, lease: str, jobs: list[Job], stopping: Callable[[], bool]) -> None:
        self.queue, self.worker, self.lease = queue, worker, lease
        self.open = {job.id: job for job in jobs}  # not finished yet
        self.wanted = set(self.open)  # those that the work under way is for
        self.run: Path | None = None  # a training's folder, whose newest grid is the preview
        self.notes: list[str] = []
        self._stopping = stopping
        self._phase, self._since, self._done_then = "", 0.0, 0
        self._told = 0.0
        self._preview: Path | None = None
        self._previews = 0

    def __call__(self, event: Progress) -> bool:
        return self.on_progress(event)

    def on_progress(self, event: Progress) -> bool:
        """Pass the event on, at most ten times a second; False when nobody waits for the work any more."""
        if event.stage in ("forecast", "note"):
            self.notes.append(event.note)
            return self._goes_on()
        now = time.monotonic()
        if event.stage != self._phase:
            self._phase, self._since, self._done_then, self._told = event.stage, now, event.done, 0.0
        new_preview = self._keep_preview(event)
        if now - self._told >= _REPORT_SECONDS or new_preview:
            self._told = now
            self.queue.stamp(self.worker, event.stage)
            progress = self._progress(event, now)
            for job_id in self.open:
                self.queue.report(job_id, self.lease, progress)
        return self._goes_on()

    def _goes_on(self) -> bool:
        return not self._stopping() and bool(self.held() & self.wanted)

    def held(self) -> set[str]:
        """Jobs that somebody still waits for."""
        return self.queue.held(self.lease)

    def finish(self, job_id: str, paths: list[Path], result: dict[str, Any]) -> None:
        self.queue.finish(job_id, self.lease, paths=paths, result=result, notes=self.notes)
        self.open.pop(job_id, None)

    def fail(self, error: JobError, job_ids: list[str] | None = None) -> None:
        """End these jobs, or all that are open, with an error."""
        for job_id in job_ids or list(self.open):
            self.queue.finish(job_id, self.lease, notes=self.notes, error=error)
            self.open.pop(job_id, None)

    def _progress(self, event: Progress, now: float) -> JobProgress:
        passed, done = now - self._since, event.done - self._done_then
        return JobProgress(
            phase=event.stage,
            done=event.done,
            total=event.total,
            unit=_UNITS.get(event.stage, "pictures"),
            seconds_left=passed / done * (event.total - event.done) if done > 0 and event.total else None,
            preview_path=self._newest_grid() if self.run is not None else self._preview,
            message=event.note or (f"loss {event.loss:.4f}" if event.loss is not None else ""),
        )

    def _keep_preview(self, event: Progress) -> bool:
        """Write the picture so far when one of the previews that were asked for is due."""
        job = next(iter(self.open.values()), None)
        if job is None or not job.previews or event.preview is None or not event.total or event.done >= event.total:
            return False
        if event.done / event.total < (self._previews + 1) / (job.previews + 1):
            return False
        from bowerbird.pages import png_bytes

        folder = self.queue.home / "jobs" / job.id / self.lease
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"preview-{self._previews:04d}.png"
        path.with_suffix(".tmp").write_bytes(png_bytes(event.preview()))
        path.with_suffix(".tmp").replace(path)
        self._preview, self._previews = path, self._previews + 1
        return True

    def _newest_grid(self) -> Path | None:
        assert self.run is not None
        return max((self.run / "samples").glob("epoch-*.png"), default=None)


def _one_by_one(painter: Painter, requests: list[PaintRequest], reporter: Reporter) -> list[Painted]:
    return [picture for request in requests for picture in painter.paint(request, reporter)]


def _is_out_of_memory(error: Exception) -> bool:
    """torch.OutOfMemoryError of a GPU, MemoryError, or what the CPU's allocator says."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "not enough memory" in str(error)


def _end_with_parent() -> None:
    """When standard input ends, whoever started this worker is gone.  Work is asked to save, and then it ends."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_SECONDS)
    os._exit(75)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("home", type=Path)
    arguments.add_argument("lane", choices=LANES)
    arguments.add_argument("--device")
    arguments.add_argument("--precision", default="auto")
    options = arguments.parse_args()
    worker = Worker(Queue(options.home), options.lane, options.device, options.precision)
    signal.signal(signal.SIGTERM, worker.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal reaches everybody; whoever started us says when to stop
    for watch in (_end_with_parent, worker.keep_lease):
        threading.Thread(target=watch, daemon=True).start()
    worker.run()


if __name__ == "__main__":
    main()
