"""Faults to plant in a run: damaged files, a disk that fills up, numbers that are not finite."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from bowerbird.errors import BowerbirdError
from bowerbird.recipe import Recipe
from bowerbird.run_folder import read_run_state
from bowerbird.training.batches import Batch
from bowerbird.training.objectives.denoising import Denoising
from bowerbird.training.record import Record
from bowerbird.weights import load
from tests.conftest import tiny_recipe
from tests.disks import FullDisk
from tests.training.runs import run_here

KINDS = ("loss", "gradient", "data")


def damage(folder: Path, chance: random.Random) -> None:
    """Flip a bit, cut off an end, or remove a file, anywhere in the folder."""
    victim = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    data = bytearray(victim.read_bytes())
    kind = chance.choice(("flip", "cut", "remove"))
    if kind == "flip":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    if kind == "remove":
        victim.unlink()
    else:
        victim.write_bytes(data if kind == "flip" else data[: chance.randrange(len(data))])


def writes_of(pictures: Path, run: Path, recipe: Recipe) -> int:
    """How many writes it takes to bring the run to its end."""
    disk = FullDisk(10**9)
    run_here(pictures, run, recipe, disk=disk)
    return 10**9 - disk.left


@dataclass(frozen=True)
class Outcome:
    """finite: whether every tensor of every checkpoint is; skipped: updates left out, with names of pictures in the record."""

    finished: bool
    skipped: int
    finite: bool
    error: type[BowerbirdError] | None


def plant(pictures: Path, out: Path, kind: str, first: int, times: int, value: float = float("nan")) -> Outcome:
    """Train with `value` in the loss, a gradient or the data of updates number first.. (counted from 0), `times` of them."""
    sound = Denoising.losses
    error = None

    def bad_losses(objective: Denoising, model: torch.nn.Module, batch: Batch, rows: slice) -> torch.Tensor:
        if not first <= batch.first // len(batch) < first + times:
            return sound(objective, model, batch, rows)
        if kind == "data":
            return sound(objective, model, replace(batch, x0=torch.full_like(batch.x0, value)), rows)
        losses = sound(objective, model, batch, rows)
        if kind == "loss":
            return losses * value
        losses.register_hook(lambda gradient: torch.full_like(gradient, value))
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Denoising, "losses", bad_losses)
        try:
            run_here(pictures, out, tiny_recipe())
        except BowerbirdError as stopped:
            error = type(stopped)
    lines = Record(out / "metrics.jsonl").lines()
    tensors = [t for file in (out / "checkpoints").rglob("*.safetensors") for t in load(file).values()]
    return Outcome(
        finished=read_run_state(out).finished,
        skipped=sum(bool(line.get("skipped")) for line in lines),
        finite=all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point()),
        error=error,
    )
