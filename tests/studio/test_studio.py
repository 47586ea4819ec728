"""The Studio is a face of the queue: its fields are the request's, its gallery the queue's, its page comes with the server."""

from __future__ import annotations

import time
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image
from starlette.testclient import TestClient

from bowerbird.data.report import inspect
from bowerbird.errors import PictureFolderError, RequestError
from bowerbird.jobs import Catalogue, Job, Queue, TrainRequest
from bowerbird.picture_files import Painted, save_picture
from bowerbird.prompts import finish
from bowerbird.request import PaintRequest, read_request
from bowerbird.server.app import create_app
from bowerbird.server.serving import Serving
from bowerbird.studio.form import FOLDED, component, fields_of, help_of
from bowerbird.studio.gallery import found, settings_of, to_bin
from bowerbird.studio.run import PLACE, WithStudio
from bowerbird.studio.training import forecast_of, keep_dropped


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "home")


def painted(queue: Queue, prompt: str) -> Job:
    """A painting as a worker would have left it."""
    (job,) = queue.submit("paint", [PaintRequest(prompt=prompt)])
    lease, _ = queue.claim("painter", ("paint",))
    place = queue.home / "jobs" / job.id / "1.png"
    place.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(place)
    assert queue.finish(job.id, lease, paths=[place])
    return queue.get(job.id)


@pytest.mark.parametrize("field", FOLDED)
def test_a_field_of_the_form_is_one_of_the_request(field: str) -> None:
    """Its help is the request's; left as it comes, the model decides."""
    assert field in PaintRequest.model_fields
    with gr.Blocks():
        made = component(field)
    assert made.info == help_of(field) != ""
    if field != "strength":
        assert fields_of({field: made.value}) == {}


def test_what_is_typed_is_what_is_asked() -> None:
    typed = {"size": " 64 x 96", "seed": " 7", "steps": "12", "guidance": "1.5"}
    request = read_request(fields_of({**typed, "label": None, "styles": [], "negative": "  "}))
    assert request == PaintRequest(size=(64, 96), seed=7, steps=12, guidance=1.5)


@pytest.mark.parametrize("typed", [{"steps": "0"}, {"steps": "many"}, {"size": "64"}, {"seed": "-1"}, {"guidance": "nan%"}])
def test_what_cannot_be_is_said_in_the_requests_words(typed: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=next(iter(typed))):
        read_request({**fields_of(typed)})


def test_the_gallery_finds_by_all_words(queue: Queue) -> None:
    bird, boat = painted(queue, "a red Bird"), painted(queue, "a red boat")
    assert [job.id for job in found(queue, "")] == [boat.id, bird.id]
    assert [job.id for job in found(queue, "bird red")] == [bird.id]
    assert found(queue, "green bird") == []


def test_the_bin_keeps_the_pictures(queue: Queue) -> None:
    job = painted(queue, "a bird")
    to_bin(queue, job.id)
    assert found(queue, "") == []
    assert (queue.home / "bin" / job.id / "1.png").is_file()


def test_dropped_pictures_are_kept_once_and_can_be_trained_on(queue: Queue, tmp_path: Path) -> None:
    """They lie in the queue's home, with their words; what was there stays."""
    for number in range(3):
        Image.new("RGB", (32, 32), (80 * number, 40, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a bird")
    files = sorted([*tmp_path.glob("*.png"), *tmp_path.glob("*.txt")])
    kept = keep_dropped(queue, files)
    assert kept.parent == queue.home / "inputs" and keep_dropped(queue, files[::-1]) == kept
    assert "3 pictures" in inspect(kept, 32).to_text()
    assert keep_dropped(queue, [kept]) == kept
    with pytest.raises(PictureFolderError, match="twice"):
        keep_dropped(queue, [files[0], files[0]])
    with pytest.raises(PictureFolderError, match="archive alone"):
        keep_dropped(queue, [files[0], kept])


def test_a_forecast_is_that_of_the_command_line_and_refuses_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nowhere"):
        forecast_of(TrainRequest(pictures=tmp_path / "nowhere", recipe="latent-64", hours=0.1))


def test_a_dropped_picture_tells_its_settings_and_chooses_no_files(tmp_path: Path) -> None:
    asked = PaintRequest(prompt="a __colour__ bird", seed=7, steps=3, model="starter", image=tmp_path / "secret.png")
    (final,) = finish(asked)
    save_picture(Painted(Image.new("RGB", (8, 8)), 7, final), tmp_path / "painted.png")
    told = settings_of(tmp_path / "painted.png")
    assert (told["prompt"], told["seed"], told["steps"]) == ("a __colour__ bird", 7, 3) and "image" not in told
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(PictureFolderError, match=r"plain\.png"):
        settings_of(tmp_path / "plain.png")


def test_the_page_comes_with_the_server(queue: Queue, model_folder: Path, tmp_path: Path) -> None:
    """At once it says that it is starting; then it is the Studio, behind the same door, with a run's pictures and no other files."""
    serving = Serving(queue, Catalogue([model_folder.parent]), problem=lambda: "")
    run = tmp_path / "run"
    run.mkdir()
    Image.new("RGB", (8, 8)).save(run / "curves.png")
    (run / "secret.txt").write_text("no")
    (job,) = queue.submit("train", [TrainRequest(pictures=tmp_path, out=run)])
    page = WithStudio(create_app(serving), serving)
    with TestClient(page, base_url="http://localhost:8401") as client:
        early = client.get("/")
        assert early.status_code == 200 and "starting" in early.text
        end = time.monotonic() + 120
        while page.studio is None and time.monotonic() < end:
            time.sleep(0.05)
        assert client.get("/", follow_redirects=False).headers["location"] == f"{PLACE}/"
        studio = client.get("/")
        assert studio.status_code == 200 and "Bowerbird Studio" in studio.text and "starting" not in studio.text
        assert client.get(f"{PLACE}/", headers={"host": "evil.com"}).status_code == 403
        assert client.get(f"/studio-files/{job.id}/curves.png").status_code == 200
        for name in ("secret.txt", "..%2Frun%2Fsecret.txt", "report.html", "grid"):
            assert client.get(f"/studio-files/{job.id}/{name}").status_code == 404
        assert client.get("/api/jobs").json()[0]["id"] == job.id
