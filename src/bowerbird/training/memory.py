"""The memory that an update takes, measured before it is needed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from bowerbird import hardware
from bowerbird.errors import ResourceError
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
    """What the forward pass of so many pictures keeps for the backward pass, weights aside."""
    batch = run.objective.draw(0, pictures)
    own = {p.untyped_storage().data_ptr() for network in (run.state.model, *run.objective.frozen) for p in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            kept[address] = tensor
        return tensor

    run.state.model.train()
    with no_trace(run.device), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = run.objective.losses(run.state.model, batch, slice(None)).mean()
    bytes_kept = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del loss
    return bytes_kept


def require_memory(run: Run) -> None:
    """ResourceError, with what to change, when the run would take more memory than there is."""
    memory, free, train, processes = measure_memory(run), hardware.available_memory_bytes(run.device), run.recipe.train, run.world.size

    def needed(micro_batch: int) -> int:
        return memory.peak(math.ceil(micro_batch / processes), gradients_wait=processes > 1 or micro_batch < train.batch)

    size = train.micro_batch or train.batch
    if not run.world.agree(needed(size) > free):
        return
    fitting = [micro for micro in range(1, size) if train.batch % micro == 0 and needed(micro) <= free]
    advice = f"--set train.micro_batch={fitting[-1]}" if fitting else "a smaller network or data.size"
    raise ResourceError(f"this recipe needs {needed(size) / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free. Try {advice}.")
