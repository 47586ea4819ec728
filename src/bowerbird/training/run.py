"""One training run while it is open, and kept safe while it goes on."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import filelock
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bowerbird.data.picture_set import Pictures
from bowerbird.errors import RunError
from bowerbird.progress import OnProgress
from bowerbird.recipe import Recipe
from bowerbird.run_folder import entries, free_entry, read_run_state, write_run_state
from bowerbird.storage import Disk, ensure_folder
from bowerbird.training.checkpoint import TrainState, save_checkpoint
from bowerbird.training.objectives import Objective
from bowerbird.training.parallel import World
from bowerbird.training.record import Record
from bowerbird.training.signals import StopSignals


@dataclass
class Setup:
    """What a run is to learn from, where it writes, and who trains it.

    hours: what was turned into the recipe's number of pictures; kept, so that the same hours find it again.
    compiled: whether a new run makes kernels for its network; one that goes on does as it did.
    """

    out: Path
    recipe: Recipe
    pictures: Pictures
    device: torch.device
    disk: Disk
    stop: StopSignals
    world: World
    hours: float | None = None
    compiled: bool = False
    on_progress: OnProgress | None = None


@dataclass(kw_only=True)
class Run(Setup):
    """A set-up run, with how far it is."""

    state: TrainState
    objective: Objective
    precision: str
    record: Record
    provenance: dict[str, Any]

    @cached_property
    def parallel(self) -> nn.Module:
        """The model, with gradients that add up over all processes; made when all are there, because making it is a meeting."""
        if self.world.size == 1:
            return self.state.model
        with warnings.catch_warnings():  # torch 2.13 renamed the setting; 2.10 knows the old name alone
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(self.state.model, broadcast_buffers=False)  # buffers are constants

    def check(self) -> None:
        """Raise StopRequested inside a piece of work that may be dropped.  Many processes stop together, between updates."""
        if self.world.size == 1:
            self.stop.check()


def keep_checkpoint(run: Run, before_decay: bool = False, finished: bool = False) -> None:
    """Save, point run.json at it, and only then remove older ones; two are kept, and the one from before the decay."""
    if not run.world.is_main:
        return
    folder = run.out / "checkpoints"
    name = free_entry(folder, run.state.seen)
    run.record.sync()
    save_checkpoint(run.disk, folder / name, run.state, run.provenance)
    old = read_run_state(run.out)
    new = old.model_copy(update={"checkpoint": name, "finished": finished, "before_decay": name if before_decay else old.before_decay})
    write_run_state(run.disk, run.out, new)
    keep = {new.checkpoint, old.checkpoint, new.before_decay}
    for entry in entries(folder):
        if entry not in keep:
            run.disk.remove(folder / entry)


def seen_of(entry: str) -> int:
    return int(entry.partition("-")[0])


@contextmanager
def locked(disk: Disk, out: Path, world: World) -> Iterator[None]:
    """One trainer a run, in its folder.  The operating system lets go of the lock when a process dies, so none is ever stale.

    A start that failed leaves nothing.
    """
    new = not out.exists()
    ensure_folder(disk, out)
    if not world.is_main:
        yield
        return
    lock = filelock.FileLock(out / "run.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RunError(f"another process is training {str(out)!r} at this moment. Wait for it, stop it, or use another --out.") from None
    try:
        yield
    finally:
        if new and [path.name for path in out.iterdir()] == ["run.lock"]:
            shutil.rmtree(out)
        lock.release()
