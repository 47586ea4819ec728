"""What a LoRA's recipe leaves open is chosen by the memory there is, once, and said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bowerbird import hardware
from bowerbird.data.pictures import open_pictures
from bowerbird.errors import ResourceError, RunError, Stopped
from bowerbird.progress import Progress
from bowerbird.recipe import Recipe
from bowerbird.run_folder import read_run_state
from bowerbird.training import Budget, forecast
from bowerbird.training.checkpoint import read_recipe_of
from bowerbird.training.memory import Memory, kept_bytes, measure_memory, require_memory
from bowerbird.training.resume import start_or_resume
from bowerbird.training.run import Run
from tests.pretrained.test_lora_training import plan
from tests.training.runs import CPU, Notes, assert_same_run, new_setup, run_here


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def opened(tiny: Any, pictures: Path, out: Path, *settings: str) -> Run:
    recipe = plan(tiny("sd15").folder, "lora.trigger=sks", *settings)
    out.mkdir(parents=True)
    run = start_or_resume(new_setup(out, recipe, open_pictures(pictures, 64, recipe.data.fit)))
    assert run is not None
    return run


def measured(tiny: Any, pictures: Path, out: Path) -> tuple[Memory, Memory]:
    """Without passes done twice, and with."""
    once, twice = (measure_memory(opened(tiny, pictures, out / word, f"lora.recompute={word}")) for word in ("false", "true"))
    return once, twice


def begun_as(run: Path) -> tuple[int, object]:
    recipe = read_recipe_of(run / "checkpoints" / str(read_run_state(run).checkpoint))
    return recipe.train.micro_batch, recipe.lora.recompute


def test_passes_done_twice_keep_less_and_more_pictures_keep_more(tiny: Any, picture_folder: Path, tmp_path: Path) -> None:
    run = opened(tiny, picture_folder, tmp_path / "run", "lora.recompute=true")
    once, twice = measured(tiny, picture_folder, tmp_path)
    assert twice.per_picture < 0.8 * once.per_picture
    assert twice.fixed + 4 * twice.per_picture == pytest.approx(kept_bytes(run, 4), rel=0.05)
    before = run.objective.losses(run.state.model, run.objective.draw(0, 2), slice(None))
    before.sum().backward()


@pytest.mark.parametrize(
    ("settings", "room", "found"),
    [
        ((), lambda once, twice: once.peak(4, False), (0, False)),
        ((), lambda once, twice: once.peak(2, True), (2, False)),
        ((), lambda once, twice: once.peak(1, True), (1, False)),
        ((), lambda once, twice: twice.peak(1, True), (1, True)),
        (("train.micro_batch=4",), lambda once, twice: twice.peak(4, False), (4, True)),
        (("train.micro_batch=1",), lambda once, twice: once.peak(4, False), (1, False)),
        (("lora.recompute=true",), lambda once, twice: once.peak(4, False), (0, True)),
    ],
)
def test_the_fastest_that_fits_is_chosen_and_what_the_user_set_stays(
    tiny: Any,
    picture_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: tuple[str, ...],
    room: Callable[[Memory, Memory], int],
    found: tuple[int, bool],
) -> None:
    """Whole batches, then fewer pictures at a time; passes done twice, which cost a third more time, only where one picture is too much."""
    once, twice = map(_without_saving, measured(tiny, picture_folder, tmp_path))
    run = opened(tiny, picture_folder, tmp_path / "run", *settings)
    monkeypatch.setattr("bowerbird.training.memory.measure_memory", lambda run: _without_saving(measure_memory(run)))
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda _: room(once, twice))
    line = require_memory(run)
    assert (run.recipe.train.micro_batch, run.recipe.lora.recompute) == found
    assert ("gradient checkpointing" in line) is found[1] and "the text encoders are let go" in line


def _without_saving(memory: Memory) -> Memory:
    """Of a tiny model the copy that a checkpoint makes outweighs a pass."""
    return Memory(memory.weights, memory.fixed, memory.per_picture, 0)


def test_what_fits_in_no_way_is_refused(tiny: Any, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened(tiny, picture_folder, tmp_path / "run")
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda _: 1)
    with pytest.raises(ResourceError, match=r"GB are free. Try a smaller network or data.size"):
        require_memory(run)


def test_what_was_chosen_is_not_chosen_anew(tiny: Any, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that begins where memory is short goes on bit by bit where there is plenty, by the same command."""
    once, _ = measured(tiny, picture_folder, tmp_path / "measured")
    recipe: Recipe = plan(tiny("sd15").folder, "lora.trigger=sks")
    notes = Notes()

    def heard(event: Progress) -> bool:
        notes(event)
        return not (event.stage == "train" and event.done >= 8)

    monkeypatch.setattr("bowerbird.training.memory.measure_memory", lambda run: _without_saving(measure_memory(run)))
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda _: _without_saving(once).peak(1, True))
    whole = run_here(picture_folder, tmp_path / "whole", recipe, budget=Budget())
    with pytest.raises(Stopped):
        run_here(picture_folder, tmp_path / "run", recipe, budget=Budget(), on_progress=heard)
    assert begun_as(tmp_path / "run") == begun_as(whole) == (1, False)
    assert sum("memory: an update takes" in each and "one picture at a time" in each for each in notes) == 1
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda _: 100 * once.peak(4, False))
    assert forecast(picture_folder, recipe, Budget(), device=CPU).micro_batch == 0
    assert_same_run(whole, run_here(picture_folder, tmp_path / "run", recipe, budget=Budget()))
    other = plan(tiny("sd15").folder, "lora.trigger=sks", "train.micro_batch=2")
    with pytest.raises(RunError, match=r"train.micro_batch differ"):
        run_here(picture_folder, tmp_path / "run", other, budget=Budget())
