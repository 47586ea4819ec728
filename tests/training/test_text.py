"""A model of words from end to end: the archive of CUB-200-2011 in, pictures by prompt out, whatever the prompt is."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bowerbird.generate import open_model
from bowerbird.painter import OwnPainter
from bowerbird.recipe import write_recipe
from bowerbird.request import PaintRequest
from tests.conftest import Bowerbird, run_command, tiny_recipe
from tests.data.small_cub import small_cub
from tests.odd_text import ODD
from tests.training.runs import Notes


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CUB_200_2011.tgz as it is downloaded: attributes.txt and the folder; no sentences come with it."""
    home = small_cub(tmp_path_factory.mktemp("cub"))
    made = home / "download" / "CUB_200_2011.tgz"
    made.parent.mkdir()
    with tarfile.open(made, "w:gz") as file:
        for name in ("attributes.txt", "CUB_200_2011"):
            file.add(home / name, name)
    return made


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "words.toml"
    file.write_text(write_recipe(tiny_recipe(condition={"text": True, "label": True}, data={"size": 16, "fit": "box"})))
    return file


@pytest.fixture(scope="module")
def painter(archive: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> OwnPainter:
    """Of the run that one command makes."""
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_CACHE", str(run.parent / "cache"))
        assert run_command("train", archive, "--recipe", recipe, "--out", run) == 0
    opened = open_model(run, torch.device("cpu"))
    assert isinstance(opened, OwnPainter)
    return opened


def test_the_archive_of_cub_becomes_a_model_of_words(painter: OwnPainter) -> None:
    """CUB has no captions: the words are those of its classes and attributes, so these are known, and no others."""
    told = painter.describe()
    assert {"text", "label"} <= told["conditions"].keys()
    assert told["conditions"]["label"]["names"] == ["Indigo Bunting", "Laysan Albatross"]
    for prompt, unseen in (("a photo of an indigo bunting with a blue crown", []), ("a zeppelin with a blue crown", ["'zeppelin'"])):
        notes = Notes()
        (one,) = painter.paint(PaintRequest(model="cub", prompt=prompt, seed=1), notes)
        assert one.picture.size == (16, 16)
        assert [re.findall("'.*?'", said) for said in notes if "no caption" in said] == [[word] for word in unseen]


def test_words_steer(painter: OwnPainter) -> None:
    """From the same noise: other words, another picture; the same words in capitals, the same."""

    def painted(prompt: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return np.asarray(next(iter(painter.paint(PaintRequest(model="cub", prompt=prompt, seed=3, guidance=30)))).picture)

    one = painted("an indigo bunting")
    assert not np.array_equal(one, painted("a laysan albatross"))
    assert np.array_equal(one, painted("An Indigo BUNTING"))


@pytest.mark.parametrize("prompt", ODD.values(), ids=ODD)
def test_any_text_is_a_picture_or_one_sentence(
    prompt: str, bowerbird: Bowerbird, painter: OwnPainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As prompt and as what to avoid, on the way that people take; what is saved can be read again, the words as they were."""
    monkeypatch.setattr("bowerbird.generate.open_place", lambda *_, **__: painter)
    for given in ((prompt,), ("a bird", "--negative", prompt)):
        code, out, err = bowerbird("generate", "starter", *given, "--seed", "1", "--json")
        if code == 2:
            assert not out and len([line for line in err.splitlines() if line]) == 1 and "Traceback" not in err
            continue
        assert code == 0
        (file,) = json.loads(out)["pictures"]
        assert Image.open(file).size == (16, 16)
        code, out, _ = bowerbird("info", file, "--json")
        assert code == 0 and json.loads(out)["fields"]["seed"] == 1


def test_prompts_of_any_length_share_a_walk(painter: OwnPainter) -> None:
    """Words that another prompt has more are padding to this one: painted together or alone, it is the same picture within rounding."""
    long = "a small bird with a blue crown, a cone-shaped bill, white wings and a very long tail in a tall tree"
    requests = [PaintRequest(prompt=prompt, seed=3, steps=3) for prompt in ("a bird", long)]
    together = [np.asarray(one.picture, np.int16) for _, painted in painter.paint_together(requests) for one in painted]
    for request, seen in zip(requests, together, strict=True):
        (alone,) = painter.paint(request)
        assert np.abs(np.asarray(alone.picture, np.int16) - seen).max() <= 1
    assert (together[0] != together[1]).any()
