"""Everything that decides the future of a run, in one immutable folder.

checkpoints/<pictures seen>/
  checkpoint.json           counters, best so far, recipe, versions; sealed, with every file's hash
  weights.safetensors  ema.safetensors  optimizer.safetensors  [adversary.safetensors]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn

from bowerbird import __version__, weights
from bowerbird.errors import ModelError, RecipeError, RunError
from bowerbird.faults import first_fault
from bowerbird.formats import FORMAT_VERSION, upgrade_checkpoint, upgrade_tensor_name
from bowerbird.recipe import Recipe, check_recipe
from bowerbird.run_folder import CHECKPOINT_MANIFEST
from bowerbird.storage import Disk, read_sealed, write_folder
from bowerbird.training.adversary import Adversary
from bowerbird.training.optimizer import Ema, adversary_optimizer, load_optimizer_tensors, make_optimizers, optimizer_tensors
from bowerbird.training.validation import Best

SAVE_SECONDS = 300  # an extra checkpoint when this long has passed; it moves no weight


@dataclass
class TrainState:
    """The moving parts of a run.  seen: pictures so far, the whole state of the data; step: updates tried so far."""

    model: nn.Module
    ema: Ema
    optimizers: list[torch.optim.Optimizer]
    adversary: Adversary | None = None  # its critic has the last optimizer
    seen: int = 0
    step: int = 0
    snapshot_at: int = 0  # pictures seen at the last snapshot
    skipped: int = 0  # updates skipped in a row because a value was not finite
    seconds: float = 0.0  # spent training, over all sessions
    best: Best = field(default_factory=Best)


def new_state(model: nn.Module, recipe: Recipe, adversary: Adversary | None = None) -> TrainState:
    optimizers = make_optimizers(recipe.train, model)
    if adversary is not None:
        optimizers.append(adversary_optimizer(recipe.train, adversary.critic))
    return TrainState(model, Ema(model, recipe.train.ema), optimizers, adversary)


class _Manifest(BaseModel):
    """checkpoint.json as it must be, whoever wrote it."""

    seen: int = Field(ge=0, le=10**15)
    step: int = Field(ge=0, le=10**15)
    snapshot_at: int = Field(ge=0, le=10**15)
    skipped: int = Field(ge=0, le=10**15)
    seconds: float = Field(ge=0)
    best: Best
    provenance: dict[str, Any]


def save_checkpoint(disk: Disk, target: Path, state: TrainState, provenance: dict[str, Any]) -> None:
    """Write the state as the new folder `target`.  `provenance` (recipe, data, threads ...) are compared on resume."""
    manifest = {
        "format_version": FORMAT_VERSION,
        "written_by": f"bowerbird {__version__}",
        "seen": state.seen,
        "step": state.step,
        "snapshot_at": state.snapshot_at,
        "skipped": state.skipped,
        "seconds": state.seconds,
        "best": state.best.model_dump(mode="json"),
        "provenance": provenance,
    }
    write_folder(disk, target, _files(state), CHECKPOINT_MANIFEST, manifest)


def read_provenance(checkpoint: Path) -> dict[str, Any]:
    return _manifest(checkpoint).provenance


def read_recipe_of(checkpoint: Path) -> Recipe:
    """The recipe that a checkpoint was written under."""
    recipe = read_provenance(checkpoint).get("recipe")
    try:
        return check_recipe(recipe if isinstance(recipe, dict) else {"recipe": recipe})
    except RecipeError as error:
        raise RunError(f"{str(checkpoint)!r} names a recipe that cannot be ({error}) Begin a new run with another --out.") from error


def load_checkpoint(checkpoint: Path, state: TrainState) -> None:
    """Bring `state` to where the checkpoint was written.  The folder has been verified by whoever chose it."""
    manifest = _manifest(checkpoint)
    weights.load_into(state.model, _weights(checkpoint / "weights.safetensors"), str(checkpoint))
    weights.load_into(state.ema.model, _weights(checkpoint / "ema.safetensors"), str(checkpoint))
    if state.adversary is not None:
        weights.load_into(state.adversary.critic, weights.load(checkpoint / "adversary.safetensors"), str(checkpoint))
    moments = weights.load(checkpoint / "optimizer.safetensors")
    weights.check_numbers(moments, str(checkpoint))
    load_optimizer_tensors(state.optimizers, moments)
    state.seen, state.step, state.snapshot_at, state.skipped = manifest.seen, manifest.step, manifest.snapshot_at, manifest.skipped
    state.seconds, state.best = manifest.seconds, manifest.best


def _manifest(checkpoint: Path) -> _Manifest:
    try:
        return _Manifest.model_validate(upgrade_checkpoint(read_sealed(checkpoint / CHECKPOINT_MANIFEST)))
    except ValidationError as error:
        raise ModelError(f"the checkpoint {str(checkpoint)!r} is wrong: {first_fault(error)}. Restore it.") from error


def _weights(path: Path) -> dict[str, Tensor]:
    return {upgrade_tensor_name(name): tensor for name, tensor in weights.load(path).items()}


def checkpoint_bytes(state: TrainState) -> int:
    """What a checkpoint takes on the disk, with the moments that a new optimizer does not have yet: two numbers a weight at most."""
    kept: int = sum(tensor.nbytes for module in (state.model, state.ema.model) for tensor in module.state_dict().values())
    moments: int = 2 * sum(p.nbytes for optimizer in state.optimizers for group in optimizer.param_groups for p in group["params"])
    return kept + moments


def state_tensors(state: TrainState) -> dict[str, dict[str, Tensor]]:
    """The tensors of each file of a checkpoint."""
    tensors = {
        "weights.safetensors": state.model.state_dict(),
        "ema.safetensors": state.ema.model.state_dict(),
        "optimizer.safetensors": optimizer_tensors(state.optimizers),
    }
    if state.adversary is not None:
        tensors["adversary.safetensors"] = state.adversary.critic.state_dict()
    return tensors


def _files(state: TrainState) -> Iterator[tuple[str, bytes]]:
    for name, tensors in state_tensors(state).items():
        yield name, weights.to_bytes(tensors)
