"""One training run: opened at its beginning or where it was left, and kept safe while it goes on."""

from __future__ import annotations

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

from bowerbird import hardware
from bowerbird.data.pictures import Pictures
from bowerbird.errors import ModelError, RunError
from bowerbird.generate import find_model_folder, is_autoencoder, open_autoencoder
from bowerbird.model_folder import MANIFEST, open_model_folder
from bowerbird.models.autoencoder import Autoencoder
from bowerbird.progress import OnProgress
from bowerbird.recipe import FREE_FIELDS, Recipe, check_recipe, differing_fields, write_recipe
from bowerbird.run_folder import (
    CHECKPOINT_MANIFEST,
    RunState,
    entries,
    free_entry,
    newest_verified,
    read_run_state,
    write_run_state,
)
from bowerbird.storage import Disk, remove_temporary, require_free, verify_folder, write_file
from bowerbird.training.checkpoint import (
    TrainState,
    load_checkpoint,
    new_state,
    read_surroundings,
    save_checkpoint,
    state_tensors,
)
from bowerbird.training.objectives import Objective, choose_objective
from bowerbird.training.optimizer import decay_start
from bowerbird.training.parallel import World
from bowerbird.training.record import Record
from bowerbird.training.signals import StopSignals

FEW = 50  # pictures; below it none is held out either


@dataclass
class Run:
    """One training run while it is open: what it learns from, where it writes, and how far it is."""

    out: Path
    recipe: Recipe
    pictures: Pictures
    state: TrainState
    objective: Objective
    device: torch.device
    precision: str
    disk: Disk
    record: Record
    stop: StopSignals
    world: World
    surroundings: dict[str, Any]

    @cached_property
    def parallel(self) -> nn.Module:
        """The model, with gradients that add up over all processes; made when all are there, because making it is a meeting."""
        one = self.world.size == 1
        return self.state.model if one else DistributedDataParallel(self.state.model, broadcast_buffers=False)

    def check(self) -> None:
        """Raise StopRequested inside a piece of work that may be dropped.  Many processes stop together, between updates."""
        if self.world.size == 1:
            self.stop.check()


def start_or_resume(
    out: Path,
    recipe: Recipe,
    pictures: Pictures,
    device: torch.device,
    disk: Disk,
    stop: StopSignals,
    world: World,
    hours: float | None = None,
    on_progress: OnProgress | None = None,
) -> Run | None:
    """A run at its beginning, at its last verified checkpoint, or None when there is nothing left to do.

    hours: what was turned into the recipe's number of pictures; kept, so that the same hours find it again.
    """
    left_off = _left_off(out, recipe)
    precision = hardware.choose_precision(recipe.train.precision, device)
    objective = choose_objective(recipe, pictures, device, precision, on_progress)
    surroundings = {
        "recipe": recipe.model_dump(mode="json"),
        "data": objective.fingerprint,
        "hardware": hardware.describe(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": precision,
        "processes": world.size,
        "hours": hours,
    }
    checkpoint, run_state = _checkpoint_to_resume(out, recipe, left_off, surroundings)
    if checkpoint is not None and run_state.finished:
        return None
    torch.manual_seed(recipe.data.seed)  # decides the initial weights alone; nothing later draws from the global generator unseeded
    model = (objective.new_model() if checkpoint is None else _same_network(out) or objective.new_model()).to(device)
    if recipe.train.init and checkpoint is None:
        begin_with(model, recipe.train.init)
    if device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = new_state(model, recipe)
    run = Run(
        out,
        recipe,
        pictures,
        state,
        objective,
        device,
        precision,
        disk,
        Record(out / "metrics.jsonl"),
        stop,
        world,
        surroundings,
    )
    if checkpoint is not None:
        load_checkpoint(checkpoint, state)
    if world.leads and checkpoint is None:
        _advise(pictures)
        _begin(run)
    elif world.leads and checkpoint is not None:
        for folder in (out, out / "models", out / "checkpoints", out / "samples"):
            remove_temporary(disk, folder)
        run.record.cut_back(disk, state.seen)
        write_file(disk, out / "recipe.toml", write_recipe(recipe).encode())
        write_run_state(disk, out, run_state)
    return run


def begin_with(model: nn.Module, init: str) -> None:
    """Weights of another model of ours where names and shapes agree: a lower rung, another size, another set of labels."""
    if isinstance(model, Autoencoder):
        other: nn.Module = open_autoencoder(init, torch.device("cpu"))
    else:
        other, _ = open_model_folder(find_model_folder(init))
    own, found = model.state_dict(), other.state_dict()
    fitting = {name: tensor for name, tensor in found.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise ModelError(
            f"no weights of {init!r} fit this recipe. Choose the same model.network and model.size, or learn from the beginning: --init ''."
        )
    model.load_state_dict({**own, **fitting})
    if len(fitting) < len(own):
        warnings.warn(f"{len(fitting)} of {len(own)} tensors begin as in {init!r}; the others begin anew", stacklevel=2)


def _same_network(out: Path) -> nn.Module | None:
    """The network of the run's newest model, to go on with: a later Bowerbird may build another one from the same recipe."""
    name = newest_verified(out / "models", MANIFEST)
    if name is None:
        return None
    folder = out / "models" / name
    return open_autoencoder(folder, torch.device("cpu")) if is_autoencoder(folder) else open_model_folder(folder)[0]


def _begin(run: Run) -> None:
    """The folders of a new run, and a first checkpoint: whatever is wrong with the disk shows now, not after hours."""
    for name in ("models", "checkpoints", "samples"):
        (run.out / name).mkdir(exist_ok=True)
    bytes_a_checkpoint = sum(t.nbytes for tensors in state_tensors(run.state).values() for t in tensors.values())
    require_free(run.out, 4 * bytes_a_checkpoint, "this run (three checkpoints and its models)")
    write_file(run.disk, run.out / "recipe.toml", write_recipe(run.recipe).encode())
    write_file(run.disk, run.out / "data.json", run.pictures.report_json())
    write_run_state(run.disk, run.out, RunState())
    keep_checkpoint(run)


def _left_off(out: Path, recipe: Recipe) -> str | None:
    """The newest checkpoint that verifies, None in a new folder.  RunError when it is of another recipe: nothing else is worth opening."""
    name = _verified(out, read_run_state(out).checkpoint)
    if name is None:
        return None
    old = check_recipe(read_surroundings(out / "checkpoints" / name)["recipe"])
    changed = [field for field in differing_fields(old, recipe) if field not in FREE_FIELDS]
    if changed:
        raise RunError(
            f"{str(out)!r} was started with another recipe: {', '.join(changed)} differ. Use the same settings, or another --out."
        )
    return name


def _checkpoint_to_resume(out: Path, recipe: Recipe, name: str | None, surroundings: dict[str, Any]) -> tuple[Path | None, RunState]:
    """Which checkpoint to go on from, and the run state to begin with.  RunError when the run is of other data."""
    if name is None:
        return None, RunState()
    run_state, before = read_run_state(out), read_surroundings(out / "checkpoints" / name)
    if before["data"] != surroundings["data"]:
        raise RunError(
            f"the pictures of {str(out)!r}, or its autoencoder, have changed since it was started. "
            "Bring them back, or use another --out for a new run."
        )
    differs = [key for key in ("hardware", "threads", "torch", "precision", "processes") if before[key] != surroundings[key]]
    if differs:
        warnings.warn(f"resuming on other {', '.join(differs)} than before: the result is as good, but not bit-identical", stacklevel=2)
    return _extended(out, name, run_state, check_recipe(before["recipe"]), recipe)


def _extended(out: Path, name: str, run_state: RunState, old: Recipe, new: Recipe) -> tuple[Path, RunState]:
    """The same length: go on.  A longer one: go on from before the learning rate fell.  A shorter one is refused once it is too late."""
    folder = out / "checkpoints"
    if new.train.pictures == old.train.pictures:
        return folder / name, run_state
    seen = seen_of(name)
    if seen > decay_start(old.train):
        earlier = _verified(out, run_state.before_decay, fall_back=False)
        if earlier is None:
            raise RunError(f"{str(out)!r} cannot change its length: the one from before the decay is gone. Use another --out.")
        name, seen = earlier, seen_of(earlier)
    if seen > decay_start(new.train):
        raise RunError(
            f"{str(out)!r} has seen {seen:,} pictures, too many to end at {new.train.pictures:,}. Ask for more, or use another --out."
        )
    note = {"from": seen, "pictures_before": old.train.pictures, "pictures": new.train.pictures}
    return folder / name, run_state.model_copy(
        update={"checkpoint": name, "finished": False, "promised_hours": None, "extensions": (*run_state.extensions, note)}
    )


def _verified(out: Path, name: str | None, fall_back: bool = True) -> str | None:
    """`name` if that checkpoint is intact, else the newest one that is, said aloud."""
    if name is not None:
        try:
            verify_folder(out / "checkpoints" / name, CHECKPOINT_MANIFEST)
        except ModelError as error:
            warnings.warn(f"the checkpoint {name} is damaged ({error})", stacklevel=2)
        else:
            return name
    return newest_verified(out / "checkpoints", CHECKPOINT_MANIFEST) if fall_back else None


def keep_checkpoint(run: Run, before_decay: bool = False, finished: bool = False) -> None:
    """Save, point run.json at it, and only then remove older ones; two are kept, and the one from before the decay."""
    if not run.world.leads:
        return
    folder = run.out / "checkpoints"
    name = free_entry(folder, run.state.seen)
    run.record.sync()
    save_checkpoint(run.disk, folder / name, run.state, run.surroundings)
    old = read_run_state(run.out)
    new = old.model_copy(update={"checkpoint": name, "finished": finished, "before_decay": name if before_decay else old.before_decay})
    write_run_state(run.disk, run.out, new)
    keep = {new.checkpoint, old.checkpoint, new.before_decay}
    for entry in entries(folder):
        if entry not in keep:
            run.disk.remove(folder / entry)


def _advise(pictures: Pictures) -> None:
    """A small folder is allowed; what to expect of it is said."""
    if len(pictures.pixels) < FEW:
        warnings.warn(
            f"{len(pictures.pixels)} pictures are few: none is held out, and the model may learn them by heart. A few hundred are a start.",
            stacklevel=2,
        )


def seen_of(entry: str) -> int:
    return int(entry.partition("-")[0])


@contextmanager
def locked(out: Path, world: World) -> Iterator[None]:
    """One trainer a run.  The operating system lets go of the lock when a process dies, so none is ever stale."""
    if not world.leads:
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
        lock.release()
