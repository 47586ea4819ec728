"""A run of every format there was is opened, paints what it painted, and goes on.

tests/fixtures/run-format-1.zip: a run by bowerbird 0.1.0 as of November 2026, half done, its twelve pictures, and a picture it
painted; run-format-1-latent.zip: one that learns on latents, with labels and image embeddings.  Their weights are a short pattern in
place of learnt ones, so that the files are small.  A new format gets a file of
its own beside it; these are never written again.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bowerbird.generate import open_model
from bowerbird.model_folder import read_manifest
from bowerbird.recipe import read_recipe
from bowerbird.request import PaintRequest
from bowerbird.run_folder import model_of_run, read_run_state
from tests.training.runs import CPU, losses, run_here

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures").glob("run-format-*.zip"))


@pytest.fixture(params=FIXTURES, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with run/, pictures/ and painted.png, and of a latent one with the autoencoder that its recipe calls ae."""
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def test_an_old_model_paints_what_it_painted(old: Path) -> None:
    """Other versions of torch may round differently, so one level in 255 is allowed."""
    labels = read_manifest(model_of_run(old / "run")[0]).conditions.get("label", {}).get("names", [])
    request = PaintRequest(model=str(old / "run"), seed=7, steps=3, label=labels[0] if labels else None)
    (painted,) = open_model(request.model, CPU).paint(request, None)
    before, now = (np.asarray(picture, np.int16) for picture in (Image.open(old / "painted.png"), painted.picture))
    assert before.std() > 20  # something is to be seen
    np.testing.assert_allclose(now, before, atol=1)


def test_an_old_run_goes_on(old: Path) -> None:
    run = old / "run"
    before = losses(run)
    run_here(old / "pictures", run, read_recipe(str(run / "recipe.toml")))
    assert read_run_state(run).finished
    assert losses(run)[: len(before)] == before
    assert [seen for seen, _ in losses(run)] == list(range(8, 65, 8))
