"""Many pictures dropped in the Studio are the requests that the command line makes of their folder; each stands for itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import bowerbird.cli.app
from bowerbird.cli import paint as command_line
from bowerbird.request import PaintRequest
from tests.studio.conftest import Page


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Dropped in no order."""
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(("two.JPG", "one.png", "three.webp")):
        Image.new("RGB", (16, 16), (80 * number, 40, 0)).save(tmp_path / "photos" / name)
    return list((tmp_path / "photos").iterdir())


def as_dropped(request: dict[str, Any]) -> dict[str, Any]:
    """A request, with its files as their names and contents: where they are kept is the face's own affair."""
    files = {name: (Path(request[name]).name, Path(request[name]).read_bytes()) for name in ("image", "mask") if request[name]}
    return request | files


def asked_by_command_line(patch: pytest.MonkeyPatch, *arguments: object) -> list[dict[str, Any]]:
    asked: list[PaintRequest] = []
    patch.setattr(command_line, "_paint", lambda context, requests, *_, **__: asked.extend(requests))
    answer = CliRunner().invoke(bowerbird.cli.app.app, list(map(str, arguments)))
    assert answer.exit_code == 0, answer.output
    return [as_dropped(request.model_dump(mode="json")) for request in asked]


def asked_by_studio(page: Page, painting: Any) -> list[dict[str, Any]]:
    ids = next(painting)[2]
    jobs = [page.queue.cancel(job_id) for job_id in ids]
    assert {Path(job.request["image"]).parent.parent for job in jobs} == {page.queue.home / "inputs"}
    return [as_dropped(job.request) for job in jobs]


def test_dropped_pictures_are_the_requests_of_their_folder(
    page: Page, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To vary, to paint parts anew by masks of the same names, to enlarge."""
    (tmp_path / "masks").mkdir()
    for name in ("one", "two", "three"):
        Image.new("L", (16, 16), 255).save(tmp_path / "masks" / f"{name}.png")
    settings = ("a nest", "--count=2", "--steps=3", "--seed=7", "--strength=0.6", "--image", photos[0].parent)
    typed = {"prompt": "a nest", "count": 2, "steps": "3", "seed": "7", "guidance": ""}
    varied = asked_by_command_line(monkeypatch, "generate", "starter", *settings)
    assert asked_by_studio(page, page.painting(photos, (), **typed)) == varied and len(varied) == 3
    anew = asked_by_command_line(monkeypatch, "generate", "starter", *settings, "--mask", tmp_path / "masks")
    assert asked_by_studio(page, page.painting(photos, list((tmp_path / "masks").iterdir()), **typed)) == anew
    enlarged = asked_by_command_line(monkeypatch, "upscale", "upscaler-4x", photos[0].parent)
    plain = {"model": "upscaler-4x", "prompt": "", "steps": "", "seed": "", "guidance": ""}
    assert asked_by_studio(page, page.painting(photos, (), **plain)) == enlarged


def test_nothing_dropped_changes_nothing(page: Page) -> None:
    (last,) = list(page.painting([], []))[-2][2]
    job = page.queue.get(last)
    assert job.kind == "paint" and job.request["image"] is None and job.request["strength"] is None


def test_a_broken_picture_is_named_and_costs_the_others_nothing(page: Page, photos: list[Path]) -> None:
    """The page shows those that were painted, and says it in one sentence; so does a stop."""
    next(photo for photo in photos if photo.name == "three.webp").write_bytes(b"no picture")
    *_, shown, _ = list(page.painting(photos))
    assert shown[1].count("<img") == 2
    (said,) = re.findall(r'<p class="sentence bad" role="status">([^<]*)</p>', shown[0])
    assert said.startswith("&#x27;three.webp&#x27; cannot be read as a picture") and str(page.queue.home) not in said
    *_, shown = page.painting(photos, model="upscaler-4x", prompt="", steps="", seed="", guidance="")
    jobs = [page.queue.get(job_id) for job_id in shown[2]]
    assert [(job.kind, job.state) for job in jobs] == [("upscale", "done"), ("upscale", "failed"), ("upscale", "done")]
    with Image.open(jobs[0].paths[0]) as picture:
        assert picture.size == (64, 64)


def test_stop_ends_those_that_are_left(page: Page, photos: list[Path]) -> None:
    painting = page.painting(photos, steps="50")
    for job_id in next(painting)[2]:
        page.queue.cancel(job_id)
    *_, last = painting
    assert last[0].count("stopped") == 1 and {page.queue.get(job_id).state for job_id in last[2]} == {"cancelled"}


def test_each_of_many_is_put_into_words_by_its_name(page: Page, photos: list[Path], tmp_path: Path) -> None:
    """The nearest captions of a folder's pictures; a broken one has a note and no words."""
    (tmp_path / "known").mkdir()
    for number, photo in enumerate(photos):
        Image.open(photo).convert("RGB").save(tmp_path / "known" / f"{number}.png")
        (tmp_path / "known" / f"{number}.txt").write_text(f"words for {photo.stem}")
    next(photo for photo in photos if photo.stem == "one").write_bytes(b"no picture")
    *_, (said, choices, _) = page.put_many_into_words(photos, str(tmp_path / "known"))
    assert [label.partition(":")[0] for label, _ in choices["choices"]] == ["three.webp", "two.JPG"]
    assert "one.png" in said and str(page.queue.home) not in said


def test_what_cannot_be_is_said_before_anything_waits(page: Page, photos: list[Path]) -> None:
    picture = {"background": Image.new("RGBA", (16, 16)), "layers": []}
    before = len(page.queue.jobs(limit=1000))
    for dropped, words in (
        ({page.form.many: photos, page.form.picture: picture}, "take the one away, or the many"),
        ({page.form.many: [photos[0]] * 2}, "dropped twice"),
        ({page.form.masks: photos}, "no pictures"),
        ({page.form.many: photos, page.form.masks: photos[:1]}, "has no mask for"),
    ):
        (last,) = page._call("paint", page.typed() | dropped)
        assert words in last[0] and "bad" in last[0], last[0]
    assert len(page.queue.jobs(limit=1000)) == before
