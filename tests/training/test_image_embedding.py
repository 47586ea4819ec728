"""Learning from what pictures show: told as promised, kept beside the model, and painted from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from bowerbird.conditions import image_embedding
from bowerbird.conditions.image_embedding import BANDWIDTH, COMPONENTS, INPUT_PX, ImageEmbedding, project
from bowerbird.data import open_pictures
from bowerbird.errors import ModelError, Stopped
from bowerbird.generate import open_model
from bowerbird.model_folder import open_model_folder
from bowerbird.models.features import SECOND_OPINION, extract
from bowerbird.painter import OwnPainter
from bowerbird.progress import Progress
from bowerbird.recipe import Recipe, check_recipe
from bowerbird.request import PaintRequest
from bowerbird.run_folder import model_of_run
from bowerbird.training.objectives.denoising import Denoising
from tests.conftest import tiny_recipe
from tests.training.runs import CPU, assert_same_run, run_here


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The pictures are looked at once for all of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def told(**sections: Mapping[str, object]) -> Recipe:
    return tiny_recipe(
        **{"condition": {"image_embedding": True, "image_embedding_drop": 0.25, "label": True, "label_drop": 0.5}} | sections
    )


@pytest.fixture(scope="module")
def unbroken(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_here(picture_folder, tmp_path_factory.mktemp("unbroken") / "run", told())


def test_samples_are_told_what_their_picture_shows(picture_folder: Path) -> None:
    """Its projected features in noise of the bandwidth; zeros, and no label, as often as asked."""
    pictures = open_pictures(picture_folder, 16, "crop", 0.1, 0)
    batch = Denoising(told(), pictures, CPU, "fp32").draw(0, 2000)
    embedding, label = batch.cond["image_embedding"], batch.cond["label"]
    hidden = ~embedding.any(dim=1)
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert (label == 2).float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert (label == 2)[hidden].float().mean().item() == pytest.approx(0.5, abs=0.08)  # each is dropped by itself
    shown = project(torch.from_numpy(extract(pictures.pixels, SECOND_OPINION, input_px=INPUT_PX)))[batch.pictures]
    noise = (embedding - shown)[~hidden] / BANDWIDTH
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


def test_a_stopped_run_goes_on_as_if_it_had_not(picture_folder: Path, unbroken: Path, tmp_path: Path) -> None:
    def stop(event: Progress) -> bool:
        return not (event.stage == "train" and event.done >= 40)

    with pytest.raises(Stopped):
        run_here(picture_folder, tmp_path / "run", told(), on_progress=stop)
    run_here(picture_folder, tmp_path / "run", told())
    assert_same_run(unbroken, tmp_path / "run")


def test_the_model_paints_from_what_its_training_pictures_show(picture_folder: Path, unbroken: Path) -> None:
    """The folder holds it, in the order of the training pictures; each seed is told something else."""
    pictures = open_pictures(picture_folder, 16, "crop", 0.1, 0)
    painter = open_model(unbroken, CPU)
    assert isinstance(painter, OwnPainter)
    embedding = painter.model.conditions["image_embedding"]
    assert isinstance(embedding, ImageEmbedding)
    shown = project(torch.from_numpy(extract(pictures.pixels, SECOND_OPINION, input_px=INPUT_PX)))[pictures.train]
    torch.testing.assert_close(embedding.components, shown, atol=5e-3, rtol=2e-3)
    assert embedding.labels.tolist() == pictures.labels[pictures.train].tolist()
    wanted, hidden = painter.conditions(PaintRequest(model="m", label="warm"), [1, 2])
    assert wanted["image_embedding"].shape == (2, COMPONENTS)
    assert not torch.equal(*wanted["image_embedding"])
    assert not hidden
    assert len(list(painter.paint(PaintRequest(model="m", count=3, label="warm", guidance=2.0)))) == 3


def test_what_cannot_be_is_said(unbroken: Path) -> None:
    with pytest.raises(Exception, match="transformer"):
        check_recipe({"model": {"network": "unet"}, "condition": {"image_embedding": True}})
    folder, _ = model_of_run(unbroken, "latest")
    path = folder / "image_embeddings.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="damaged"):
        open_model_folder(folder)


def test_a_part_that_is_missing_is_looked_at_and_counted(picture_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the parts, the pictures show the same; a forecast counts only what the cache lacks."""
    pictures = open_pictures(picture_folder, 16, "crop", 0.1, 0)
    whole = image_embedding.embed(pictures.pixels, CPU)
    assert ImageEmbedding.seconds(pictures, CPU) == 0
    monkeypatch.setattr(image_embedding, "PART", 25)
    assert ImageEmbedding.seconds(pictures, CPU) > 0
    torch.testing.assert_close(image_embedding.embed(pictures.pixels, CPU), whole)
    assert ImageEmbedding.seconds(pictures, CPU) == 0
