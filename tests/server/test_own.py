"""Our own routes: jobs from acceptance to picture; and AUTOMATIC1111's."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from bowerbird.picture_metadata import read_metadata
from bowerbird.prompts.library import style_previews, styles
from tests.odd_text import ODD
from tests.server.conftest import Served


def test_a_job_from_acceptance_to_picture(served: Served) -> None:
    """Accepted with 202, followed as events to its end, fetched as files."""
    answer = served.client.post("/api/jobs", json={"requests": [{"model": "pets", "count": 2, "seed": 1, "steps": 20}], "previews": 2})
    assert answer.status_code == 202
    (job,) = answer.json()
    text = served.client.get(f"/api/jobs/{job['id']}/events").text
    seen = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    assert seen[-1]["state"] == "done" and all(one["id"] == job["id"] for one in seen)
    for number in (0, 1):
        answer = served.client.get(f"/pictures/{job['id']}/{number}")
        assert answer.headers["content-type"] == "image/png" and Image.open(io.BytesIO(answer.content)).size == (16, 16)
    assert served.client.get(f"/pictures/{job['id']}/2").status_code == 404
    assert served.client.get(f"/api/jobs/{job['id']}/preview").status_code == 200


def test_jobs_are_accepted_all_or_none(served: Served) -> None:
    before = sum(served.queue.counts().values())
    answer = served.client.post("/api/jobs", json={"requests": [{"model": "pets"}, {"model": "pets", "stepz": 2}]})
    assert answer.status_code == 400 and "Did you mean 'steps'" in answer.json()["error"]["message"]
    assert sum(served.queue.counts().values()) == before


def test_a_training_is_accepted_moved_and_cancelled(served: Served, picture_folder: Path) -> None:
    """Only the painting lane works in these tests, so trainings wait."""
    ids = [served.client.post("/api/train", json={"pictures": str(picture_folder), "count": 100}).json()["id"] for _ in range(2)]
    order = served.client.post(f"/api/jobs/{ids[1]}/move", json={"to": 0}).json()
    assert [job["id"] for job in order] == ids[::-1]
    for job_id in ids:
        assert served.client.delete(f"/api/jobs/{job_id}").json()["state"] == "cancelled"
    assert served.client.post(f"/api/jobs/{ids[0]}/move", json={"to": 0}).status_code == 400


@pytest.mark.parametrize(
    "body", [{}, {"pictures": 3}, {"pictures": "x", "hours": 1, "count": 1}, {"pictures": "x", "recipe": 1}, {"nope": 1}]
)
def test_a_bad_training_is_said(served: Served, body: dict[str, object]) -> None:
    answer = served.client.post("/api/train", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_styles_are_told_with_their_pictures(served: Served) -> None:
    told = {one["name"]: one for one in served.client.get("/api/styles").json()}
    assert set(told) == set(styles()) and told["oil"]["preview"] is None
    answer = served.client.get(told["twemoji"]["preview"])
    assert answer.headers["content-type"] == "image/webp" and answer.content == style_previews()["twemoji"].read_bytes()
    for name in ("oil", "nothing", "..%2F..%2Flibrary", "a/b"):
        assert served.client.get(f"/api/styles/{name}/preview").status_code == 404


def test_models_and_recipes_are_told(served: Served) -> None:
    models = {one["name"]: one for one in served.client.get("/api/models").json()}
    assert models["pets"]["labels"] == ["cat", "dog"]
    assert served.client.get("/api/models/nope").status_code == 404
    assert "latent-64" in served.client.get("/api/recipes").json()


WILD = {"model": "starter", "prompt": "a __colour__ bird", "styles": ["random"], "expand": "words", "count": 2, "steps": 2}


def test_what_is_foretold_is_what_is_painted(served: Served) -> None:
    """The final prompts, wildcards, random styles and the model's own phrases in them, are the worker's, with the seed that was drawn."""
    told = served.client.post("/api/final", json=WILD).json()
    assert sum(one["count"] for one in told) == 2 and "__" not in told[0]["prompt"] and told[0]["prompt"] != "a bird"
    (job,) = served.client.post("/api/jobs", json={"requests": [{**WILD, "seed": told[0]["seed"]}]}).json()
    list(served.queue.follow(job["id"], 60))
    read = [read_metadata(path).fields["prompt"] for path in served.queue.get(job["id"]).paths]
    assert read == [one["prompt"] for one in told for _ in range(one["count"])]
    locked = {"requests": [{"model": "starter", "prompt": "a __colour__ bird", "steps": 2}], "lock": True}
    (job,) = served.client.post("/api/jobs", json=locked).json()
    list(served.queue.follow(job["id"], 60))
    assert served.queue.get(job["id"]).result["settings"]["prompt"] == "a __colour__ bird"
    assert served.client.post("/api/final", json={"prompt": "__no_such_list__"}).status_code == 400


def test_pictures_are_described_by_whoever_may_see_them(served: Served, tmp_path: Path) -> None:
    for number, colour in enumerate(("red", "blue")):
        Image.effect_noise((64, 64), 40 + 80 * number).convert("RGB").save(tmp_path / f"{colour}.png")
        (tmp_path / f"{colour}.txt").write_text(f"{colour} noise")
    sent = served.client.post("/api/pictures", files={"file": ("mine.png", (tmp_path / "blue.png").read_bytes())}).json()["pictures"]
    job = served.client.post("/api/describe", json={"pictures": [sent], "like": str(tmp_path), "count": 1}).json()
    list(served.queue.follow(job["id"], 60))
    assert served.queue.get(job["id"]).result["captions"][0][0]["text"] == "blue noise"
    for body in (
        {"pictures": [sent]},
        {"pictures": [], "captioner": "blip"},
        {"pictures": [sent], "like": str(tmp_path), "captioner": "blip"},
    ):
        assert served.client.post("/api/describe", json=body).status_code in (400, 422)
    assert served.client.post("/api/pictures", files={"file": ("mine.png", b"no picture")}).status_code == 400


def test_a_sheet_is_asked_for_like_a_picture(served: Served) -> None:
    body = {"kind": "compare", "requests": [{"model": "pets", "x": "steps=1,2", "seed": 1}]}
    (job,) = served.client.post("/api/jobs", json=body).json()
    list(served.queue.follow(job["id"], 60))
    sheet = served.client.get(f"/pictures/{job['id']}/{served.queue.get(job['id']).result['sheet']}")
    assert Image.open(io.BytesIO(sheet.content)).width > 2 * 16
    assert served.client.post("/api/jobs", json={**body, "lock": True}).status_code == 400
    body = {"kind": "compare", "requests": [{"model": "pets", "x": "nonsense=1"}]}
    assert "no axis" in served.client.post("/api/jobs", json=body).json()["error"]["message"]


def test_a_model_that_takes_pictures_further_is_looked_up_like_any_other(served: Served) -> None:
    answer = served.client.post("/api/jobs", json={"requests": [{"model": "pets", "then": ["/etc"]}]})
    assert answer.status_code == 400 and "/etc" in answer.json()["error"]["message"]


def test_an_automatic1111_client_gets_its_picture(served: Served) -> None:
    """As editors' plug-ins send it: fields that mean nothing here among them, seed -1 for any."""
    body = {
        "prompt": "a dog", "negative_prompt": "x", "steps": 3, "cfg_scale": 7, "width": 48, "height": 32, "seed": -1, "batch_size": 2,
        "sampler_name": "Euler", "restore_faces": False, "alwayson_scripts": {}, "override_settings": {"sd_model_checkpoint": "pets"},
    }  # fmt: skip
    answer = served.client.post("/sdapi/v1/txt2img", json=body).json()
    info = json.loads(answer["info"])
    assert [Image.open(io.BytesIO(base64.b64decode(one))).size for one in answer["images"]] == [(48, 32)] * 2
    assert (info["steps"], info["sampler_name"], len(info["all_seeds"])) == (3, "euler", 2)
    assert "Steps: 3" in info["infotexts"][0]


def test_automatic1111s_lists_and_errors(served: Served) -> None:
    assert "pets" in [one["model_name"] for one in served.client.get("/sdapi/v1/sd-models").json()]
    assert "Euler" in [one["name"] for one in served.client.get("/sdapi/v1/samplers").json()]
    assert set(served.client.get("/sdapi/v1/progress").json()) == {"progress", "eta_relative", "state", "current_image", "textinfo"}
    for body in ({"steps": -1}, {"width": 1}, {"batch_size": 99}, {"override_settings": {"sd_model_checkpoint": "../x"}}):
        answer = served.client.post("/sdapi/v1/txt2img", json=body)
        assert answer.status_code == 400 and set(answer.json()) == {"error", "detail", "body", "errors"}


@pytest.mark.parametrize(
    "image", ["http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "not base64!", "data:image/png;base64,AAAA"]
)
def test_no_url_is_fetched(served: Served, image: str) -> None:
    answer = served.client.post("/sdapi/v1/img2img", json={"init_images": [image], "prompt": "x"})
    assert answer.status_code == 400


@pytest.mark.parametrize("place", ["/v1/images/generations", "/sdapi/v1/txt2img", "/api/jobs"])
def test_any_text_is_a_picture_or_one_sentence(served: Served, place: str) -> None:
    """As prompt and as what to avoid, on every way in, of a model that reads words; JSON carries any character, half a pair too."""
    jobs = []
    for name, text in ODD.items():
        common = {"prompt": text, "steps": 1, "seed": 1}
        bodies: dict[str, dict[str, object]] = {
            "/v1/images/generations": {**common, "negative": text, "guidance": 1, "model": "starter"},
            "/sdapi/v1/txt2img": {**common, "negative_prompt": text, "cfg_scale": 1},
            "/api/jobs": {"requests": [{**common, "negative": text, "guidance": 1, "model": "starter"}]},
        }
        answer = served.client.post(place, content=json.dumps(bodies[place]), headers={"content-type": "application/json"})
        if answer.status_code == 400:
            said = answer.json()
            message = said["errors"] if place.startswith("/sdapi") else said["error"]["message"]
            assert 10 < len(message) < 400 and "\n" not in message, name
        elif place == "/api/jobs":
            assert answer.status_code == 202, name
            jobs.append(answer.json()[0]["id"])
        else:
            assert answer.status_code == 200 and (answer.json().get("data") or answer.json()["images"]), name
    for job in jobs:
        end = list(served.queue.follow(job, 60))[-1]
        assert end.state == "done" and len(end.paths) == 1, end.request["prompt"][:20]
