"""The proof that a run cannot be lost: kills, power cuts, full disks, numbers that are not finite, signals.

Writes proof/resume.json and prints a table.  `make prove-resume`, about ten minutes on one core.  With names of parts, those alone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.conftest import tiny_recipe
from tests.disks import FullDisk
from tests.training.crashes import RECIPE, crashes, open_after, record_the_rest_of_a_run
from tests.training.faults import KINDS, plant, writes_of
from tests.training.runs import Trainers, assert_same_run, kill_again_and_again, losses, run_here, torchrun, workers_of

from bowerbird.errors import ResourceError, RunError, Stopped
from bowerbird.model_folder import MANIFEST
from bowerbird.recipe import write_recipe
from bowerbird.run_folder import CHECKPOINT_MANIFEST, model_of_run, read_run_state
from bowerbird.storage import verify_folder
from bowerbird.training.checkpoint import read_provenance

SEED = 0
KILLS, FAULTS, SIGNALS, FAST_KILLS = 200, 50, 50, 12
FAST = {"dropout": 0.1, "precision": "bf16", "compile": "always"}  # what a long run has on a processor that multiplies bf16


def kills(pictures: Path, folder: Path) -> dict[str, Any]:
    """SIGKILL again and again through one run; its end is bit for bit the unbroken run's, or this raises."""
    recipe = tiny_recipe(train={"dropout": 0.1, "pictures": 8000}, sample={"every_epochs": 5, "count": 2, "steps": 1})
    run_here(pictures, folder / "unbroken", recipe)
    tally = kill_again_and_again(pictures, folder / "killed", recipe, KILLS, SEED)
    assert_same_run(folder / "unbroken", folder / "killed")
    return {"kills": tally.kills, "inside a save": tally.inside_a_save, "damaged": tally.damaged, "bit-identical": True}


def fast_kills(pictures: Path, folder: Path) -> dict[str, Any]:
    """SIGKILL through a painter and an autoencoder with its adversary, both in bf16 on kernels of their own; bit for bit or raises."""
    recipes = {
        "painter": tiny_recipe(train={**FAST, "pictures": 4000}, sample={"every_epochs": 5, "count": 2, "steps": 1}),
        "autoencoder": tiny_recipe(
            model={"network": "autoencoder"},
            autoencoder={"size": "micro", "channels": 4, "perceptual": 0.0, "adversary": 0.5, "noise": 0.2},
            train={**FAST, "dropout": 0.0, "pictures": 2000},
            sample={"every_epochs": 5, "count": 2, "steps": 1},
        ),
    }
    tallies = []
    for name, recipe in recipes.items():
        run_here(pictures, folder / name, recipe)
        checkpoint = folder / name / "checkpoints" / str(read_run_state(folder / name).checkpoint)
        assert read_provenance(checkpoint)["compiled"], "there is no C++ compiler here"
        tallies.append(kill_again_and_again(pictures, folder / f"{name}-killed", recipe, FAST_KILLS // 2, SEED))
        assert_same_run(folder / name, folder / f"{name}-killed")
    sums = {key: sum(getattr(tally, key) for tally in tallies) for key in ("kills", "inside_a_save", "damaged")}
    return {**sums, "bit-identical": True}


def enumerated(pictures: Path, folder: Path) -> dict[str, Any]:
    """Every state that a kill or a power cut can leave; the first that cannot be opened raises."""
    states = list(crashes(*record_the_rest_of_a_run(pictures, folder / "run")))
    (folder / "opened").mkdir()
    open_after(states, pictures, folder / "opened")
    return {"states": len(states), "kills": sum(not state.lost for state in states), "opened": len(states)}


def planted(pictures: Path, folder: Path) -> dict[str, Any]:
    """NaN and infinity in loss, gradient or data, once or for good, at a random update."""
    chance, stopped, skipped, finite = random.Random(SEED), 0, 0, 0
    for number in range(FAULTS):
        times = chance.choice((1, 2, 99))
        value = chance.choice((float("nan"), float("inf"), float("-inf")))
        outcome = plant(pictures, folder / str(number), KINDS[number % 3], first=chance.randrange(9), times=times, value=value)
        stopped += outcome.error is RunError and not outcome.finished
        skipped += outcome.finished and outcome.skipped == times
        finite += outcome.finite
        shutil.rmtree(folder / str(number))
    assert stopped + skipped == finite == FAULTS, (stopped, skipped, finite)
    return {"faults": FAULTS, "stopped": stopped, "skipped": skipped, "checkpoints with a value that is not finite": FAULTS - finite}


def full_disk(pictures: Path, folder: Path) -> dict[str, Any]:
    """Space ends at every write in turn of the second half of a run."""
    base = folder / "base"
    with contextlib.suppress(Stopped):
        run_here(pictures, base, RECIPE, on_progress=lambda event: not (event.stage == "train" and event.done >= 64))
    writes = writes_of(pictures, shutil.copytree(base, folder / "counted"), RECIPE)
    for number in range(writes):
        run = shutil.copytree(base, folder / str(number))
        try:
            run_here(pictures, run, RECIPE, disk=FullDisk(number))
            raise AssertionError(f"a full disk at write {number} went unnoticed")
        except ResourceError as error:
            assert "no space left" in str(error) and error.exit_code == 2
        verify_folder(run / "checkpoints" / str(read_run_state(run).checkpoint), CHECKPOINT_MANIFEST)
        verify_folder(model_of_run(run)[0], MANIFEST)
        run_here(pictures, run, RECIPE)
        assert read_run_state(run).finished
        assert_same_run(folder / "counted", run)
        shutil.rmtree(run)
    return {"writes": writes, "previous checkpoint verified": writes, "resumed to the same bits": writes}


def signals(pictures: Path, folder: Path) -> dict[str, Any]:
    """SIGTERM at random moments of one chained run; every fifth time a second one follows at once."""
    recipe = tiny_recipe(train={"dropout": 0.1, "pictures": 8000}, sample={"every_epochs": 5, "count": 2, "steps": 1})
    recipe_file = folder / "recipe.toml"
    recipe_file.write_text(write_recipe(recipe))
    run, chance, seconds = folder / "run", random.Random(SEED), list[float]()
    trainers = Trainers(pictures, run, recipe_file)
    while len(seconds) < SIGNALS:
        before = len(losses(run))
        pid = trainers.start()
        while len(losses(run)) <= before:  # under way
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        began = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        if len(seconds) % 5 == 4:
            os.kill(pid, signal.SIGTERM)
        code = trainers.wait()
        if code == 0 and read_run_state(run).finished:  # it came to its end first
            shutil.rmtree(run)
            continue
        assert code == 75, f"ended with {code}"
        seconds.append(time.monotonic() - began)
        verify_folder(run / "checkpoints" / str(read_run_state(run).checkpoint), CHECKPOINT_MANIFEST)
    trainers.close()
    assert max(seconds) < 30
    return {"signals": SIGNALS, "exit code 75": SIGNALS, "longest seconds to exit": round(max(seconds), 2)}


def dead_processes(pictures: Path, folder: Path) -> dict[str, Any]:
    """One of two processes is killed, the leader or the other: all end, and the same command goes on, with another number of them too."""
    recipe, seconds = tiny_recipe(train={"pictures": 1600}), []
    for rank, resumed_on in ((0, 1), (1, 2), (0, 3)):
        run = folder / f"{rank}-{resumed_on}"
        whole = torchrun(pictures, run, recipe)
        while len(losses(run)) < 5:
            time.sleep(0.02)
        os.kill(workers_of(whole.pid)[rank], signal.SIGKILL)
        began = time.monotonic()
        assert whole.wait(60) != 0
        seconds.append(time.monotonic() - began)
        assert torchrun(pictures, run, recipe, processes=resumed_on).wait() == 0
        assert [seen for seen, _ in losses(run)] == list(range(8, 1601, 8))
    return {"kills": len(seconds), "longest seconds until all had ended": round(max(seconds), 1), "resumed, every step once": len(seconds)}


def draw_pictures(folder: Path) -> Path:
    """60 small pictures of noise in two classes; what they show does not matter here."""
    draw = np.random.default_rng(SEED)
    for number in range(60):
        kind = folder / ("cold", "warm")[number % 2]
        kind.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (16, 16, 3), np.uint8)).save(kind / f"{number:03d}.png")
    return folder


PARTS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "enumerated crash points": enumerated,
    "planted faults": planted,
    "disk full": full_disk,
    "SIGTERM": signals,
    "random kills": kills,
    "bf16, compiled, adversary": fast_kills,
    "a dead process of two": dead_processes,
}


def main() -> None:
    torch.set_num_threads(1)
    logging.disable()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    document: dict[str, Any] = {"seed": SEED, "versions": versions, "commit": commit, "parts": {}}
    proof = Path("proof/resume.json")
    proof.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["BOWERBIRD_CACHE"] = f"{temporary}/cache"
        pictures = draw_pictures(Path(temporary) / "pictures")
        for name in sys.argv[1:] or PARTS:
            part = PARTS[name]
            folder, began = Path(temporary) / part.__name__, time.monotonic()
            folder.mkdir()
            figures = {**part(pictures, folder), "seconds": round(time.monotonic() - began)}
            document["parts"][name] = figures
            print(f"{name:24} {', '.join(f'{key} {value}' for key, value in figures.items())}", flush=True)
            proof.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
