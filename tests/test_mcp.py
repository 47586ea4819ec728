"""The tools of a chat assistant, spoken to by the SDK's own client."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from PIL import Image

from bowerbird.cli import paint
from bowerbird.jobs import Catalogue, Queue
from bowerbird.mcp import create_tools
from bowerbird.repaint import open_picture
from bowerbird.request import PaintRequest
from bowerbird.server.serving import Serving
from tests.conftest import run_command
from tests.odd_text import ODD
from tests.server.conftest import Served


@pytest.fixture
def served(tmp_path: Path, model_folder: Path) -> Any:
    with Served(Queue(tmp_path), Catalogue([model_folder.parent])) as served:
        yield served


def call(served: Served, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """What each tool answers, one after the other; a function makes its arguments from the answers so far."""

    async def talk() -> list[Any]:
        answers: list[Any] = []
        async with Client(create_tools(served.queue, served.serving.catalogue)) as client:
            for name, arguments in calls:
                answers.append(await client.call_tool(name, arguments))
        return answers

    return anyio.run(talk)


def test_drawing_gives_pictures_and_says_what_was_painted(served: Served) -> None:
    (answer,) = call(served, ("generate", {"prompt": "a dog drinking a milkshake", "model": "pets", "count": 2, "size": "40x24"}))
    said = json.loads(answer.content[0].text)
    assert (said["model"], said["label"], said["size"], len(said["seeds"])) == ("pets", "dog", "40x24", 2)
    pictures = [Image.open(io.BytesIO(base64.b64decode(one.data))) for one in answer.content[1:]]
    assert [one.size for one in pictures] == [(40, 24)] * 2 and answer.content[1].mime_type == "image/png"


def test_a_picture_is_varied_by_its_name(served: Served) -> None:
    """The request has the picture, and the settings it was painted with but for the seed."""
    (drawn,) = call(served, ("generate", {"prompt": "x", "model": "pets"}))
    name = json.loads(drawn.content[0].text)["pictures"]
    (answer,) = call(served, ("vary", {"picture": name, "strength": 0.3}))
    assert answer.content[1].type == "image"
    asked = served.queue.jobs(limit=1)[0].request
    assert asked["image"] == str(served.queue.get(name.partition("/")[0]).paths[0]) and asked["strength"] == 0.3


def test_the_final_prompt_is_told_before_and_kept_when_final(served: Served) -> None:
    asked = {"prompt": "a __colour__ bird", "model": "starter", "seed": 7, "styles": ["random"]}
    foretold, drawn = call(served, ("final_prompt", asked), ("generate", {**asked, "steps": 2}))
    (one,) = json.loads(foretold.content[0].text)["finals"]
    assert one["final_prompt"] == json.loads(drawn.content[0].text)["final_prompt"] != "a __colour__ bird"
    (drawn,) = call(served, ("generate", {"prompt": "a __colour__ bird", "model": "starter", "steps": 2, "final": True}))
    assert json.loads(drawn.content[0].text)["final_prompt"] == "a __colour__ bird"


def test_a_picture_of_the_users_is_painted_from_and_described(served: Served, tmp_path: Path) -> None:
    folder = tmp_path / "captioned"
    folder.mkdir()
    for name in ("one", "two"):
        Image.effect_noise((64, 64), 40 + len(name) * (name == "two") * 40).convert("RGB").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"picture {name}")
    path = str(folder / "two.png")
    told, part = call(
        served,
        ("describe", {"picture": path, "words_of": str(folder)}),
        ("vary", {"picture": path, "model": "starter", "prompt": "a heart", "mask_at": [2, 2], "detail": True, "outpaint": {"left": 8}}),
    )
    assert json.loads(told.content[0].text)[0]["text"] == "picture two"
    assert Image.open(io.BytesIO(base64.b64decode(part.content[1].data))).size == (72, 64)
    (refused,) = call(served, ("describe", {"picture": path, "model": "starter"}))
    assert refused.is_error and "learnt from are not here" in refused.content[0].text


def test_a_mask_is_a_file_that_may_be_read(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """White is painted anew, black stays; from another machine only what was uploaded can be named."""
    monkeypatch.chdir(tmp_path)
    picture, mask = Path("picture.png"), Path("mask.png")
    Image.effect_noise((64, 64), 80).convert("RGB").save(picture)
    Image.new("L", (64, 64)).save(mask)
    asked = {"picture": str(picture), "model": "starter", "prompt": "a heart", "mask": str(mask)}
    (kept,) = call(served, ("vary", asked))
    assert Image.open(io.BytesIO(base64.b64decode(kept.content[1].data))).tobytes() == Image.open(picture).tobytes()
    (missing,) = call(served, ("vary", {**asked, "mask": "nope.png"}))
    assert missing.is_error and "nope.png" in missing.content[0].text
    tools = create_tools(served.queue, served.serving.catalogue, may_read=lambda place: place == picture)

    async def from_afar() -> Any:
        async with Client(tools) as client:
            return await client.call_tool("vary", asked)

    refused = anyio.run(from_afar)
    assert refused.is_error and "mask.png" in refused.content[0].text


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two pictures, and between them a file that is none; each has words."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("one", "two", "three")):
        Image.effect_noise((64, 64), 40 * (number + 1)).convert("RGB").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"picture {name}")
    (folder / "two.png").write_bytes(b"no picture")
    return folder


def test_a_folder_is_varied_repainted_enlarged_and_put_into_words(served: Served, photos: Path, tmp_path: Path) -> None:
    """Each file of the answer is named; the one that is no picture is, too, and costs the others nothing."""
    mask, words = tmp_path / "mask.png", tmp_path / "captioned"
    Image.new("L", (64, 64)).save(mask)
    words.mkdir()
    for file in photos.glob("[!t]*"):
        (words / file.name).write_bytes(file.read_bytes())
    asked = {"picture": str(photos), "model": "starter", "prompt": "a heart"}
    varied, kept, large, told = call(
        served,
        ("vary", {**asked, "strength": 0.3, "count": 2}),
        ("vary", {**asked, "mask": str(mask)}),
        ("upscale", {"picture": str(photos)}),
        ("describe", {"picture": str(photos), "words_of": str(words)}),
    )
    for answer, side, count in ((varied, 64, 2), (kept, 64, 1), (large, 256, 1)):
        each = json.loads(answer.content[0].text)["each"]
        assert list(each) == ["one.png", "three.png", "two.png"] and "two.png' cannot be read" in each["two.png"]["failed"]
        files = [Path(file) for name in ("one.png", "three.png") for file in each[name]["files"]]
        assert len(set(files)) == 2 * count == len(answer.content) - 1 and {open_picture(file).size for file in files} == {(side, side)}
    for name, one in json.loads(kept.content[0].text)["each"].items():  # a black mask leaves the picture as it is
        assert "failed" in one or open_picture(Path(one["files"][0])).tobytes() == open_picture(photos / name).tobytes()
    said = json.loads(told.content[0].text)
    assert {name: captions[0]["text"] for name, captions in said["each"].items()} == dict.fromkeys(("one.png", "three.png"), "picture one")
    assert len(said["notes"]) == 1 and "two.png' cannot be read" in said["notes"][0]


def test_a_folder_is_asked_for_and_painted_as_by_the_command_line(
    served: Served, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To vary, to paint parts anew by masks of the same names, to enlarge; with the seed that was drawn, the same pictures to the bit."""
    (photos / "two.png").unlink()
    masks = tmp_path / "masks"
    masks.mkdir()
    for number, name in enumerate(("one", "three")):
        Image.new("L", (64, 64), 255 * number).save(masks / f"{name}.png")
    asked = {"picture": str(photos), "model": "starter", "prompt": "a nest", "strength": 0.4}
    words = ("generate", "starter", "a nest", "--strength", "0.4", "--image", photos)
    for tool, arguments, command in (
        ("vary", asked, words),
        ("vary", {**asked, "mask": str(masks)}, (*words, "--mask", masks)),
        ("upscale", {"picture": str(photos)}, ("upscale", "upscaler-4x", photos)),
    ):
        (answer,) = call(served, (tool, arguments))
        each = json.loads(answer.content[0].text)["each"]
        jobs = [served.queue.get(one["pictures"].partition("/")[0]) for one in each.values()]
        requests: list[PaintRequest] = []
        with monkeypatch.context() as patch:
            patch.setattr(paint, "_paint", lambda _, asked, *__, **___: requests.extend(asked))  # noqa: B023
            assert run_command(*command) == 0
        assert [job.request for job in jobs] == [request.model_dump(mode="json") for request in requests] and len(jobs) == 2
        out = tmp_path / f"{command[0]}-{len(command)}"
        for (name, one), request in zip(each.items(), requests, strict=True):
            assert request.image == photos / name
            seed = () if tool == "upscale" else ("--seed", one["seeds"][0])
            alone = [request.image if word == photos else request.mask if word == masks else word for word in command]
            assert run_command(*alone, *seed, "--out", out / name) == 0
            (file,) = (out / name).glob("*.png")
            assert open_picture(file).tobytes() == open_picture(Path(one["files"][0])).tobytes()


def test_a_folder_that_cannot_be_taken_is_one_sentence(served: Served, photos: Path, tmp_path: Path) -> None:
    """One with no picture, one whose pictures are all broken; from another machine, any."""
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "one.png").write_bytes(b"no picture")
    for tool in ("vary", "upscale", "describe"):
        more = {"words_of": str(photos)} if tool == "describe" else {}
        empty, nothing = call(served, (tool, {"picture": str(tmp_path / "empty"), **more}), (tool, {"picture": str(broken), **more}))
        assert empty.is_error and "there is no picture in" in empty.content[0].text
        assert nothing.is_error and "one.png' cannot be read" in nothing.content[0].text
    inputs = served.queue.home / "inputs"
    inside = inputs / "photos"
    shutil.copytree(photos, inside)
    may_read = Serving(served.queue, served.serving.catalogue, problem=lambda: "", loopback=False).may_read
    tools = create_tools(served.queue, served.serving.catalogue, may_read)

    async def from_afar() -> list[Any]:
        async with Client(tools) as client:
            return [await client.call_tool("upscale", {"picture": str(place)}) for place in (photos, inside, inputs, inputs / "..")]

    assert all(refused.is_error and "there is no picture" in refused.content[0].text for refused in anyio.run(from_afar))


def test_what_was_drawn_is_enlarged_by_its_name(served: Served) -> None:
    (drawn,) = call(served, ("generate", {"prompt": "x", "model": "pets"}))
    name = json.loads(drawn.content[0].text)["pictures"]
    enlarged, refused = call(served, ("upscale", {"picture": name}), ("upscale", {"picture": name, "model": "pets"}))
    assert json.loads(enlarged.content[0].text)["size"] == "64x64"
    assert refused.is_error and "does not enlarge" in refused.content[0].text


def test_settings_are_compared_on_one_sheet(served: Served) -> None:
    (answer,) = call(served, ("compare", {"prompt": "a cat", "model": "pets", "x": "steps=1,2", "y": "seed=1,2", "z": "guidance=1,2"}))
    assert json.loads(answer.content[0].text)["model"] == "pets" and len(answer.content) == 2
    width, height = Image.open(io.BytesIO(base64.b64decode(answer.content[1].data))).size
    assert width > 2 * 16 and height > 4 * 16


def test_a_training_is_started_watched_and_stopped(served: Served, picture_folder: Path) -> None:
    (started,) = call(served, ("start_training", {"pictures": str(picture_folder), "count": 100}))
    (job,) = served.queue.jobs(kinds=("train",))
    assert job.id in started.content[0].text
    watched, stopped = call(served, ("watch_training", {"job": job.id}), ("stop_training", {"job": job.id}))
    assert "queued" in watched.content[0].text and "cancelled" in stopped.content[0].text


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("generate", {"prompt": "x", "model": "../pets"}),
        ("generate", {"prompt": "x", "size": "1x1"}),
        ("generate", {"prompt": "x", "count": 99}),
        ("generate", {"prompt": "x", "model": "pets", "label": "cow"}),
        ("generate", {}),
        ("vary", {"picture": "nope"}),
        ("start_training", {"pictures": "/no/such/folder"}),
        ("start_training", {"pictures": "/tmp", "recipe": "../x"}),
        ("watch_training", {"job": "nope"}),
    ],
)
def test_what_is_impossible_is_said_to_the_assistant(served: Served, tool: str, arguments: dict[str, Any]) -> None:
    (answer,) = call(served, (tool, arguments))
    assert answer.is_error and "Traceback" not in answer.content[0].text


def test_models_are_told(served: Served) -> None:
    (answer,) = call(served, ("list_models", {}))
    assert {"starter", "pets"} <= {one["name"] for one in json.loads(answer.content[0].text)}


def test_any_text_is_a_picture_or_one_sentence(served: Served) -> None:
    """As prompt and as what to avoid; half a pair of surrogates is not UTF-8, so no assistant can send it."""
    asked = {
        name: {"prompt": text, "negative": text, "model": "starter", "steps": 1, "seed": 1, "guidance": 1} for name, text in ODD.items()
    }
    del asked["half a pair"]
    for name, answer in zip(asked, call(served, *(("generate", fields) for fields in asked.values())), strict=True):
        said = answer.content[0].text
        assert answer.content[-1].type == "image" or (answer.is_error and 10 < len(said) < 400 and "\n" not in said), (name, said[:400])
