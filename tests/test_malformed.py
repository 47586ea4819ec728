"""Files that make no sense get a sentence: never a traceback, never a wait, and nothing opened outside what was named.

BOWERBIRD_MALFORMED=2000 breaks as many of each kind; by default there are a few, the same ones each time.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, PngImagePlugin

from bowerbird.errors import BowerbirdError
from bowerbird.generate import describe_model, open_model
from bowerbird.picture_metadata import read_metadata
from bowerbird.repeat import request_again
from bowerbird.request import PaintRequest
from bowerbird.training.record import Record
from tests.audit import Audit
from tests.conftest import tiny_recipe
from tests.malformed import documents, resealed
from tests.training.runs import run_here

COUNT = int(os.environ.get("BOWERBIRD_MALFORMED", "40"))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on latents, of a model with a condition."""
    recipe = tiny_recipe(
        model={"autoencoder": "autoencoder-8x"},
        transformer={"patch": 1},
        condition={"label": True},
        train={"pictures": 16, "save_every": 8},
    )
    return run_here(picture_folder, tmp_path_factory.mktemp("malformed") / "run", recipe)


def sentence_or_success(work: Callable[[], object], said: object, *inside: Path) -> None:
    """`work` ends in time, well or in a sentence, and opens nothing but what lies `inside` or belongs to the installation."""
    began = time.process_time()
    with Audit() as audit:
        try:
            work()
        except BowerbirdError as error:
            assert str(error) and "\n" not in str(error)[:50]
        except Exception as error:
            raise AssertionError(f"a traceback for {str(said)[:500]}") from error
    assert time.process_time() - began < 10, f"too long over {str(said)[:500]}"
    strangers = [path for path in audit.opened if "other" in path or path == "/etc/passwd"]
    assert not strangers, f"{strangers} for {str(said)[:500]}"


def paint_one(where: Path) -> None:
    for _ in open_model(where, CPU).paint(PaintRequest(steps=1, seed=0)):
        return


@pytest.mark.parametrize("name", ["bowerbird.json", "transformer/config.json", "vae/config.json"])
def test_a_model_folder(run: Path, tmp_path: Path, name: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(max((run / "models").iterdir()), model)
    good = json.loads((model / name).read_bytes())
    manifest = (model / "bowerbird.json").read_bytes()
    for data in documents(good, COUNT, seed=1):
        (model / "bowerbird.json").write_bytes(manifest)
        if name == "bowerbird.json":
            (model / name).write_bytes(data)
        else:
            resealed(model, "bowerbird.json", name, data)
        sentence_or_success(lambda: paint_one(model), data, model)
        sentence_or_success(lambda: describe_model(model), data, model)


@pytest.mark.parametrize("name", ["run.json", "checkpoint.json", "metrics.jsonl", "recipe.toml"])
def test_a_run_folder(run: Path, picture_folder: Path, tmp_path: Path, name: str) -> None:
    """Painting from it, and going on with it."""
    copy = tmp_path / "run"
    recipe = tiny_recipe(
        model={"autoencoder": "autoencoder-8x"},
        transformer={"patch": 1},
        condition={"label": True},
        train={"pictures": 16, "save_every": 8},
    )
    shutil.copytree(run, copy)
    place = copy / name if name != "checkpoint.json" else max((copy / "checkpoints").iterdir()) / name
    good = (
        json.loads(place.read_bytes()) if name.endswith(".json") else {"seen": 8, "loss": 1.0, "grad_norm": 1.0, "lr": 0.1, "held_out": 1.0}
    )
    for number, data in enumerate(documents(good, COUNT, seed=2)):
        if number % 4 and COUNT < 100:  # going on takes longer than reading
            continue
        shutil.rmtree(copy)
        shutil.copytree(run, copy)
        place.write_bytes(data)
        sentence_or_success(lambda: paint_one(copy), data, copy)
        sentence_or_success(lambda: run_here(picture_folder, copy, recipe), data, copy)


def test_a_record(tmp_path: Path) -> None:
    record = Record(tmp_path / "metrics.jsonl")
    for data in documents({"seen": 8, "loss": 1.0, "grad_norm": 1.0, "lr": 0.1, "held_out": 1.0, "losses": [1.0]}, COUNT, seed=3):
        record.path.write_bytes(data + b"\n" + b'{"seen": 3}\n')
        assert {"seen": 3} in record.lines()


@pytest.mark.parametrize("key", ["bowerbird", "invokeai_metadata", "sd-metadata", "prompt", "parameters"])
def test_a_pictures_own_words(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = PaintRequest(prompt="a bird", seed=1, steps=5, size=(64, 64)).model_dump(mode="json")
    graph = {"3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 20, "positive": ["6", 0], "latent_image": ["5", 0]}}}
    graph |= {"5": {"inputs": {"width": 8, "height": 8}}, "6": {"inputs": {"text": "a bird"}}}
    good: dict[str, dict[str, Any]] = {
        "bowerbird": {"format": 1, "software": "Bowerbird", "request": request},
        "invokeai_metadata": {"positive_prompt": "a bird", "seed": 1, "model": {"name": "x"}, "width": 64, "height": 64},
        "sd-metadata": {"image": {"prompt": [{"prompt": "a", "weight": 1}], "steps": 3, "seed": 1}, "model_weights": "x"},
        "prompt": graph,
        "parameters": {"prompt": "a bird", "resolution": "(64, 64)", "styles": "['a']", "base_model": "x"},
    }
    for data in documents(good[key], COUNT, seed=4):
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt(key, data.decode("utf-8", "replace").replace("\0", "?"))
        Image.new("RGB", (8, 8)).save(tmp_path / "picture.png", pnginfo=chunks)
        sentence_or_success(lambda: read_metadata(tmp_path / "picture.png"), data, tmp_path)
        sentence_or_success(lambda: request_again(tmp_path / "picture.png", {}), data, tmp_path)


@pytest.mark.parametrize("name", ["bowerbird.json", "transformer/config.json", "transformer/model.safetensors"])
def test_a_pipe_in_place_of_a_file_blocks_nobody(run: Path, tmp_path: Path, name: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(max((run / "models").iterdir()), model)
    (model / name).unlink()
    os.mkfifo(model / name)
    with pytest.raises(BowerbirdError):
        paint_one(model)
