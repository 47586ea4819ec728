"""A run of every format there was is opened, paints what it painted, and goes on.

tests/fixtures/run-format-1.zip: a run by bowerbird 0.1.0 as of November 2026, half done, its twelve pictures, and a picture it
painted.  Its weights are a short pattern in place of learnt ones, so that the file is small.  A new format gets a file of
its own beside it; these are never written again.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bowerbird.generate import open_model
from bowerbird.recipe import read_recipe
from bowerbird.request import PaintRequest
from bowerbird.run_folder import read_run_state
from tests.training.runs import CPU, losses, run_here

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures").glob("run-format-*.zip"))


@pytest.fixture(params=FIXTURES, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with run/, pictures/ and painted.png."""
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def test_an_old_model_paints_what_it_painted(old: Path) -> None:
    """Other versions of torch may round differently, so one level in 255 is allowed."""
    request = PaintRequest(model=str(old / "run"), seed=7, steps=3)
    (painted,) = open_model(request.model, CPU).paint(request, None)
    before, now = (np.asarray(picture, np.int16) for picture in (Image.open(old / "painted.png"), painted.picture))
    assert before.std() > 50  # something is to be seen
    np.testing.assert_allclose(now, before, atol=1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # on other hardware than then, and few pictures
def test_an_old_run_goes_on(old: Path) -> None:
    run = old / "run"
    before = losses(run)
    run_here(old / "pictures", run, read_recipe(str(run / "recipe.toml")))
    assert read_run_state(run).finished
    assert losses(run)[: len(before)] == before
    assert [seen for seen, _ in losses(run)] == list(range(8, 65, 8))
