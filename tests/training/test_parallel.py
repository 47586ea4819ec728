"""Two processes equal one within rounding; a dead one ends all; the run goes on with another number of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from bowerbird.errors import RunError
from bowerbird.run_folder import read_run_state
from bowerbird.training.budget import frozen_length
from bowerbird.training.parallel import BACKENDS, World, device_of_process
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


def finish(whole: subprocess.Popen[bytes], out: Path) -> None:
    """Wait for it however long it takes: the machine may be busy; the suite has its own limit."""
    assert whole.wait() == 0, out.with_suffix(".log").read_text()


@pytest.fixture(scope="module")
def alone(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_here(picture_folder, tmp_path_factory.mktemp("alone") / "run", tiny_recipe())


def test_two_processes_equal_one(picture_folder: Path, alone: Path, tmp_path: Path) -> None:
    finish(torchrun(picture_folder, tmp_path / "run", tiny_recipe()), tmp_path / "run")
    assert_near(alone, tmp_path / "run")
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_dead_process_ends_all_and_one_process_goes_on(picture_folder: Path, tmp_path: Path, rank: int) -> None:
    recipe = tiny_recipe(train={"pictures": 800})
    whole = torchrun(picture_folder, tmp_path / "run", recipe)
    while len(losses(tmp_path / "run")) < 5:
        assert whole.poll() is None, (tmp_path / "run.log").read_text()
        time.sleep(0.02)
    workers = workers_of(whole.pid)
    os.kill(workers[rank], signal.SIGKILL)
    assert whole.wait() != 0
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
    finish(torchrun(picture_folder, tmp_path / "run", tiny_recipe(), "--hours", "0.001"), tmp_path / "run")
    state = read_run_state(tmp_path / "run")
    assert state.finished and state.promised_hours
    assert losses(tmp_path / "run")[-1][0] == frozen_length(tmp_path / "run", 0.001)


def test_processes_that_run_unevenly_do_the_same_work(picture_folder: Path, tmp_path: Path) -> None:
    """What the forecast tries out is as large as its clock affords.  On a busy machine the clocks of two processes tell different
    stories; were each to go by its own, they would exchange sums of different sizes, and fail."""
    out = tmp_path / "run"
    finish(torchrun(picture_folder, out, tiny_recipe(sample={"count": 64}), program="tests.training.uneven"), out)


def test_each_process_takes_its_own_gpu() -> None:
    two = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    taken = [device_of_process(torch.device("cuda"), 2, two | {"LOCAL_RANK": rank}) for rank in "01"]
    assert taken == [torch.device("cuda:0"), torch.device("cuda:1")]
    assert device_of_process(torch.device("cuda:1"), 2, {}) == torch.device("cuda:1")  # alone: as was asked
    assert device_of_process(torch.device("cpu"), 0, two) == torch.device("cpu")
    with pytest.raises(RunError, match="--nproc-per-node 1"):
        device_of_process(torch.device("cuda"), 1, two | {"LOCAL_RANK": "1"})
    with pytest.raises(RunError, match="cannot share"):
        device_of_process(torch.device("cuda:0"), 2, two | {"LOCAL_RANK": "1"})
    with pytest.raises(RunError, match="'mps'"):
        device_of_process(torch.device("mps"), 0, two)


def test_sums_travel_between_processors_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL cannot sum what lies on a CPU, nor gloo what lies on a GPU: gradients take the one, everything else the other.

    FakeTensorMode keeps account of devices without having any.
    """
    travelled: list[str] = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: travelled.append(tensor.device.type))
    world = World(rank=1, size=2)
    with FakeTensorMode():
        assert world.all_reduce(torch.ones((), device="cuda:1")).device == torch.device("cuda:1")
    world.agree(True)
    world.broadcast(3)
    world.all_gather(np.ones((2, 3)), 0, 4)
    world.wait()
    assert travelled == ["cpu"] * 5
    assert BACKENDS == {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_cover_everything_once(size: int) -> None:
    shares = [World(rank, size).share(100, 164) for rank in range(size)]
    assert [n for first, last in shares for n in range(first, last)] == list(range(100, 164))
    assert max(b - a for a, b in shares) - min(b - a for a, b in shares) <= 1
