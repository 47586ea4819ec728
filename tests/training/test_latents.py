"""Autoencoders in the loop, and models that learn on their latents."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bowerbird.data.pictures import open_pictures
from bowerbird.errors import ModelError, RecipeError, RunError, Stopped
from bowerbird.generate import open_autoencoder, open_model
from bowerbird.painter import OwnPainter
from bowerbird.pixels import Pixels, to_x0
from bowerbird.recipe import Recipe
from bowerbird.request import PaintRequest
from bowerbird.run_folder import read_run_state
from bowerbird.training import Budget, forecast, latents
from bowerbird.training.latents import LatentSamples, LatentStore
from bowerbird.training.objectives.autoencoding import feature_distance, kl_to_normal, pixel_error
from bowerbird.training.record import Record
from tests.conftest import tiny_recipe
from tests.training.runs import CPU, assert_same_run, run_here


def autoencoder_recipe(**train: object) -> Recipe:
    return tiny_recipe(model={"network": "autoencoder"}, autoencoder={"size": "micro", "channels": 4, "perceptual": 0.0}, train=train)


def latent_recipe(autoencoder: Path, **sections: dict[str, object]) -> Recipe:
    return tiny_recipe(model={"autoencoder": str(autoencoder)}, transformer={"patch": 1}, **sections)


@pytest.fixture(scope="module")
def autoencoder(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_here(picture_folder, tmp_path_factory.mktemp("ae") / "run", autoencoder_recipe())


def opened(pictures: Path, recipe: Recipe) -> LatentSamples:
    store = LatentStore(recipe, open_autoencoder(recipe.model.autoencoder, CPU), CPU)
    return LatentSamples(store, open_pictures(pictures, 16))


def rows_of(samples: LatentSamples, chosen: Sequence[int]) -> latents.Rows:
    rows, numbers = samples.rows_of(np.array(chosen))
    return rows[numbers]


def test_an_autoencoder_learns_to_restore(picture_folder: Path, tmp_path: Path) -> None:
    run = run_here(picture_folder, tmp_path / "run", autoencoder_recipe(pictures=1600, lr=5e-3, save_every=10_000))
    losses = [line["loss"] for line in Record(run / "metrics.jsonl").lines() if "loss" in line]
    assert np.mean(losses[-20:]) < np.mean(losses[:5]) / 2


def test_a_run_on_latents_goes_on_as_if_it_had_not_stopped(picture_folder: Path, tmp_path: Path, autoencoder: Path) -> None:
    recipe = latent_recipe(autoencoder)
    run_here(picture_folder, tmp_path / "whole", recipe)
    with pytest.raises(Stopped):
        run_here(picture_folder, tmp_path / "stopped", recipe, on_progress=lambda event: not (event.stage == "train" and event.done >= 40))
    run_here(picture_folder, tmp_path / "stopped", recipe)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_latent_model_paints_pictures_through_the_autoencoder_beside_it(picture_folder: Path, tmp_path: Path, autoencoder: Path) -> None:
    """Its folder is whole: it paints the same when the autoencoder it learnt on is gone."""
    copy = shutil.copytree(autoencoder, tmp_path / "copy")
    run = run_here(picture_folder, tmp_path / "run", latent_recipe(copy))
    request = PaintRequest(model="m", seed=1, count=2)
    before = [np.asarray(painted.picture) for painted in open_model(run, CPU).paint(request)]
    shutil.rmtree(copy)
    painter = open_model(run, CPU)
    assert isinstance(painter, OwnPainter) and painter.denoiser.spec.sample_shape == (4, 2, 2)
    after = [np.asarray(painted.picture) for painted in painter.paint(request)]
    assert before[0].shape == (16, 16, 3)
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_latents_are_what_the_autoencoder_says_of_every_picture_and_its_mirror_image(picture_folder: Path, autoencoder: Path) -> None:
    samples, pictures = opened(picture_folder, latent_recipe(autoencoder)), open_pictures(picture_folder, 16)
    encode = open_autoencoder(autoencoder, CPU).encode
    for picture in (0, 31, 59):
        x0 = to_x0(pictures.pixels[[picture]])
        for side, shown in enumerate((x0, x0.flip(-1))):
            stored = torch.from_numpy(rows_of(samples, [picture])[0, side].astype(np.float32))
            torch.testing.assert_close(stored, torch.cat(encode(shown)), rtol=1e-3, atol=1e-3)  # half precision


def test_drawn_latents_have_mean_0_and_deviation_1(picture_folder: Path, autoencoder: Path) -> None:
    """The scale is that of the draws over training pictures, both sides and the spread of each picture's Gaussian included."""
    samples, train = opened(picture_folder, latent_recipe(autoencoder)), open_pictures(picture_folder, 16).train
    drawn = samples.drawn(np.repeat(train, 200), np.arange(200 * len(train)))
    assert drawn.mean((0, 2, 3)).abs().max() < 0.05
    torch.testing.assert_close(drawn.std((0, 2, 3)), torch.ones(4), atol=0.05, rtol=0)


def encoded_counts(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> list[int]:
    """How many pictures each encoding from now on took; each lasts `seconds` longer."""
    counts, sound = list[int](), LatentStore._rows_of

    def counted(store: LatentStore, pixels: Pixels) -> latents.Rows:
        counts.append(len(pixels))
        time.sleep(seconds)
        return sound(store, pixels)

    monkeypatch.setattr(LatentStore, "_rows_of", counted)
    return counts


def test_a_second_run_encodes_nothing_and_a_changed_picture_alone_is_encoded(
    picture_folder: Path, tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(picture_folder, tmp_path / "pictures")
    encoded = encoded_counts(monkeypatch)
    monkeypatch.setenv("BOWERBIRD_CACHE", str(tmp_path / "cache"))
    recipe = latent_recipe(autoencoder)
    first = opened(folder, recipe)
    assert sum(encoded) == 60
    opened(folder, recipe)
    assert sum(encoded) == 60
    victim = sorted(folder.rglob("*.png"))[7]
    Image.fromarray(255 - np.asarray(Image.open(victim))).save(victim)
    changed = opened(folder, recipe)
    assert sum(encoded) == 61
    same = [i for i in range(60) if i != 7]
    assert np.array_equal(rows_of(first, same), rows_of(changed, same))
    assert not np.array_equal(rows_of(first, [7]), rows_of(changed, [7]))


def test_an_encoding_that_was_killed_goes_on(
    picture_folder: Path, tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever half row or half line the kill left behind."""
    recipe = latent_recipe(autoencoder)
    monkeypatch.setattr(latents, "CHUNK_PIXELS", 10 * 16 * 16)
    monkeypatch.setenv("BOWERBIRD_CACHE", str(tmp_path / "unbroken"))
    whole = opened(picture_folder, recipe)
    monkeypatch.setenv("BOWERBIRD_CACHE", str(tmp_path / "cache"))
    sound, calls = LatentStore._rows_of, []

    def dies(store: LatentStore, pixels: Pixels) -> latents.Rows:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sound(store, pixels)

    monkeypatch.setattr(LatentStore, "_rows_of", dies)
    with pytest.raises(KeyboardInterrupt):
        opened(picture_folder, recipe)
    (data,) = (tmp_path / "cache").rglob("latents.f16")
    with data.open("ab") as file:
        file.write(b"half a row")
    with (data.parent / "contents.txt").open("ab") as file:
        file.write(b"half a line")
    resumed = opened(picture_folder, recipe)
    assert len(calls) == 3 + 4
    assert np.array_equal(rows_of(whole, range(60)), rows_of(resumed, range(60)))


def test_another_autoencoder_is_another_run(picture_folder: Path, tmp_path: Path, autoencoder: Path) -> None:
    own = shutil.copytree(autoencoder, tmp_path / "own")
    run_here(picture_folder, tmp_path / "run", latent_recipe(own))
    shutil.rmtree(own)
    run_here(picture_folder, own, autoencoder_recipe(lr=2e-3))
    with pytest.raises(RunError, match="autoencoder"):
        run_here(picture_folder, tmp_path / "run", latent_recipe(own, train={"pictures": 128}))


def test_a_forecast_encodes_few_pictures_and_counts_the_others(
    picture_folder: Path, tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = encoded_counts(monkeypatch, seconds=0.5)
    monkeypatch.setenv("BOWERBIRD_CACHE", str(tmp_path / "cache"))
    plan = forecast(picture_folder, latent_recipe(autoencoder), Budget(), device=CPU)
    assert sum(encoded) <= 2 * 8 + 6 + 1  # two batches, the held-out ones, one to measure
    assert plan.hours * 3600 > (60 - 22) * 0.5
    assert plan.flops_per_picture > 0


def test_what_cannot_be_is_said(picture_folder: Path, tmp_path: Path, autoencoder: Path) -> None:
    with pytest.raises(RecipeError, match="patch"):
        run_here(picture_folder, tmp_path / "a", tiny_recipe(model={"autoencoder": str(autoencoder)}, transformer={"patch": 4}))
    with pytest.raises(RecipeError, match="factor"):
        run_here(picture_folder, tmp_path / "b", latent_recipe(autoencoder, data={"size": 20}))
    with pytest.raises(ModelError, match="paints nothing by itself"):
        open_model(autoencoder, CPU)
    run = run_here(picture_folder, tmp_path / "c", tiny_recipe(train={"pictures": 8}))
    with pytest.raises(ModelError, match="no autoencoder"):
        run_here(picture_folder, tmp_path / "d", latent_recipe(run))


def test_a_run_begins_with_the_weights_of_a_lower_rung(picture_folder: Path, tmp_path: Path) -> None:
    """--init: what fits is taken over; the first average is then the lower rung's, and a model that shares nothing is refused."""
    lower = run_here(picture_folder, tmp_path / "lower", tiny_recipe())
    higher = tiny_recipe(data={"size": 32}, train={"pictures": 8, "lr": 1e-12, "init": str(lower)})
    run = run_here(picture_folder, tmp_path / "higher", higher)
    before, after = (open_model(where, CPU).denoiser.state_dict() for where in (f"{lower}@best", run))  # type: ignore[attr-defined]
    assert all(torch.allclose(before[name], after[name]) for name in before)
    with pytest.raises(ModelError, match="no weights"):
        other = tiny_recipe(model={"network": "unet"}, unet={"size": "micro"}, train={"init": str(lower)})
        run_here(picture_folder, tmp_path / "other", other)
    assert read_run_state(tmp_path / "other").checkpoint is None


def test_losses_of_what_is_alike_are_0_and_the_divergence_is_the_closed_form() -> None:
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(pixel_error(x, x), torch.zeros(2))
    torch.testing.assert_close(pixel_error(x + 0.5, x), torch.full((2,), 0.5))  # a shift is the same at every scale
    assert feature_distance([x], [x]).abs().max() == 0
    torch.testing.assert_close(feature_distance([3 * x], [x]), torch.zeros(2))  # of directions, not of lengths
    mean, variance = torch.tensor(0.7), torch.tensor(0.3)
    exact = torch.distributions.kl_divergence(torch.distributions.Normal(mean, variance.sqrt()), torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_normal(mean.expand(1, 4, 2, 2), variance.log().expand(1, 4, 2, 2)), exact[None])
