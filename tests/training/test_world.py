"""Two processes equal one within rounding; a dead one ends all; the run goes on with another number of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bowerbird.recipe import Recipe, write_recipe
from bowerbird.run_folder import read_run_state
from bowerbird.training.world import World
from tests.conftest import tiny_recipe
from tests.training.runs import final_tensors, losses, run_here


def torchrun(pictures: Path, out: Path, recipe: Recipe, processes: int = 2) -> subprocess.Popen[bytes]:
    recipe_file = out.parent / f"{out.name}.toml"
    recipe_file.write_text(write_recipe(recipe))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "bowerbird"]
    command += ["--device", "cpu", "train", str(pictures), "--recipe", str(recipe_file), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


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


def test_a_dead_process_ends_all_and_one_process_goes_on(picture_folder: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(train={"pictures": 1600})
    whole = torchrun(picture_folder, tmp_path / "run", recipe)
    deadline = time.monotonic() + 60
    while len(losses(tmp_path / "run")) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(_workers(whole.pid)[-1], signal.SIGKILL)
    assert whole.wait(60) != 0
    assert not _workers(whole.pid)
    assert not read_run_state(tmp_path / "run").finished
    with pytest.warns(UserWarning, match="processes"):
        run_here(picture_folder, tmp_path / "run", recipe)
    assert read_run_state(tmp_path / "run").finished
    assert [seen for seen, _ in losses(tmp_path / "run")] == list(range(8, 1601, 8))  # every step once


def _workers(parent: int) -> list[int]:
    """The processes that torchrun started."""
    try:
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except FileNotFoundError:
        return []


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_cover_everything_once(size: int) -> None:
    shares = [World(rank, size).share(100, 164) for rank in range(size)]
    assert [n for first, last in shares for n in range(first, last)] == list(range(100, 164))
    assert max(b - a for a, b in shares) - min(b - a for a, b in shares) <= 1
