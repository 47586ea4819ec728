"""Hours become pictures once, before the first step, and asking what a run will cost does not change it.  No test reads a clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bowerbird import hardware
from bowerbird.data.pictures import open_pictures
from bowerbird.errors import ResourceError, Stopped
from bowerbird.recipe import Recipe, read_recipe
from bowerbird.run_folder import read_run_state
from bowerbird.training import Budget, budget, forecast
from bowerbird.training import memory as memory_module
from bowerbird.training.budget import Forecast, Pace, Watch, frozen_length, of_length, promise
from bowerbird.training.checkpoint import read_provenance
from bowerbird.training.memory import Memory, kept_bytes, measure_memory
from bowerbird.training.resume import start_or_resume
from bowerbird.training.run import Run
from tests.conftest import tiny_recipe
from tests.training.runs import CPU, assert_same_run, new_setup, run_here

PACE = Pace(update=0.5, snapshot=7.0, look=0.1, save=2.0, log=0.001)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration of a few updates; how well it was timed does not matter here."""
    monkeypatch.setattr(budget, "CALIBRATION_SECONDS", 0.01)
    monkeypatch.setattr(budget, "CALIBRATION_SHARE", 0.0)


@pytest.fixture
def run(picture_folder: Path, tmp_path: Path) -> Run:
    pictures = open_pictures(picture_folder, 16, "crop", 0.1, 0)
    (tmp_path / "trial").mkdir()
    run = start_or_resume(new_setup(tmp_path / "trial", tiny_recipe(), pictures))
    assert run is not None
    return run


@pytest.mark.parametrize("seconds", [60, 1000, 3600 * 24])
@pytest.mark.parametrize("recipe", [tiny_recipe(), read_recipe("pixel-64")], ids=["tiny", "pixel-64"])
def test_time_to_pictures_and_back(recipe: Recipe, seconds: int, picture_folder: Path) -> None:
    """The pictures bought fit into the time, and a little more time is not enough for much more: snapshots come in lumps."""
    whole = replace(open_pictures(picture_folder, 16, "crop", 0.1, 0), train=np.arange(1000), held=np.arange(300))
    pictures = PACE.pictures(seconds, recipe, whole, 8)
    assert pictures % recipe.train.batch == 0
    assert PACE.seconds(of_length(recipe, pictures), whole, 8) <= seconds
    assert PACE.seconds(of_length(recipe, pictures + 2 * recipe.train.batch), whole, 8) > seconds - 2 * (PACE.snapshot + 300 * PACE.look)


def test_a_forecast_changes_nothing(picture_folder: Path, tmp_path: Path) -> None:
    """A run that began with a forecast is bit for bit the run that did not, and the global random state is left as it was."""
    run_here(picture_folder, tmp_path / "without", tiny_recipe())
    run_here(picture_folder, tmp_path / "with", tiny_recipe(), budget=Budget(price_per_hour=2.0))
    assert_same_run(tmp_path / "without", tmp_path / "with")
    assert not list((tmp_path / "with").glob(".tmp-*"))

    before = torch.get_rng_state()
    forecast(picture_folder, tiny_recipe(), Budget(), device=CPU)
    assert torch.equal(before, torch.get_rng_state())


def test_hours_are_frozen_into_pictures(picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same hours find the same number of pictures in the run, though the machine is another by then."""
    buys = iter([160, 9999])
    monkeypatch.setattr(Pace, "pictures", lambda *_: next(buys))

    def stop(event: object) -> bool:
        return getattr(event, "stage", "") != "train"

    with pytest.raises(Stopped):
        run_here(picture_folder, tmp_path, tiny_recipe(), budget=Budget(hours=1.0), on_progress=stop)
    assert frozen_length(tmp_path, 1.0) == 160
    assert frozen_length(tmp_path, 2.0) is None
    run_here(picture_folder, tmp_path, tiny_recipe(), budget=Budget(hours=1.0))
    state = read_run_state(tmp_path)
    assert state.finished and str(state.checkpoint).startswith("0000000160")
    assert read_provenance(tmp_path / "checkpoints" / str(state.checkpoint))["recipe"]["train"]["pictures"] == 160


def test_cost_is_hours_times_price(picture_folder: Path) -> None:
    plan = forecast(picture_folder, tiny_recipe(), Budget(price_per_hour=3.0), device=CPU)
    assert plan.cost == pytest.approx(3 * plan.hours)
    assert plan.pictures == tiny_recipe().train.pictures  # a forecast of pictures does not choose them
    assert forecast(picture_folder, tiny_recipe(), Budget(), device=CPU).cost is None


def test_what_a_forward_pass_keeps_grows_with_its_pictures(run: Run) -> None:
    """Every picture keeps the same: two measurements tell of any number."""
    memory = measure_memory(run)
    assert memory.per_picture > 0
    assert memory.fixed + 8 * memory.per_picture == pytest.approx(kept_bytes(run, 8), rel=0.02)


def test_more_than_there_is_says_what_to_change(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = replace(measure_memory(run), save=0)
    monkeypatch.setattr(memory_module, "measure_memory", lambda _: memory)
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda _: memory.peak(4, gradients_wait=True))
    with pytest.raises(ResourceError, match=r"train\.micro_batch=4"):
        memory_module.require_memory(run)
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda _: 1)
    with pytest.raises(ResourceError, match=r"smaller network"):
        memory_module.require_memory(run)


def test_memory_peaks_in_an_update_or_in_a_save() -> None:
    """Gradients come while what was kept goes, so one of the two is small when the other is not, unless they wait for more."""
    assert 120 <= Memory(weights=10, fixed=0, per_picture=100, save=50).peak(1, gradients_wait=False) < 130
    assert 130 <= Memory(weights=10, fixed=0, per_picture=100, save=50).peak(1, gradients_wait=True) < 140
    assert Memory(weights=10, fixed=0, per_picture=1, save=50).peak(1, gradients_wait=False) == 50


@pytest.mark.parametrize(("slowness", "first", "said_at"), [(2.0, 0, [5]), (2.0, 40, [45]), (1.1, 0, [])])
def test_an_overrun_is_said_once(run: Run, monkeypatch: pytest.MonkeyPatch, slowness: float, first: int, said_at: list[int]) -> None:
    """Twice as slow as promised: silent for a twentieth of the run, said then, and not again; also when resumed.  On time: never."""
    now, said = 0.0, list[int]()
    monkeypatch.setattr("bowerbird.training.budget.time.monotonic", lambda: now)
    run.on_progress = lambda event: said.append(run.state.seen)
    run.recipe = of_length(run.recipe, 100)
    promise(run, Forecast(100, 1.0, 10**9, 1.2, 1.0, 0, "a machine", "fp32", False, None))
    run.state.seen = first
    watch = Watch(run)
    for run.state.seen in range(first + 1, 101):
        now = slowness * 3600 * (run.state.seen - first) / 100
        watch.check()
    assert said == said_at


def test_another_length_is_another_promise(picture_folder: Path, tmp_path: Path) -> None:
    run_here(picture_folder, tmp_path, tiny_recipe(), budget=Budget())
    assert read_run_state(tmp_path).promised_hours
    run_here(picture_folder, tmp_path, tiny_recipe(train={"pictures": 160}))
    assert read_run_state(tmp_path).promised_hours is None


def test_the_line_tells_all() -> None:
    line = Forecast(1000, 12.5, 1_700_000_000, 0.5, 0.4, 2_000_000_000, "a machine", "bf16", True, 1.25).line()
    for part in ("12.5 pictures/s in bf16, compiled,", "1,000 pictures", "0.50 h", "2.00 GB", "cost 1.25", "a machine"):
        assert part in line
