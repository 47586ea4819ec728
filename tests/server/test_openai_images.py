"""OpenAI's Images API on the wire: what its clients send and read.  The clients themselves are run by proofs/serve.py."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from bowerbird.picture_metadata import read_metadata
from tests.server.conftest import Served

URL = "/v1/images/generations"


def picture(answer: dict[str, Any], number: int = 0) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(answer["data"][number]["b64_json"])))


def png(size: tuple[int, int] = (32, 32), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def test_a_picture_comes_back(served: Served) -> None:
    answer = served.client.post(URL, json={"prompt": "a bird", "model": "pets", "n": 2, "seed": 7}).json()
    assert [one["seed"] for one in answer["data"]] == [7, 8]
    assert picture(answer).size == (16, 16) and answer["size"] == "16x16"
    assert isinstance(answer["created"], int) and answer["output_format"] == "png"


@pytest.mark.parametrize(("size", "form"), [("100x60", "png"), ("512x512", "jpeg"), ("17x1000", "webp"), ("auto", "png")])
def test_any_size_and_format_is_honoured_and_told(served: Served, size: str, form: str) -> None:
    answer = served.client.post(URL, json={"prompt": "x", "model": "pets", "size": size, "output_format": form}).json()
    assert answer["size"] == ("16x16" if size == "auto" else size)
    assert (picture(answer).size, picture(answer).format) == (tuple(map(int, answer["size"].split("x"))), form.upper())


def test_names_of_other_peoples_models_mean_the_default(served: Served) -> None:
    """DALL-E's clients are configured with its name; they get pictures, and are told by which model."""
    answer = served.client.post(URL, json={"prompt": "a bird", "model": "dall-e-3", "quality": "hd", "style": "vivid", "user": "me"}).json()
    assert answer["model"] == "starter"
    address = answer["data"][0]["url"]
    assert address.startswith("http://localhost:8400/pictures/")
    assert Image.open(io.BytesIO(served.client.get(address).content)).size == tuple(map(int, answer["size"].split("x")))


def test_a_prompt_finds_its_label_in_a_model_that_reads_none(served: Served) -> None:
    answer = served.client.post(URL, json={"prompt": "a Cat on a mat", "model": "pets"}).json()
    assert "'cat'" in answer["notes"][0]
    path = served.queue.jobs(limit=1)[0].paths[0]
    assert read_metadata(path).fields["label"] == "cat"


def test_streaming_sends_partial_pictures_and_then_each_finished_one(served: Served) -> None:
    body = {"prompt": "x", "model": "pets", "n": 2, "stream": True, "partial_images": 2, "steps": 20}
    answer = served.client.post(URL, json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    sent = events(answer.text)
    assert [event["type"].rpartition(".")[2] for event in sent] == ["partial_image", "partial_image", "completed", "completed"]
    assert [event.get("partial_image_index") for event in sent] == [0, 1, None, None]
    assert all(Image.open(io.BytesIO(base64.b64decode(event["b64_json"]))).size == (16, 16) for event in sent)
    assert "event: image_generation.completed" in answer.text


def test_an_error_in_a_stream_is_an_event(served: Served) -> None:
    sent = events(served.client.post(URL, json={"prompt": "x", "model": "pets", "label": "cow", "stream": True}).text)
    assert [list(event) for event in sent] == [["error"]] and "cow" in sent[0]["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": 1}, "prompt", "invalid_value"),
        ({"prompt": "x" * 10**6}, "prompt", "invalid_value"),
        ({"prompt": "x", "n": 1000}, "n", "invalid_value"),
        ({"prompt": "x", "n": 0}, "n", "invalid_value"),
        ({"prompt": "x", "n": "many"}, "n", "invalid_value"),
        ({"prompt": "x", "size": "100000x1"}, "size", "invalid_size"),
        ({"prompt": "x", "size": "large"}, "size", "invalid_size"),
        ({"prompt": "x", "size": "-1x5"}, "size", "invalid_size"),
        ({"prompt": "x", "seed": -1}, "seed", "invalid_value"),
        ({"prompt": "x", "steps": 10**9}, "steps", "invalid_value"),
        ({"prompt": "x", "stepz": 3}, "stepz", "unknown_parameter"),
        ({"prompt": "x", "image": "/etc/passwd"}, "image", "unknown_parameter"),
        ({"prompt": "x", "loras": [{"file": "/etc/passwd"}]}, "loras", "unknown_parameter"),
        ({"prompt": "x", "background": "transparent"}, "background", "invalid_value"),
        ({"prompt": "x", "model": "../pets"}, None, None),
        ({"prompt": "x", "model": "pets", "label": "cow"}, None, None),
        ({"prompt": "x", "model": "pets", "sampler": "nonsense"}, None, None),
        ([], None, "invalid_body"),
        ("text", None, "invalid_body"),
    ],
)
def test_what_is_impossible_is_said_in_openais_shape(served: Served, body: Any, param: str | None, code: str | None) -> None:
    answer = served.client.post(URL, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert (error["param"], error["code"]) == (param, code)
    assert len(error["message"]) > 10


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"null", b"[" * 100_000])
def test_garbage_is_said_to_be_garbage(served: Served, data: bytes) -> None:
    answer = served.client.post(URL, content=data, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_models_are_listed(served: Served) -> None:
    listed = served.client.get("/v1/models").json()
    assert listed["object"] == "list" and {"starter", "pets"} <= {one["id"] for one in listed["data"]}
    assert served.client.get("/v1/models/pets").json()["owned_by"] == "bowerbird"
    answer = served.client.get("/v1/models/none/of/ours")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"image": b"garbage"}, "invalid_image"),
        ({"image": png()[:60]}, "invalid_image"),
        ({"image": b"GIF89a" + bytes(100)}, "invalid_image"),
        ({"image": png(), "mask": png((16, 16), "RGBA")}, "invalid_mask"),
        ({"image": png(), "mask": png()}, "invalid_mask"),
        ({"picture": png()}, "unknown_parameter"),
    ],
)
def test_a_bad_upload_is_said(served: Served, files: dict[str, bytes], code: str) -> None:
    answer = served.client.post("/v1/images/edits", data={"prompt": "x"}, files=files)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code


def test_a_picture_bomb_is_not_decoded(served: Served) -> None:
    """Its header says 20,000 x 20,000; that is enough to refuse it."""
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    answer = served.client.post("/v1/images/edits", data={"prompt": "x"}, files={"image": bomb.getvalue()})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "image_too_large")


@pytest.mark.parametrize("name", ["image", "image[]"])
def test_edits_and_variations_reach_the_model_with_their_picture(served: Served, name: str) -> None:
    """OpenAI's client names one file `image` and several `image[]`; its mask is transparent where the picture is painted anew."""
    mask = Image.new("RGBA", (32, 32), (0, 0, 0, 255))
    mask.putpixel((3, 4), (0, 0, 0, 0))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    answer = served.client.post("/v1/images/edits", data={"prompt": "x", "model": "pets"}, files={name: png(), "mask": buffer.getvalue()})
    assert picture(answer.json()).size == (32, 32)
    asked = served.queue.jobs(limit=1)[0].request
    kept = Image.open(asked["mask"])
    assert (kept.getpixel((3, 4)), kept.getpixel((0, 0))) == (255, 0)
    answer = served.client.post("/v1/images/variations", data={"model": "pets"}, files={name: png()})
    assert picture(answer.json()) and served.queue.jobs(limit=1)[0].request["image"] == asked["image"]


def test_the_same_idempotency_key_is_the_same_picture(served: Served) -> None:
    key = {"Idempotency-Key": "once"}
    one, again = (served.client.post(URL, json={"prompt": "x", "model": "pets"}, headers=key).json() for _ in range(2))
    assert one["data"] == again["data"]


def test_a_form_points_into_its_picture_and_locks_its_words(served: Served) -> None:
    """Everything in a form is text; what the request reads otherwise is JSON there."""
    form = {"prompt": "a __colour__ bird", "model": "starter", "steps": "2", "mask_at": "[3, 3]", "detail": "true", "lock": "true"}
    answer = served.client.post("/v1/images/edits", data=form, files={"image": ("a.png", png())}).json()
    assert answer["data"][0]["revised_prompt"] == "a __colour__ bird"
    asked = served.queue.jobs(limit=1)[0].request
    assert asked["mask_at"] == [3, 3] and asked["detail"] and asked["mask"] is None
    answer = served.client.post("/v1/images/edits", data={**form, "mask_at": "3;3"}, files={"image": ("a.png", png())})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "mask_at"
