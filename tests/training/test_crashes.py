"""A crash at any operation of a save, or a power cut there, leaves a run that goes on and a model that opens."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.training.crashes import Crash, crashes, open_after, record_the_rest_of_a_run

OPENED = 60  # of each kind, by a fixed seed; `make prove-resume` opens all of them


@pytest.fixture(scope="module")
def states(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Crash]:
    return list(crashes(*record_the_rest_of_a_run(picture_folder, tmp_path_factory.mktemp("recorded") / "run")))


def test_there_are_enough_states(states: list[Crash]) -> None:
    """Checkpoints, snapshots, pointers and pruning in turn; both kinds of crash."""
    assert len(states) >= 500
    assert len({state.promised for state in states}) >= 3
    assert sum(state.lost > 0 for state in states) > 300


@pytest.mark.parametrize("power_cut", [False, True])
def test_every_crash_leaves_a_run_that_goes_on(states: list[Crash], picture_folder: Path, tmp_path: Path, power_cut: bool) -> None:
    chosen = random.Random(0).sample([state for state in states if bool(state.lost) == power_cut], OPENED)
    open_after(chosen, picture_folder, tmp_path)
