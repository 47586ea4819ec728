"""Small pictures and small models that many tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bowerbird.cli import main
from bowerbird.pixels import Pixels
from bowerbird.prompts.expander import ADDRESS
from bowerbird.recipe import Recipe, check_recipe
from tests.language_model import LanguageModel, serve

Bowerbird = Callable[..., tuple[int, str, str]]
EXAMPLES = Path(__file__).parents[1] / "examples"

torch.set_num_threads(1)  # bit-equality is promised for equal thread counts, and small tensors gain nothing from more


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("BOWERBIRD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def run_command(*arguments: object) -> int:
    """The exit code of `bowerbird ARGUMENTS`, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bowerbird", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.fixture
def bowerbird(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Bowerbird:
    """bowerbird("generate", ...) -> (exit code, standard output, standard error), in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: (run_command(*arguments), *capsys.readouterr())


@pytest.fixture
def language_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[LanguageModel]:
    """One that the expander asks."""
    model = LanguageModel()
    with serve(model) as address:
        monkeypatch.setenv(ADDRESS, address)
        yield model


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of 16x16 in two classes: discs on a plain ground, warm and cold."""
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    for number in range(60):
        kind = ("cold", "warm")[number % 2]
        colour = draw.integers(0, 120, 3) + np.array([120, 0, 0] if kind == "warm" else [0, 0, 120])
        centre, radius = draw.uniform(5, 11, 2), draw.uniform(2, 6)
        disc = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2)[..., None]
        pixels = np.where(disc, colour, draw.integers(200, 255)).astype(np.uint8)
        (folder / kind).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"{number:03d}.png")
    return folder


def tiny_recipe(**sections: Mapping[str, object]) -> Recipe:
    """A run of a dozen updates on 16x16 pictures; sections override, as tiny_recipe(train={"lr": 1})."""
    fields: dict[str, dict[str, object]] = {
        "data": {"size": 16},
        "transformer": {"size": "micro", "patch": 4},
        "train": {"pictures": 96, "batch": 8, "warmup": 16, "save_every": 16, "precision": "fp32"},  # the same on every processor
        "sample": {"every_epochs": 1, "count": 4, "steps": 2},
    }
    for section, values in sections.items():
        fields[section] = {**fields.get(section, {}), **values}
    return check_recipe(fields)


@pytest.fixture(scope="session")
def animals() -> Pixels:
    """240 pictures of animals at 64x64, in no particular order."""
    files = sorted((EXAMPLES / "animals").glob("*.webp"))
    chosen = np.random.default_rng(0).permutation(len(files))[:240]
    pictures = [Image.open(files[i]).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC) for i in chosen]
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 16x16 pictures of cats and dogs; it has learnt nothing."""
    from tests.test_model_folder import saved

    folder = tmp_path_factory.mktemp("models") / "pets"
    saved(folder, tiny_recipe(), ("cat", "dog"))
    return folder
