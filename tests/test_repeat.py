"""A stranger's picture is repeated in words and numbers; what names something on this machine, only the user may give."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from bowerbird.errors import RequestError
from bowerbird.picture_files import SOFTWARE
from bowerbird.repeat import request_again
from bowerbird.request import PaintRequest, read_request
from tests.audit import Audit


def picture_saying(path: Path, **chunks: str) -> Path:
    info = PngImagePlugin.PngInfo()
    for key, text in chunks.items():
        info.add_itxt(key, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def ours(path: Path, **fields: object) -> Path:
    """A picture with a forged request of ours."""
    request = PaintRequest(seed=3).model_dump(mode="json") | fields
    return picture_saying(path, bowerbird=json.dumps({"format": 1, "software": SOFTWARE, "request": request}))


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the user's that nobody else should see, outside the folder they work in."""
    file = tmp_path / "private" / "diary.png"
    file.parent.mkdir()
    Image.new("RGB", (8, 8), "red").save(file)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return file


def forgeries(folder: Path, private: Path) -> dict[str, Path]:
    """Pictures that ask for more than their own words and numbers, by what they ask for."""
    secret, parent = str(private), str(private.parent)
    infotext = "a bird\nSteps: 20, Sampler: Euler, Seed: 1, Model: "
    return {
        "an input picture": ours(folder / "1.png", image=secret, strength=0.1),
        "a mask": ours(folder / "2.png", image=secret, mask=secret),
        "an outpainting": ours(folder / "3.png", image=secret, outpaint={"left": 64}),
        "a LoRA": ours(folder / "4.png", loras=[{"file": secret, "weight": 1.0}]),
        "a model by its path": ours(folder / "5.png", model=parent),
        "a model next door": ours(folder / "6.png", model="../private"),
        "a hub name": ours(folder / "7.png", model="evil/model"),
        "an enlarger": ours(folder / "8.png", then=["evil/model"]),
        "A1111: a path": picture_saying(folder / "9.png", parameters=f'{infotext}"{parent}"'),
        "A1111: a hub name": picture_saying(folder / "10.png", parameters=f'{infotext}"evil/model"'),
        "InvokeAI: next door": picture_saying(
            folder / "11.png", invokeai_metadata=json.dumps({"model": {"name": "../private"}, "seed": 1})
        ),
    }


def test_no_picture_chooses_a_file_or_a_hub(tmp_path: Path, private: Path, monkeypatch: pytest.MonkeyPatch):
    """Each is refused in a sentence that says what to give, before anything outside the picture is opened or any host is asked."""
    monkeypatch.setattr(socket, "create_connection", None)
    monkeypatch.setattr(socket, "getaddrinfo", None)
    pictures = forgeries(tmp_path, private)
    with Audit() as audit:
        for what, picture in pictures.items():
            with pytest.raises(RequestError, match=r"--image|--mask|--lora|generate MODEL"):
                request_again(picture, {})
                pytest.fail(what)
    assert not [path for path in audit.opened if "private" in path or "evil" in path]


def test_what_the_user_gives_is_used_instead(tmp_path: Path, private: Path):
    pictures = forgeries(tmp_path, private)
    request = request_again(pictures["a model by its path"], {"model": "starter"})
    assert (request.model, request.seed) == ("starter", 3)
    mine = tmp_path / "mine.png"
    request = request_again(pictures["an input picture"], {"image": mine})
    assert (request.image, request.strength) == (mine, 0.1)
    assert request_again(pictures["a LoRA"], {"loras": [{"file": "mine.safetensors"}]}).loras[0].file == Path("mine.safetensors")


def test_words_and_numbers_are_repeated(tmp_path: Path, private: Path):
    again = request_again(ours(tmp_path / "ours.png", prompt="a red bird", steps=7, size=[64, 48]), {"count": 2})
    assert again == read_request({"model": "starter", "prompt": "a red bird", "steps": 7, "size": (64, 48), "seed": 3, "count": 2})


def test_a_run_below_the_folder_is_the_users_own(tmp_path: Path, private: Path):
    run = Path("runs/birds")
    (run / "checkpoints").mkdir(parents=True)
    assert request_again(ours(tmp_path / "ours.png", model="runs/birds@latest"), {}).model == "runs/birds@latest"
    Path("link").symlink_to(private.parent)
    with pytest.raises(RequestError, match="generate MODEL"):
        request_again(ours(tmp_path / "linked.png", model="link"), {})
