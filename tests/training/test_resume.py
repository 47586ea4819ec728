"""A run that is stopped or killed at any moment ends as if it had not been."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from bowerbird.errors import RunError, Stopped
from bowerbird.progress import Progress
from bowerbird.recipe import write_recipe
from bowerbird.run_folder import CHECKPOINT_MANIFEST, read_run_state
from bowerbird.storage import verify_folder
from tests.conftest import tiny_recipe
from tests.training.runs import Notes, Trainers, assert_same_run, final_tensors, kill_again_and_again, losses, run_here, wait_for_a_save

KILLS = 20


@pytest.fixture(scope="module")
def unbroken(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_here(picture_folder, tmp_path_factory.mktemp("unbroken") / "run", tiny_recipe(train={"dropout": 0.1}))


@pytest.mark.parametrize("stop_at", [8, 16, 40, 64, 88])
def test_stopped_and_resumed_equals_unbroken(picture_folder: Path, unbroken: Path, tmp_path: Path, stop_at: int) -> None:
    """Before, at and after checkpoints, and on both sides of an epoch (54 pictures) and of the decay."""
    recipe = tiny_recipe(train={"dropout": 0.1})

    def stop(event: Progress) -> bool:
        return not (event.stage == "train" and event.done >= stop_at)

    with pytest.raises(Stopped, match="run the same command again"):
        run_here(picture_folder, tmp_path / "run", recipe, on_progress=stop)
    assert losses(tmp_path / "run")[-1][0] == stop_at  # the step is kept, the rest is still to do
    run_here(picture_folder, tmp_path / "run", recipe)
    assert_same_run(unbroken, tmp_path / "run")


def test_killed_again_and_again_equals_unbroken(picture_folder: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments, a quarter of them while something is being saved; nothing beyond the last save is lost."""
    recipe = tiny_recipe(train={"dropout": 0.1, "pictures": 1600}, sample={"every_epochs": 10, "count": 2, "steps": 1})
    run_here(picture_folder, tmp_path / "unbroken", recipe)
    tally = kill_again_and_again(picture_folder, tmp_path / "killed", recipe, KILLS)
    assert tally.kills == KILLS and tally.inside_a_save >= KILLS // 8
    assert_same_run(tmp_path / "unbroken", tmp_path / "killed")


def test_a_finished_run_is_left_alone(picture_folder: Path, unbroken: Path) -> None:
    before = final_tensors(unbroken)
    events: list[Progress] = []
    run_here(picture_folder, unbroken, tiny_recipe(train={"dropout": 0.1}), on_progress=lambda e: events.append(e))
    assert events[-1].stage == "finished"
    assert all(torch.equal(before[name], tensor) for name, tensor in final_tensors(unbroken).items())


def test_a_longer_budget_extends_and_equals_the_run_that_had_it_from_the_start(picture_folder: Path, tmp_path: Path) -> None:
    """The constant middle of the schedule is the same, so going on from before the decay is exact."""
    short, long = tiny_recipe(train={"pictures": 96}), tiny_recipe(train={"pictures": 160})
    run_here(picture_folder, tmp_path / "extended", short)
    run_here(picture_folder, tmp_path / "extended", long)
    run_here(picture_folder, tmp_path / "at-once", long)
    assert_same_run(tmp_path / "extended", tmp_path / "at-once")
    (note,) = read_run_state(tmp_path / "extended").extensions
    assert (note["pictures_before"], note["pictures"]) == (96, 160)


def test_a_run_of_another_recipe_is_refused_and_named(picture_folder: Path, unbroken: Path) -> None:
    with pytest.raises(RunError, match=r"train\.lr"):
        run_here(picture_folder, unbroken, tiny_recipe(train={"dropout": 0.1, "lr": 0.5}))


def test_other_pictures_are_refused(picture_folder: Path, unbroken: Path, tmp_path: Path) -> None:
    for file in sorted(picture_folder.rglob("*.png"))[:30]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(RunError, match="pictures of"):
        run_here(tmp_path, unbroken, tiny_recipe(train={"dropout": 0.1}))


def test_a_second_trainer_is_refused(picture_folder: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    refused: list[str] = []

    def start_another(event: Progress) -> None:
        if event.stage == "train" and event.done == 8:
            with pytest.raises(RunError) as error:
                run_here(picture_folder, tmp_path / "run", recipe)
            refused.append(str(error.value))

    run_here(picture_folder, tmp_path / "run", recipe, on_progress=start_another)
    assert "another process" in refused[0]


def test_damage_is_passed_over_aloud(picture_folder: Path, tmp_path: Path) -> None:
    """A flipped bit in the newest checkpoint: the one before is used, and the run still ends."""
    recipe = tiny_recipe()
    with pytest.raises(Stopped):
        run_here(picture_folder, tmp_path, recipe, on_progress=lambda e: not (e.stage == "train" and e.done >= 40))
    newest = tmp_path / "checkpoints" / str(read_run_state(tmp_path).checkpoint) / "ema.safetensors"
    data = bytearray(newest.read_bytes())
    data[-5] ^= 4
    newest.write_bytes(data)
    notes = Notes()
    run_here(picture_folder, tmp_path, recipe, on_progress=notes)
    assert any("damaged" in note for note in notes)
    assert read_run_state(tmp_path).finished


@pytest.mark.parametrize("when", ["between two steps", "inside a save", "twice"])
def test_signals_save_and_say_how_to_go_on(picture_folder: Path, tmp_path: Path, when: str) -> None:
    """SIGTERM: exit code 75 and nothing of the work is lost; a second one ends at once, and what was saved before is whole."""
    recipe, run = tiny_recipe(train={"pictures": 1600}), tmp_path / "run"
    recipe_file = tmp_path / "recipe.toml"
    recipe_file.write_text(write_recipe(recipe))
    trainers = Trainers(picture_folder, run, recipe_file)
    pid = trainers.start()
    while len(losses(run)) < 3:
        time.sleep(0.01)
    if when == "inside a save":
        wait_for_a_save(run)
    started = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    if when == "twice":
        os.kill(pid, signal.SIGTERM)
    assert trainers.wait() == 75
    assert time.monotonic() - started < 30
    trainers.close()
    checkpoint = str(read_run_state(run).checkpoint)
    verify_folder(run / "checkpoints" / checkpoint, CHECKPOINT_MANIFEST)
    if when != "twice":
        assert int(checkpoint[:10]) == losses(run)[-1][0]
    run_here(picture_folder, run, recipe)
    assert [seen for seen, _ in losses(run)] == list(range(8, 1601, 8))
