"""Two processes equal one within rounding; a dead one ends all; the run goes on with another number of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bowerbird.run_folder import read_run_state
from bowerbird.training.budget import frozen_length
from bowerbird.training.parallel import World
from tests.conftest import tiny_recipe
from tests.training.runs import Notes, final_tensors, losses, run_here, torchrun, workers_of


def assert_near(one: Path, other: Path) -> None:
    """Sums over two halves differ from sums over the whole in rounding, and AdamW's division carries that on for a dozen steps."""
    (seen_one, loss_one), (seen_other, loss_other) = zip(*losses(one), strict=True), zip(*losses(other), strict=True)
    assert seen_one == seen_other
    np.testing.assert_allclose(loss_one, loss_other, rtol=1e-3)
    first, second = final_tensors(one), final_tensors(other)
    for name in first:
        if not name.startswith("optimizer"):
            torch.testing.assert_close(first[name], second[name], atol=5e-4, rtol=1e-3, msg=name)


@pytest.fixture(scope="module")
def alone(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_here(picture_folder, tmp_path_factory.mktemp("alone") / "run", tiny_recipe())


def test_two_processes_equal_one(picture_folder: Path, alone: Path, tmp_path: Path) -> None:
    assert torchrun(picture_folder, tmp_path / "run", tiny_recipe()).wait(120) == 0
    assert_near(alone, tmp_path / "run")
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_dead_process_ends_all_and_one_process_goes_on(picture_folder: Path, tmp_path: Path, rank: int) -> None:
    recipe = tiny_recipe(train={"pictures": 800})
    whole = torchrun(picture_folder, tmp_path / "run", recipe)
    deadline = time.monotonic() + 60
    while len(losses(tmp_path / "run")) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = workers_of(whole.pid)
    os.kill(workers[rank], signal.SIGKILL)
    assert whole.wait(60) != 0
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    said = (tmp_path / "run.log").read_text()
    assert "another of the 2 processes has ended" in said and "loop.py" not in said  # a sentence, no traceback of ours
    assert not read_run_state(tmp_path / "run").finished
    notes = Notes()
    run_here(picture_folder, tmp_path / "run", recipe, on_progress=notes)
    assert any("processes" in note for note in notes)
    assert read_run_state(tmp_path / "run").finished
    assert [seen for seen, _ in losses(tmp_path / "run")] == list(range(8, 801, 8))  # every step once


def test_hours_are_the_same_number_of_pictures_for_all(picture_folder: Path, tmp_path: Path) -> None:
    """Every process times itself and all go by the main one's answer; two that disagreed would wait for each other."""
    assert torchrun(picture_folder, tmp_path / "run", tiny_recipe(), "--hours", "0.001").wait(120) == 0
    state = read_run_state(tmp_path / "run")
    assert state.finished and state.promised_hours
    assert losses(tmp_path / "run")[-1][0] == frozen_length(tmp_path / "run", 0.001)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_cover_everything_once(size: int) -> None:
    shares = [World(rank, size).share(100, 164) for rank in range(size)]
    assert [n for first, last in shares for n in range(first, last)] == list(range(100, 164))
    assert max(b - a for a, b in shares) - min(b - a for a, b in shares) <= 1
