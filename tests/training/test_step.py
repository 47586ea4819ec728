"""One update, and what surrounds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bowerbird.data.pictures import open_pictures
from bowerbird.describing import pictures_of
from bowerbird.errors import RunError, Stopped
from bowerbird.models.conditioning import rows
from bowerbird.recipe import Train, read_recipe
from bowerbird.run_folder import model_of_run, read_run_state
from bowerbird.training.batches import Batch, level_draws
from bowerbird.training.build import build_denoiser
from bowerbird.training.grid import Grid, count_copies, painted_grid
from bowerbird.training.loop import clip_gradients
from bowerbird.training.objectives.denoising import Denoising
from bowerbird.training.optimizer import Ema, decay_start, ema_exponent, learning_rate, make_optimizers
from bowerbird.training.record import Record
from bowerbird.training.report import verdict
from bowerbird.training.snapshot import snapshot_every
from bowerbird.training.validation import looked_at
from tests.conftest import tiny_recipe
from tests.training.runs import CPU, assert_same_run, final_tensors, run_here


def test_accumulated_gradients_are_those_of_the_whole_batch(picture_folder: Path, tmp_path: Path) -> None:
    """2 x 4 = 1 x 8: the same samples have the same noise, however they are cut.  Sums in another order differ in rounding."""
    run_here(picture_folder, tmp_path / "whole", tiny_recipe())
    run_here(picture_folder, tmp_path / "parts", tiny_recipe(train={"micro_batch": 4}))
    whole, parts = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "parts")
    for name in whole:
        if name.startswith("weights"):
            torch.testing.assert_close(whole[name], parts[name], atol=2e-4, rtol=1e-3)


def test_a_sample_is_the_same_in_any_batch(picture_folder: Path) -> None:
    recipe = tiny_recipe(condition={"label": True})
    pictures = open_pictures(picture_folder, 16, "crop", 0.1, 0)
    objective = Denoising(recipe, pictures, CPU, "fp32")
    whole, part = objective.draw(0, 100), objective.draw(60, 70)
    for name in ("x0", "eps", "sigma"):
        assert torch.equal(getattr(whole, name)[60:70], getattr(part, name))
    assert torch.equal(rows(whole.cond, slice(60, 70))["label"], part.cond["label"])


def test_labels_are_dropped_as_often_as_asked(picture_folder: Path) -> None:
    recipe = tiny_recipe(condition={"label": True, "label_drop": 0.25})
    pictures = open_pictures(picture_folder, 16, "crop", 0.1, 0)
    batch = Denoising(recipe, pictures, CPU, "fp32").draw(0, 2000)
    assert (batch.cond["label"] == 2).float().mean().item() == pytest.approx(0.25, abs=0.04)


def test_noise_levels_cover_every_run_of_samples_evenly() -> None:
    """Any 64 consecutive draws fill (0, 1) with no gap wider than three even steps; independent draws leave gaps twice as wide."""
    for start in (0, 17, 10_000_019):
        u = np.sort(level_draws(0, np.arange(start, start + 64)))
        assert np.diff(u, prepend=0, append=1).max() < 3 / 64


def test_the_learning_rate_rises_stays_and_falls() -> None:
    settings = Train(pictures=1000, batch=10, lr=1.0, warmup=100, decay=0.2)
    rates = [learning_rate(settings, seen) for seen in range(0, 1000, 10)]
    assert rates[:10] == pytest.approx(np.linspace(0.1, 1, 10))
    assert set(rates[10:81]) == {1.0}
    assert rates[80:] == pytest.approx(np.linspace(1, 0.05, 20))
    assert learning_rate(settings, 1000) == learning_rate(settings, 5000) == 0
    assert decay_start(settings) == 800


@pytest.mark.parametrize("width", [0.05, 0.10, 0.25])
def test_the_average_is_as_wide_as_its_name(width: float) -> None:
    """Feed the step number as the weight: mean and standard deviation of the averaging are then read off directly."""
    model = build_denoiser(tiny_recipe(), (3, 16, 16))
    model.network = torch.nn.ParameterDict({"t": torch.zeros(1), "t2": torch.zeros(1)})
    ema, steps = Ema(model, width), 2000
    for step in range(1, steps + 1):
        with torch.no_grad():
            model.network["t"].fill_(step / steps)
            model.network["t2"].fill_((step / steps) ** 2)
        ema.update(model, step)
    mean, square = (float(getattr(ema.model.network, name)) for name in ("t", "t2"))
    assert (square - mean**2) ** 0.5 == pytest.approx(width, rel=0.02)


def test_the_average_of_constants_is_constant() -> None:
    model = build_denoiser(tiny_recipe(), (3, 16, 16))
    ema = Ema(model, 0.1)
    for step in range(1, 20):
        ema.update(model, step)
    assert all(torch.equal(a, b) for a, b in zip(ema.model.parameters(), model.parameters(), strict=True))


def test_ema_exponents_of_the_paper() -> None:
    """EDM2, section 3.1: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94."""
    assert ema_exponent(0.05) == pytest.approx(16.97, abs=0.01)
    assert ema_exponent(0.10) == pytest.approx(6.94, abs=0.01)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizer_settings_arrive_as_written(name: str) -> None:
    settings = Train(optimizer=name, lr=0.123, betas=(0.8, 0.95), weight_decay=0.07)
    model = build_denoiser(tiny_recipe(), (3, 16, 16))
    optimizers = make_optimizers(settings, model)
    parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    assert len(parameters) == len({id(p) for p in parameters}) == len(list(model.parameters()))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            assert (group["lr"], group["weight_decay"]) == (0.123, 0.07)
            assert group.get("betas", (0.8, 0.95)) == (0.8, 0.95)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_one_picture_can_be_learnt(picture_folder: Path, tmp_path: Path, optimizer: str) -> None:
    """Overfitting is the least a training loop must be able to do."""
    folder = tmp_path / "one"
    folder.mkdir()
    source = next(picture_folder.rglob("*.png"))
    (folder / source.name).write_bytes(source.read_bytes())
    recipe = tiny_recipe(
        data={"flip": False},
        train={"pictures": 800, "lr": 5e-3, "optimizer": optimizer, "save_every": 10_000},
        sample={"every_epochs": 800},
    )
    run_here(folder, tmp_path / "run", recipe)
    losses = [line["loss"] for line in Record(tmp_path / "run" / "metrics.jsonl").lines() if "loss" in line]
    assert np.mean(losses[-10:]) < np.mean(losses[:5]) / 10


def test_updates_that_are_not_finite_are_skipped_named_and_give_up(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad loss is skipped and the weights stay; three in a row stop, and the last checkpoint is still good."""
    sound, bad = Denoising.losses, {"steps": {3}}

    def sometimes_nan(objective: Denoising, model: torch.nn.Module, batch: Batch, rows: slice) -> torch.Tensor:
        losses = sound(objective, model, batch, rows)
        return losses * float("nan") if batch.first // len(batch) in bad["steps"] else losses

    monkeypatch.setattr(Denoising, "losses", sometimes_nan)
    run_here(picture_folder, tmp_path / "one", tiny_recipe())
    skipped = [line for line in Record(tmp_path / "one" / "metrics.jsonl").lines() if line.get("skipped")]
    assert len(skipped) == 1 and all(name.endswith(".png") for name in skipped[0]["skipped"])
    assert all(torch.isfinite(t).all() for t in final_tensors(tmp_path / "one").values())

    bad["steps"] = {5, 6, 7}
    with pytest.raises(RunError, match="not finite"):
        run_here(picture_folder, tmp_path / "three", tiny_recipe())
    assert all(torch.isfinite(t).all() for t in final_tensors(tmp_path / "three").values())


def test_a_run_leaves_everything_people_look_at(picture_folder: Path, tmp_path: Path) -> None:
    run = run_here(picture_folder, tmp_path / "run", tiny_recipe())
    assert pictures_of(run).samefile(picture_folder)
    for name in ("recipe.toml", "data.json", "metrics.jsonl", "progress.gif", "report.html", "curves.png", "tensorboard", "samples"):
        assert (run / name).exists(), name
    state = read_run_state(run)
    assert {state.best, state.latest} == {p.name for p in (run / "models").iterdir()}
    model_of_run(run)  # whole
    assert len(list((run / "checkpoints").iterdir())) <= 3


def test_sampling_and_validation_leave_no_trace(picture_folder: Path, tmp_path: Path) -> None:
    """Twice as many snapshots, the same weights."""
    run_here(picture_folder, tmp_path / "often", tiny_recipe(sample={"every_epochs": 1, "count": 4, "steps": 2}))
    run_here(picture_folder, tmp_path / "seldom", tiny_recipe(sample={"every_epochs": 100, "count": 2, "steps": 1}))
    often, seldom = final_tensors(tmp_path / "often"), final_tensors(tmp_path / "seldom")
    assert all(torch.equal(often[name], seldom[name]) for name in often)


def test_the_literatures_recipe_is_diffusers_example() -> None:
    """The published walk: its optimizer and network, as the example script has them."""
    recipe = read_recipe("pixel-64-ddpm")
    assert (recipe.train.lr, recipe.train.betas, recipe.train.weight_decay, recipe.train.batch) == (1e-4, (0.95, 0.999), 1e-6, 16)
    parameters = sum(p.numel() for p in build_denoiser(recipe, (3, 64, 64)).parameters())
    assert parameters == 113_673_219


def test_a_gradient_is_shortened_only_where_it_is_too_long() -> None:
    """To the length asked for, in its own direction; and not a bit is moved of one that is shorter, or that is not finite."""
    layer = torch.nn.Linear(3, 2)
    for scale in (0.01, 100.0, float("nan")):
        layer.weight.grad, layer.bias.grad = scale * torch.ones(2, 3), scale * torch.ones(2)
        norm = clip_gradients(layer, 1.0)
        assert torch.allclose(norm, torch.tensor(scale * 8**0.5), equal_nan=True)
        expected = 8**-0.5 if scale == 100.0 else scale
        assert torch.allclose(layer.weight.grad, torch.full((2, 3), expected), equal_nan=True)


def test_a_run_that_stops_early_leaves_a_model(picture_folder: Path, tmp_path: Path) -> None:
    """Wherever there is a checkpoint there is something to paint with, and going on changes nothing: the next grid is scored as ever."""
    with pytest.raises(Stopped):
        run_here(
            picture_folder, tmp_path / "run", tiny_recipe(), on_progress=lambda event: not (event.stage == "train" and event.done >= 16)
        )
    folder, manifest = model_of_run(tmp_path / "run")
    assert folder.name == "0000000016" and manifest.training["pictures_seen"] == 16
    run_here(picture_folder, tmp_path / "run", tiny_recipe())
    run_here(picture_folder, tmp_path / "whole", tiny_recipe())
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert model_of_run(tmp_path / "run")[0].name == model_of_run(tmp_path / "whole")[0].name


def test_grids_take_their_share_of_the_work() -> None:
    """16 pictures in 10 guided steps are 320 passes, as many as 107 pictures of training: a tenth of what lies between two grids."""
    recipe = tiny_recipe(sample={"every_epochs": 10, "count": 16, "steps": 10, "guidance": 4.0})
    assert snapshot_every(recipe, 1000) == 10_000
    for epoch in (1, 20, 50, 106):
        every = snapshot_every(recipe, epoch)
        assert every % epoch == 0 and 320 / (3 * every) <= 0.1 < 320 / (3 * (every - epoch))


def test_looks_take_their_share_of_the_work() -> None:
    """The two looks that every run takes, at eight levels, are a tenth of its passes at most; a long run looks at all that tell more."""
    held = np.arange(1000)
    for pictures in (2_000, 5_000, 10_000):
        shown = looked_at(held, tiny_recipe(train={"pictures": pictures}), 8)
        assert 0.09 < 2 * 8 * len(shown) / (3 * pictures) <= 0.1 and len(set(shown.tolist())) == len(shown)
    assert len(looked_at(held, tiny_recipe(train={"pictures": 10**6}), 8)) == 256
    assert len(looked_at(held, tiny_recipe(train={"pictures": 10}), 8)) == 32 and len(looked_at(held[:5], tiny_recipe(), 8)) == 5


def test_a_run_that_is_no_better_than_its_start_says_so() -> None:
    scores, begun = (
        [{"seen": seen, "held_out": score} for seen, score in enumerate((1.0, 1.1, 1.05))],
        tiny_recipe(train={"init": "starter"}),
    )
    assert "No better yet than starter" in verdict(scores, begun) and "Train longer" in verdict(scores, begun)
    assert "No better" not in verdict(scores, tiny_recipe())
    assert "Still learning" in verdict([*scores, {"seen": 3, "held_out": 0.9}], begun)


def test_copies_in_the_grid_are_told(picture_folder: Path, tmp_path: Path) -> None:
    """Of eight pictures four come from the training set, two of them mirrored; the others are noise."""
    pictures = open_pictures(picture_folder, 16, "crop", 0.1, 0)
    known = pictures.pixels[pictures.train[:4]].copy()
    known[2:] = known[2:, :, ::-1]
    new = np.random.default_rng(0).integers(0, 256, known.shape, dtype=np.uint8)
    found = count_copies(painted_grid(np.concatenate([known, new])), pictures)
    assert (found["painted"], found["copied"], found["unseen"]) == (8, 4, len(pictures.held))
    assert count_copies(Grid(b"", None), pictures) == {}  # reconstructions are to be like what they are made from
    run_here(picture_folder, tmp_path / "run", tiny_recipe())
    said = verdict(Record(tmp_path / "run" / "metrics.jsonl").lines(), tiny_recipe())
    assert "Of the 4 pictures in the grid 0 look like copies of training pictures (of 6 real ones it never saw, " in said
    assert said in (tmp_path / "run" / "report.html").read_text()
