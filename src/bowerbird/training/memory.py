"""The memory that an update takes, measured before it is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bowerbird import hardware
from bowerbird.errors import ResourceError
from bowerbird.recipe import Recipe
from bowerbird.training.run import Run

# Peak of an update over the larger of what its forward pass kept and the weights.  Measured, float32 on a CPU: transformer nano
# at 64 px 1.048 (8 and 32 pictures), U-Net ddpm-micro at 64 px 1.061 (4 and 16); where gradients outweigh: transformer base
# (2 pictures) 1.03, U-Net ddpm-114m at 32 px (2 pictures) 1.06.
BACKWARD = 1.06


@contextmanager
def no_trace(device: torch.device) -> Iterator[None]:
    """The global random state is afterwards as it was."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@dataclass(frozen=True)
class Memory:
    """Bytes on the training device that a run takes beyond its weights and their average.

    weights: of the model, and as much for each moment and for the gradients; fixed, per_picture: what a forward pass keeps for
    the backward pass; save: what writing a checkpoint takes.
    """

    weights: int
    fixed: int
    per_picture: int
    save: int

    def peak(self, pictures: int, gradients_wait: bool) -> int:
        """For a forward pass of so many pictures; gradients_wait: those of an earlier pass, or of other processes, lie there meanwhile.

        Otherwise gradients come as what was kept goes, and only the larger of both counts.
        """
        kept = self.fixed + pictures * self.per_picture
        passing = self.weights + kept if gradients_wait else max(self.weights, kept)
        return max(2 * self.weights + int(BACKWARD * passing), self.save)


def measure_memory(run: Run) -> Memory:
    """From two forward passes, of one picture and of two."""
    weights = sum(p.nbytes for p in run.state.model.parameters())
    one, two = kept_bytes(run, 1), kept_bytes(run, 2)
    # the moments, twice: as tensors' bytes and as the file made of them; a GPU hands them to the host first
    save = 2 * weights + 2 * 2 * weights if run.device.type == "cpu" else 0
    return Memory(weights, fixed=max(0, 2 * one - two), per_picture=two - one, save=save)


def kept_bytes(run: Run, pictures: int) -> int:
    """What the forward pass of so many pictures keeps for the backward pass, weights aside.

    Where parts of it are to be done twice: what goes into them, and what the largest of them keeps while it is done again.
    """
    batch = run.objective.draw(0, pictures)
    own = {p.untyped_storage().data_ptr() for network in _networks(run) for p in network.parameters()}
    kept, again = _Kept(own), list[int]()

    def once(module: Callable[..., Any], *args: Any) -> Any:
        for tensor in args:
            if isinstance(tensor, Tensor):
                kept.keep(tensor)
        inside = _Kept(own)
        with torch.autograd.graph.saved_tensors_hooks(inside.keep, lambda tensor: tensor):
            found = module(*args)
        again.append(inside.bytes())
        return found

    run.state.model.train()
    recomputed = [module for module in _recomputable(run) if module.is_gradient_checkpointing]
    for module in recomputed:
        module.enable_gradient_checkpointing(once)
    try:
        with no_trace(run.device), torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor):
            loss = run.objective.losses(run.state.model, batch, slice(None)).mean()
        kept_in_all = kept.bytes() + max(again, default=0)
        del loss  # until now it held what was kept
        return kept_in_all
    finally:
        for module in recomputed:
            module.enable_gradient_checkpointing()


class _Kept:
    """Tensors that a forward pass keeps, each memory once, and none of the weights', `own`."""

    def __init__(self, own: Set[int]) -> None:
        self.own, self.tensors = own, dict[int, Tensor]()

    def keep(self, tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in self.own:
            self.tensors[address] = tensor
        return tensor

    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.tensors.values())


def _networks(run: Run) -> tuple[nn.Module, ...]:
    return run.state.model, *run.objective.frozen


def _recomputable(run: Run) -> list[Any]:
    """The networks that can do parts of their forward pass twice: diffusers'."""
    return [module for network in _networks(run) for module in network.modules() if hasattr(module, "enable_gradient_checkpointing")]


def require_memory(run: Run) -> str:
    """Sees to it that an update fits into memory.

    What the recipe leaves open is set in the run, to what is fastest of what fits: how many pictures go through the network at a time,
    and whether parts of the pass are done twice.  Returns what there is to say of it.
    ResourceError, with what to change, when the run would take more memory than there is.
    """
    free, train, processes = hardware.available_memory_bytes(run.device), run.recipe.train, run.world.size
    chooses = run.recipe.model.network == "lora"
    sizes = [micro for micro in range(train.batch, 0, -1) if train.batch % micro == 0]
    asked, smaller = train.micro_batch or train.batch, list[int]()
    if train.micro_batch or not chooses:
        sizes, smaller = [asked], [micro for micro in sizes if micro < asked]
    asked_twice = run.recipe.lora.recompute
    for twice in (False, True) if chooses and asked_twice == "auto" else (asked_twice is True,):
        for module in _recomputable(run) if chooses else ():
            module.enable_gradient_checkpointing() if twice else module.disable_gradient_checkpointing()
        memory = measure_memory(run)

        def needed(micro_batch: int, memory: Memory = memory) -> int:
            return memory.peak(math.ceil(micro_batch / processes), gradients_wait=processes > 1 or micro_batch < train.batch)

        for size in sizes:
            if not run.world.agree(needed(size) > free):
                return _chosen(run, size, twice, needed(size), free) if chooses else ""
    fitting = [micro for micro in smaller if needed(micro) <= free]
    advice = f"--set train.micro_batch={fitting[0]}" if fitting else "a smaller network or data.size"
    raise ResourceError(f"this recipe needs {needed(sizes[-1]) / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free. Try {advice}.")


def _chosen(run: Run, size: int, twice: bool, needed: int, free: int) -> str:
    """Sets it, and says it in a line."""
    run.recipe = settled(run.recipe, 0 if size == run.recipe.train.batch else size, twice)
    means = [f"{size} pictures at a time" if size > 1 else "one picture at a time"]
    means += ["passes done twice (gradient checkpointing)"] * twice
    means += [f"the text encoders {'stay' if run.recipe.lora.text_encoders else 'are let go'}"]
    return f"memory: an update takes {needed / 1e9:.1f} GB beside the model, of {free / 1e9:.1f} GB that are free: {', '.join(means)}"


def settled(recipe: Recipe, micro_batch: int, recompute: bool | Literal["auto"]) -> Recipe:
    """The recipe with what it left open decided."""
    train = recipe.train.model_copy(update={"micro_batch": recipe.train.micro_batch or micro_batch})
    twice = recompute if recipe.lora.recompute == "auto" else recipe.lora.recompute
    return recipe.model_copy(update={"train": train, "lora": recipe.lora.model_copy(update={"recompute": twice})})
