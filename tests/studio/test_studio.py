"""The Studio is a face of the queue: its fields are the request's, its gallery the queue's, its page comes with the server."""

from __future__ import annotations

import re
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
from bowerbird.prompts import finish, lock
from bowerbird.prompts.library import style_previews
from bowerbird.request import Lora, PaintRequest, read_request
from bowerbird.server.app import create_app
from bowerbird.server.serving import Serving
from bowerbird.studio.dropped import keep_archive
from bowerbird.studio.form import FOLDED, component, fields_of, help_of
from bowerbird.studio.gallery import as_asked, filled, found, settings_of, to_bin, without
from bowerbird.studio.painting import paint_tab
from bowerbird.studio.run import PLACE, WithStudio
from bowerbird.studio.source import SHOWN_PX, covered, in_the_picture, tinted, usual_strength
from bowerbird.studio.styles import shown as strip
from bowerbird.studio.training import Trial
from tests.odd_text import ODD

BIRDS = Path(__file__).parents[2] / "examples/birds"


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
    if field not in ("strength", "mask_tolerance"):
        assert fields_of({field: made.value}) == {}


def test_what_is_typed_is_what_is_asked() -> None:
    typed = {"size": " 64 x 96", "seed": " 7", "steps": "12", "guidance": "1.5"}
    request = read_request(fields_of({**typed, "label": None, "styles": [], "negative": "  "}))
    assert request == PaintRequest(size=(64, 96), seed=7, steps=12, guidance=1.5)


@pytest.mark.parametrize("typed", [{"steps": "0"}, {"steps": "many"}, {"size": "64"}, {"seed": "-1"}, {"guidance": "nan%"}])
def test_what_cannot_be_is_said_in_the_requests_words(typed: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=next(iter(typed))):
        read_request({**fields_of(typed)})


def test_a_style_with_a_picture_is_a_button_that_says_whether_it_is_chosen() -> None:
    page = strip(["twemoji"])
    assert page.count("<button") == page.count("<img") == len(style_previews())
    assert re.findall(r'data-style="([^"]*)" aria-pressed="true"', page) == ["twemoji"]


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
    kept = keep_archive(queue, files)
    assert kept.parent == queue.home / "inputs" and keep_archive(queue, files[::-1]) == kept
    assert "3 pictures" in inspect(kept, 32).to_text()
    assert keep_archive(queue, [kept]) == kept
    with pytest.raises(PictureFolderError, match="twice"):
        keep_archive(queue, [files[0], files[0]])
    with pytest.raises(PictureFolderError, match="archive alone"):
        keep_archive(queue, [files[0], kept])


def test_a_forecast_is_that_of_the_command_line_and_refuses_in_its_words(tmp_path: Path) -> None:
    asked = TrainRequest(pictures=tmp_path / "nowhere", recipe="latent-64", hours=0.1)
    with pytest.raises(RequestError, match="nowhere"):
        list(Trial().forecast(asked))
    with pytest.raises(RequestError, match="moon"):  # the options are those of the program
        list(Trial(["--device=moon"]).forecast(asked.model_copy(update={"pictures": BIRDS})))


def test_a_forecast_ends_when_it_takes_long_or_is_left(tmp_path: Path) -> None:
    """Its process too: nothing measures on behind the page."""
    asked = TrainRequest(pictures=BIRDS, recipe="latent-64", hours=0.1)
    with pytest.raises(RequestError, match="longer than 0 s"):
        list(Trial(max_seconds=0).forecast(asked))
    trial = Trial()
    words = trial.forecast(asked)
    assert next(words).startswith("measuring")
    trial.stop()
    with pytest.raises(RequestError, match="stopped"):
        list(words)


def saved(place: Path, asked: PaintRequest) -> Path:
    (final,) = finish(asked)
    save_picture(Painted(Image.new("RGB", (8, 8)), 7, final), place)
    return place


def test_a_dropped_picture_tells_its_settings_and_chooses_no_files(tmp_path: Path) -> None:
    """What it names on this machine is left out and said, also where it hides in the words it was made from."""
    mine = Lora(file=tmp_path / "mine.safetensors")
    asked = PaintRequest(prompt="a __colour__ bird", seed=7, steps=3, model="starter", image=tmp_path / "secret.png", loras=[mine])
    fields, left_out = settings_of(saved(tmp_path / "painted.png", asked))
    told, is_locked = as_asked(fields)
    assert (told["prompt"], told["seed"], told["steps"], is_locked) == ("a __colour__ bird", 7, 3, False)
    assert left_out == ["image", "loras"] and not told.get("image") and not told.get("loras")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(PictureFolderError, match=r"plain\.png"):
        settings_of(tmp_path / "plain.png")


def test_locked_words_come_back_locked(tmp_path: Path) -> None:
    final = lock(PaintRequest(prompt="a __colour__ bird", negative="fog", seed=7))
    told, is_locked = as_asked(settings_of(saved(tmp_path / "painted.png", final))[0])
    assert is_locked and (told["prompt"], told["negative"]) == ("a __colour__ bird", "fog")


def test_what_the_form_has_no_place_for_is_named(queue: Queue, model_folder: Path, tmp_path: Path) -> None:
    """A picture that it began with is placed while its file is there."""
    with gr.Blocks():
        form = paint_tab(queue, Catalogue([model_folder.parent]))
    fields = PaintRequest(prompt="a bird", exact=True, image=tmp_path / "gone.png", outpaint={"left": 64}).model_dump(mode="json")
    assert without(form, fields) == ["image", "outpaint", "exact"]
    Image.new("RGB", (8, 8)).save(tmp_path / "gone.png")
    assert without(form, fields) == ["outpaint", "exact"]
    updates = dict(zip(form.fields, filled(form, fields), strict=False))
    assert len(filled(form, fields)) == len(form.components())
    for name in ("expand", "speed", "preset", "sampler"):  # Gradio takes nothing else back
        assert updates[name]["value"] in [value for _, value in form.fields[name].choices]


def test_any_text_is_accepted_or_refused_in_one_sentence(queue: Queue, model_folder: Path) -> None:
    """As prompt and as what to avoid.  What is accepted is painted by the same worker for every face."""
    with gr.Blocks() as page:
        form = paint_tab(queue, Catalogue([model_folder.parent]))
    paint = next(each for each in page.fns.values() if each.name == "paint")
    typed = {each: getattr(each, "value", None) for each in paint.inputs} | {form.fields["model"]: "starter"}
    assert paint.fn is not None
    for name, text in ODD.items():
        before = len(queue.jobs())
        said = next(paint.fn(typed | {form.fields["prompt"]: text, form.fields["negative"]: text}))[0]
        refused = re.fullmatch(r'<p class="sentence bad"[^>]*>[^\n]{10,400}</p>', said)
        assert len(queue.jobs()) == before + (not refused), (name, said[:400])


def test_a_click_covers_what_is_connected_and_alike() -> None:
    """As `mask_at` does; brush strokes and further clicks are added."""
    picture = Image.new("RGB", (60, 40), "white")
    picture.paste((200, 0, 0), (10, 10, 20, 20))
    picture.paste((200, 0, 0), (40, 10, 50, 20))
    strokes = Image.new("RGBA", (60, 40))
    strokes.paste((255, 255, 255, 255), (0, 30, 60, 40))
    editor = {"background": picture.convert("RGBA"), "layers": [strokes]}

    def area(layers: list[Image.Image], points: list[list[int]]) -> int:
        found = covered({**editor, "layers": layers}, points, 32)
        assert found is not None
        return sum(found[1].histogram()[128:])

    one = area([], [[12, 12]])
    assert one == 12 * 12  # grown by a pixel
    assert area([], [[12, 12], [45, 12]]) == 2 * one and area([strokes], [[12, 12]]) == one + 600
    assert area([], [[500, 12]]) == 0  # of a picture that was there before
    assert covered(None, [[1, 1]], 32) is None


@pytest.mark.parametrize("size", [(40, 30), (4000, 3000)])
def test_a_click_means_the_pixel_that_was_seen(size: tuple[int, int]) -> None:
    """Large pictures are shown smaller, small ones larger; the corners shown are the corners of the picture itself."""
    shown = tinted(Image.new("RGB", size), Image.new("L", size)).size
    assert max(shown) == SHOWN_PX
    near, far = in_the_picture(size, (0, 0)), in_the_picture(size, (shown[0] - 1, shown[1] - 1))
    assert all(0 <= at <= max(size) / SHOWN_PX for at in near)
    assert all(0 <= side - 1 - at <= max(size) / SHOWN_PX for side, at in zip(size, far, strict=True))


def test_the_usual_strength_is_the_requests() -> None:
    assert [usual_strength(*each) for each in ((False, False, False), (True, False, False), (True, True, False), (False, False, True))] == [
        *(0.6, 1.0, 0.5, 1.0)
    ]


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
