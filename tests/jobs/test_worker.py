"""What a worker makes of a job, in this process; processes that die are in test_supervisor.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bowerbird.errors import RequestError
from bowerbird.jobs.job import JobProgress
from bowerbird.jobs.loaded import LoadedModels
from bowerbird.jobs.queue import Queue, QueueFull
from bowerbird.jobs.requests import CompareRequest, DescribeRequest, EvaluateRequest, TrainRequest, TuneRequest, read_job_request
from bowerbird.jobs.worker import Worker
from bowerbird.locate import locate
from bowerbird.painter import OwnPainter, Source
from bowerbird.picture_metadata import read_metadata
from bowerbird.prompts import lock
from bowerbird.recipe import write_recipe
from bowerbird.request import PaintRequest
from bowerbird.run_folder import read_run_state
from tests.conftest import tiny_recipe
from tests.jobs.conftest import work
from tests.language_model import LanguageModel, saying
from tests.training.runs import run_here

BIRDS = Path(__file__).parents[2] / "examples" / "birds"


def paint(model: Path, **fields: object) -> PaintRequest:
    return PaintRequest(model=str(model), **fields)


def test_a_painting_job_leaves_its_pictures(queue: Queue, model_folder: Path) -> None:
    """As many as asked for, each saying its own seed."""
    (job,) = queue.submit("paint", [paint(model_folder, count=3, seed=5, label="cat")])
    work(queue)
    job = queue.get(job.id)
    assert job.state == "done" and [read_metadata(path).fields["seed"] for path in job.paths] == [5, 6, 7]
    assert job.result["settings"]["steps"] == 4 and job.result["seeds"] == [5, 6, 7]


def test_the_queue_paints_what_the_command_line_paints(queue: Queue, model_folder: Path) -> None:
    """One request, one picture, whichever face asked: the bytes of an `exact` one are equal."""
    from bowerbird.generate import load
    from bowerbird.picture_files import encode_picture

    request = paint(model_folder, seed=3, exact=True)
    (job,) = queue.submit("paint", [request])
    work(queue)
    (direct,) = load(model_folder, "cpu").paint(request)
    assert queue.get(job.id).paths[0].read_bytes() == encode_picture(direct)


def test_one_bad_request_of_a_batch_fails_alone(queue: Queue, model_folder: Path) -> None:
    good, bad, other = queue.submit("paint", [paint(model_folder, seed=1), paint(model_folder, label="cow"), paint(model_folder, seed=2)])
    work(queue)
    assert [queue.get(job.id).state for job in (good, bad, other)] == ["done", "failed", "done"]
    error = queue.get(bad.id).error
    assert error is not None and error.kind == "RequestError" and "cow" in error.message


def test_jobs_that_are_alike_are_painted_in_one_walk(queue: Queue, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the queue hands out as one batch the worker paints as one."""
    walks, walk = list[int](), OwnPainter._walk

    def counted(painter: OwnPainter, request: PaintRequest, source: Source, seeds: list[int], *rest: Any) -> Tensor:
        walks.append(len(seeds))
        return walk(painter, request, source, seeds, *rest)

    monkeypatch.setattr(OwnPainter, "_walk", counted)
    queue.submit("paint", [paint(model_folder, label="cat"), paint(model_folder, label="dog", count=2), paint(model_folder, label="cat")])
    work(queue)
    assert walks == [4]


@pytest.mark.parametrize("model", ["no such model", "/etc/passwd"])
def test_a_model_that_is_none_is_said_in_a_sentence(queue: Queue, model: str) -> None:
    (job,) = queue.submit("paint", [PaintRequest(model=model)])
    work(queue)
    error = queue.get(job.id).error
    assert error is not None and error.kind == "ModelError" and model in error.message


def test_a_cancelled_job_stops_within_a_step(queue: Queue, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled at the first step seen of 500, it is left at the next one; the worker goes on with what waits."""
    long, after = queue.submit("paint", [paint(model_folder, steps=500), paint(model_folder, steps=2)])
    steps, held = [], queue.held

    def cancel_at_once(lease: str) -> set[str]:
        steps.append(1)
        queue.cancel(long.id)
        return held(lease)

    monkeypatch.setattr(queue, "held", cancel_at_once)
    work(queue)
    assert queue.get(long.id).state == "cancelled" and queue.get(after.id).state == "done"
    assert len(steps) < 10


def test_previews_come_on_the_way(queue: Queue, model_folder: Path) -> None:
    (job,) = queue.submit("paint", [paint(model_folder, steps=20)], previews=3)
    work(queue)
    previews = queue.get(job.id).preview_paths()
    assert [path.name for path in previews] == ["preview-0000.png", "preview-0001.png", "preview-0002.png"]
    assert all(Image.open(path).size == (16, 16) for path in previews)


def test_a_training_that_was_interrupted_goes_on(
    queue: Queue, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is told to stop in the middle: the job goes back, saved; the next worker finishes the same run."""
    (tmp_path / "tiny.toml").write_text(write_recipe(tiny_recipe()))
    (job,) = queue.submit("train", [TrainRequest(pictures=picture_folder, recipe=str(tmp_path / "tiny.toml"))])
    worker, report = Worker(queue, "training", "cpu", "auto"), queue.report

    def stop_at_half(job_id: str, lease: str, progress: JobProgress) -> None:
        report(job_id, lease, progress)
        if progress.phase == "train":
            worker._stopping = True

    with monkeypatch.context() as patch:
        patch.setattr(queue, "report", stop_at_half)
        worker._do(*queue.claim(worker.name, ("train",)))
    run = Path(queue.get(job.id).request["out"])
    assert queue.get(job.id).state == "queued" and not read_run_state(run).finished
    assert read_run_state(run).checkpoint is not None
    work(queue, "training")
    assert queue.get(job.id).state == "done" and read_run_state(run).finished
    assert queue.get(job.id).result == {"run": str(run)}


def test_notes_of_the_work_are_notes_of_the_job(queue: Queue, tmp_path: Path) -> None:
    """A dozen pictures are few: the training says so, to whoever asked for it."""
    pictures = tmp_path / "few"
    pictures.mkdir()
    for number in range(12):
        Image.new("RGB", (16, 16), (20 * number, 0, 100)).save(pictures / f"{number}.png")
    (tmp_path / "tiny.toml").write_text(write_recipe(tiny_recipe(train={"pictures": 8})))
    (job,) = queue.submit("train", [TrainRequest(pictures=pictures, recipe=str(tmp_path / "tiny.toml"))])
    work(queue, "training")
    assert any("12 pictures are few" in note for note in queue.get(job.id).notes)


def test_a_model_is_tuned(queue: Queue, picture_folder: Path, tmp_path: Path) -> None:
    base = run_here(picture_folder, tmp_path / "base", tiny_recipe())
    (job,) = queue.submit("tune", [TuneRequest(model=str(base), pictures=picture_folder, count=32)])
    work(queue, "training")
    job = queue.get(job.id)
    assert job.state == "done", job.error
    assert locate(job.request["out"]).manifest.training["recipe"]["tune"]["model"] == str(base)  # type: ignore[union-attr]


def test_an_evaluation_leaves_a_report(queue: Queue, picture_folder: Path) -> None:
    (job,) = queue.submit("evaluate", [EvaluateRequest(generated=str(picture_folder / "cold"), against=picture_folder / "warm", count=10)])
    work(queue, "training")
    job = queue.get(job.id)
    assert job.state == "done", job.error
    assert {path.name for path in job.paths} == {"report.html", "report.json"} and all(path.is_file() for path in job.paths)


def test_models_leave_when_memory_asks(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used goes first, and no more than needed; a model that is open is not opened again."""
    import shutil

    from bowerbird import hardware

    names = [shutil.copytree(model_folder, tmp_path / name) for name in ("a", "b", "c")]
    models = LoadedModels("cpu", "auto", spare_bytes=0)
    a, b = models.get(str(names[0])), models.get(str(names[1]))
    assert models.get(str(names[0])) is a
    room = iter([0, 10**12])
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda device: next(room))
    models.get(str(names[2]))
    assert models.get(str(names[0])) is a
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda device: 10**12)
    assert models.get(str(names[1])) is not b


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_sheet_is_the_command_lines(queue: Queue, model_folder: Path, tmp_path: Path) -> None:
    """Pixel for pixel, and its pictures are kept beside it; it counts for as many pictures as it has places."""
    from bowerbird.comparison import comparison_of, paint_sheet
    from bowerbird.generate import load

    asked = CompareRequest(model=str(model_folder), seed=3, x="steps=1,2,3", y="label=cat,dog")
    (job,) = queue.submit("compare", [asked])
    with pytest.raises(QueueFull):
        queue.submit("paint", [paint(model_folder, count=45)])
    work(queue)
    job = queue.get(job.id)
    assert job.state == "done" and job.result["sheet"] == 6 and len(job.paths) == 7
    direct = paint_sheet(comparison_of(paint(model_folder, seed=3), asked.x, asked.y), tmp_path, load(model_folder, "cpu"))
    assert np.array_equal(pixels(job.paths[-1]), pixels(direct[-1]))


def test_a_language_model_is_asked_once_a_job_and_fails_one_alone(queue: Queue, language_model: LanguageModel) -> None:
    """Also where jobs are painted as one batch, and where one asks for several final prompts."""
    language_model.answer = lambda words: saying(f"{words}, snow") if "fox" in words else "rubbish"
    prompts = ["a fox", "a cat", "a [[red, blue]] fox"]
    asked = [PaintRequest(prompt=prompt, expand="llm", steps=1, guidance=1) for prompt in prompts]
    jobs = queue.submit("paint", asked)
    work(queue)
    one, bad, several = [queue.get(job.id) for job in jobs]
    assert sorted(body["messages"][-1]["content"] for _, body in language_model.asked) == ["a blue fox", "a cat", "a fox", "a red fox"]
    assert bad.error is not None and "OpenAI-compatible" in bad.error.message
    read = [read_metadata(path).fields["prompt"] for path in (*one.paths, *several.paths)]
    assert read == ["a fox, snow", "a red fox, snow", "a blue fox, snow"]


def test_what_makes_no_sheet_is_refused_at_once(model_folder: Path) -> None:
    locked = lock(paint(model_folder, prompt="a bird")).model_dump()
    for fields, words in (({"x": "steps"}, "no axis"), ({}, "one array, two or three"), ({**locked, "x": "styles=,oil"}, "locked")):
        with pytest.raises(RequestError, match=words):
            read_job_request(CompareRequest, {"model": "m", **fields})


def test_a_picture_is_put_into_the_words_of_captioned_ones(queue: Queue, tmp_path: Path) -> None:
    """As `bowerbird describe` does, nearest first; the words are the job's result."""
    folder = tmp_path / "captioned"
    folder.mkdir()
    for number, path in enumerate(sorted(BIRDS.glob("*.webp"))[:3]):
        Image.open(path).convert("RGB").save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"bird number {number}")
    pictures = [folder / "2.png", folder / "0.png"]
    (job,) = queue.submit("describe", [DescribeRequest(pictures=pictures, like=folder, count=2)])
    work(queue)
    captions = queue.get(job.id).result["captions"]
    assert [each[0]["text"] for each in captions] == ["bird number 2", "bird number 0"] and all(len(each) == 2 for each in captions)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    among, alone = queue.submit(
        "describe",
        [DescribeRequest(pictures=each, like=folder) for each in ([tmp_path / "broken.png", *pictures], [tmp_path / "broken.png"])],
    )
    work(queue)
    among, alone = queue.get(among.id), queue.get(alone.id)
    assert [len(each) for each in among.result["captions"]] == [0, 3, 3] and ["broken.png" in note for note in among.notes] == [True]
    assert alone.error is not None and "broken.png' cannot be read" in alone.error.message
    (job,) = queue.submit("describe", [DescribeRequest(pictures=pictures, captioner="nobody/nowhere")])
    work(queue)
    error = queue.get(job.id).error
    assert error is not None and error.kind != "InternalError" and "nobody/nowhere" in error.message
