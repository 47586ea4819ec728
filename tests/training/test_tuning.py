"""Tuning models of ours: nothing changes but what should, it begins as the model, and it goes on exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from bowerbird.conditions.text import Text
from bowerbird.data.pictures import open_pictures
from bowerbird.errors import BowerbirdError, ModelError, RecipeError, RunError, Stopped
from bowerbird.generate import open_model
from bowerbird.locate import locate
from bowerbird.model_folder import Model, open_model_folder
from bowerbird.models.autoencoder import ConvAutoencoder
from bowerbird.models.upscaler import Upscaler
from bowerbird.recipe import Recipe
from bowerbird.request import PaintRequest
from bowerbird.run_folder import model_of_run, read_run_state
from bowerbird.training import train
from bowerbird.training.base import tuning_recipe
from bowerbird.training.objectives import choose_objective
from bowerbird.training.objectives.denoising import Denoising
from bowerbird.training.record import Record
from bowerbird.training.validation import WORSE_LOOKS, stops_itself
from tests.conftest import tiny_recipe
from tests.training.runs import CPU, Notes, assert_same_run, run_here

FEW = ("train.pictures=48", "train.save_every=16", "sample.count=2", "sample.every_epochs=99")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def autoencoder(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = tiny_recipe(model={"network": "autoencoder"}, autoencoder={"size": "micro", "channels": 4, "perceptual": 0.0})
    return run_here(picture_folder, tmp_path_factory.mktemp("ae") / "run", recipe)


@pytest.fixture(scope="module")
def painter(picture_folder: Path, autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On latents, from words (the names of the classes) and labels."""
    condition = {"text": True, "label": True}
    recipe = tiny_recipe(model={"autoencoder": str(autoencoder)}, transformer={"patch": 1}, condition=condition)
    return run_here(picture_folder, tmp_path_factory.mktemp("painter") / "run", recipe)


@pytest.fixture(scope="module")
def upscaler(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"size": "micro", "factor": 2, "crop": 12, "perceptual": 0.0}
    return run_here(picture_folder, tmp_path_factory.mktemp("up") / "run", tiny_recipe(model={"network": "upscaler"}, upscaler=settings))


@pytest.fixture
def warm(picture_folder: Path, tmp_path: Path) -> Path:
    """A part of the pictures, without its class: other statistics, and nothing to read."""
    folder = tmp_path / "mine"
    shutil.copytree(picture_folder / "warm", folder)
    return folder


def plan(model: Path, *settings: str) -> Recipe:
    return tuning_recipe(locate(model), [*FEW, *settings])


def opened(run: Path) -> Model:
    return open_model_folder(*model_of_run(run, "latest"))


def test_before_its_first_update_it_is_the_model(painter: Path, warm: Path) -> None:
    """Weights, scale of the latents, labels and autoencoder are the model's, whatever the new pictures are like."""
    objective = choose_objective(plan(painter), open_pictures(warm, 16), CPU, "fp32")
    assert isinstance(objective, Denoising)
    before, begun = open_model_folder(*model_of_run(painter, "best")), objective.new_model()
    assert before.denoiser is not None and begun.spec == before.denoiser.spec
    for name, tensor in before.denoiser.state_dict().items():
        assert torch.equal(tensor, begun.state_dict()[name])
    assert objective.space.scale == before.space.scale
    own = objective.space.autoencoder.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in before.space.autoencoder.state_dict().items())
    assert objective.conditions["label"].settings() == before.conditions["label"].settings()


def test_a_tuned_painter_keeps_what_it_knows_and_moves(painter: Path, picture_folder: Path, tmp_path: Path) -> None:
    run = run_here(picture_folder, tmp_path / "run", plan(painter))
    before, after = open_model_folder(*model_of_run(painter, "best")), opened(run)
    assert before.denoiser is not None and after.denoiser is not None
    moved = [not torch.equal(t, after.denoiser.state_dict()[name]) for name, t in before.denoiser.state_dict().items()]
    assert any(moved) and after.space.scale == before.space.scale
    told = after.about.training["recipe"]
    assert told["tune"]["model"] == str(painter) and told["train"]["lr"] == pytest.approx(0.2 * 1e-3)
    assert len(list(open_model(run, CPU).paint(PaintRequest(model=str(run), prompt="warm", count=2, seed=1)))) == 2


def test_what_a_gpu_learnt_is_tuned_on_a_laptop() -> None:
    """The starter saw 512 pictures an update; at 32 the rate falls with the square root, besides being a fifth."""
    own = open_model_folder(locate("starter").path).about.training["recipe"]["train"]
    tuned = tuning_recipe(locate("starter"), []).train
    assert own["batch"] == 512 and tuned.batch == 32
    assert tuned.lr == pytest.approx(0.2 * own["lr"] * (32 / 512) ** 0.5)


def test_a_model_of_words_is_tuned_on_pictures_without(painter: Path, warm: Path, tmp_path: Path) -> None:
    """It says so; every word it knew is known still, and none is learnt."""
    notes = Notes()
    run = run_here(warm, tmp_path / "run", plan(painter), on_progress=notes)
    assert any("neither captions nor classes" in each for each in notes)
    before, after = (model.conditions["text"] for model in (open_model_folder(*model_of_run(painter, "best")), opened(run)))
    assert isinstance(before, Text) and isinstance(after, Text) and torch.equal(before.seen, after.seen)


def test_a_class_the_model_has_not_is_said(painter: Path, picture_folder: Path, tmp_path: Path) -> None:
    for new, old in (("tepid", "cold"), ("warm", "warm")):
        shutil.copytree(picture_folder / old, tmp_path / "mine" / new)
    notes = Notes()
    objective = choose_objective(plan(painter, "condition.label_drop=0"), open_pictures(tmp_path / "mine", 16), CPU, "fp32", notes)
    assert any("no class 'tepid'" in each for each in notes)
    batch = objective.draw(0, 32)
    cond = batch.cond  # type: ignore[attr-defined]
    own = [objective.pictures.label_names[objective.pictures.labels[row]] for row in batch.pictures]  # type: ignore[attr-defined]
    assert {(name, int(label)) for name, label in zip(own, cond["label"], strict=True)} == {("warm", 1), ("tepid", 2)}  # 2: none


def test_of_an_autoencoder_the_decoder_moves_alone(autoencoder: Path, warm: Path, tmp_path: Path) -> None:
    """So the latents of every picture, and models that paint them, stay what they were."""
    run = run_here(warm, tmp_path / "run", plan(autoencoder))
    before, after = open_model_folder(*model_of_run(autoencoder, "best")).network, opened(run).network
    assert isinstance(before, ConvAutoencoder) and isinstance(after, ConvAutoencoder)
    pictures = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(before.encode(pictures)[0], after.encode(pictures)[0])
        assert not torch.equal(before.decode(before.encode(pictures)[0]), after.decode(after.encode(pictures)[0]))


def test_an_upscaler_is_tuned_from_where_it_was(upscaler: Path, warm: Path, tmp_path: Path) -> None:
    before = open_model_folder(*model_of_run(upscaler, "best")).network
    begun = choose_objective(plan(upscaler), open_pictures(warm, 16), CPU, "fp32").new_model()
    assert all(torch.equal(t, begun.state_dict()[name]) for name, t in before.state_dict().items())
    after = opened(run_here(warm, tmp_path / "run", plan(upscaler))).network
    assert isinstance(after, Upscaler)
    assert any(not torch.equal(t, after.state_dict()[name]) for name, t in before.state_dict().items())


def test_stopped_and_resumed_equals_unbroken(painter: Path, picture_folder: Path, tmp_path: Path) -> None:
    whole = run_here(picture_folder, tmp_path / "whole", plan(painter))
    with pytest.raises(Stopped):
        run_here(
            picture_folder, tmp_path / "run", plan(painter), on_progress=lambda event: not (event.stage == "train" and event.done >= 24)
        )
    assert_same_run(whole, run_here(picture_folder, tmp_path / "run", plan(painter)))


def test_a_run_that_only_grows_worse_stops_itself(painter: Path, picture_folder: Path, tmp_path: Path) -> None:
    """After five looks in a row that are worse than the best; the best stands, and one that was resumed ends at the same picture."""
    recipe = plan(painter, "train.lr=0.1", "train.pictures=4000", "train.save_every=40", "sample.every_epochs=1", "data.held_out=0.3")
    notes = Notes()
    whole = run_here(picture_folder, tmp_path / "whole", recipe, on_progress=notes)
    looks = [line for line in Record(whole / "metrics.jsonl").lines() if "held_out" in line]
    assert [line["best"] for line in looks][-WORSE_LOOKS - 1 :] == [True] + WORSE_LOOKS * [False]
    assert looks[-1]["seen"] < 1000 and read_run_state(whole).finished
    assert "It stopped itself" in notes[-1] and "It stopped itself" in (whole / "report.html").read_text()
    best = max(line["seen"] for line in looks if line["best"])
    assert model_of_run(whole)[0].name == f"{best:010d}"
    with pytest.raises(Stopped):
        halfway = looks[-3]["seen"]
        run_here(picture_folder, tmp_path / "run", recipe, on_progress=lambda event: not (event.stage == "train" and event.done >= halfway))
    assert_same_run(whole, run_here(picture_folder, tmp_path / "run", recipe))
    assert model_of_run(tmp_path / "run", "latest")[0].name == model_of_run(whole, "latest")[0].name


def test_when_a_run_stops_itself() -> None:
    """Five looks worse in a row, no fewer; one that a kill made it take twice counts once; a run that begins with nothing goes on."""

    def stops(*best: bool, tuned: str = "starter", twice: int = 0) -> bool:
        lines = [{"seen": seen, "held_out": 1.0, "best": title} for seen, title in enumerate(best)]
        return stops_itself(tiny_recipe(tune={"model": tuned}), [*lines, *[lines[-1]] * twice])

    worse = [False] * WORSE_LOOKS
    assert stops(True, *worse) and stops(True, False, True, *worse)
    assert not stops(True, *worse[1:]) and not stops(True, *worse[1:], twice=3)
    assert not stops(True, False, False, True, *worse[1:]) and not stops(True, *worse, tuned="")


def test_what_cannot_be_is_one_sentence(painter: Path, upscaler: Path, picture_folder: Path, tmp_path: Path) -> None:
    def refused(kind: type[BowerbirdError], words: str, source: Path, out: str, recipe: Recipe) -> None:
        with pytest.raises(kind, match=words):
            train(source, tmp_path / out, recipe, device=CPU)

    larger = plan(painter, "data.size=32")
    refused(RecipeError, "tuned at the size it paints: leave data.size out, or set it to 16", picture_folder, "a", larger)
    run = run_here(picture_folder, tmp_path / "run", plan(painter))
    copy = tmp_path / "copy"
    shutil.copytree(model_of_run(painter, "best")[0], copy)
    refused(RunError, "another recipe: tune.model differ", picture_folder, "run", plan(copy))
    assert run.is_dir()


def test_a_model_that_does_not_say_how_it_was_made(upscaler: Path, tmp_path: Path) -> None:
    place = locate(upscaler)
    assert place.manifest is not None
    silent = place.manifest.model_copy(update={"training": {}})
    with pytest.raises(ModelError, match=r"by which recipe it was trained.*--init"):
        tuning_recipe(type(place)(place.where, place.path, place.what, silent), [])


@pytest.mark.parametrize("name", ["starter", "autoencoder-8x", "upscaler-4x"])
def test_what_comes_with_the_project_can_be_tuned(name: str) -> None:
    recipe = tuning_recipe(locate(name), [])
    assert recipe.name.endswith("-tuned") and json.loads(recipe.model_dump_json())["tune"]["model"] == name
