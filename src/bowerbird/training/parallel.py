"""One process or many: `torchrun --nproc-per-node 2 -m bowerbird train ...` shares every batch, look and grid.

The batch is global: each process takes its share of the same keyed samples, so a run may be stopped on two processes and
gone on with on one or four.  The main process (rank 0) alone writes.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from bowerbird.errors import RunError

# Gradients are summed where they are; everything else, such as whether to stop, between processors.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
HANG_SECONDS = 300  # a process that answers nothing for so long is given up; one that dies is noticed at once


@dataclass(frozen=True)
class World:
    """How many processes train together, and which of them this is."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, start: int, stop: int) -> tuple[int, int]:
        """This process's part of start..stop, in order of ranks; parts differ by one at most."""
        cuts = np.linspace(start, stop, self.size + 1).astype(int)
        return int(cuts[self.rank]), int(cuts[self.rank + 1])

    def agree(self, flag: bool) -> bool:
        """Whether any process raised the flag; all get the same answer."""
        return bool(self.all_reduce(torch.tensor(float(flag)))) if self.size > 1 else flag

    def all_reduce(self, part: Tensor) -> Tensor:
        """The sum over processes.  It travels between processors, whatever device `part` is on: such sums are small."""
        if self.size == 1:
            return part
        whole = part.detach().cpu().clone()
        dist.all_reduce(whole)
        return whole.to(part.device)

    def broadcast(self, number: float) -> float:
        """The main process' number, on all."""
        return float(self.all_reduce(torch.tensor(number if self.is_main else 0.0, dtype=torch.float64)))

    def all_gather(self, rows: NDArray[np.float64], start: int, count: int) -> NDArray[np.float64]:
        """Rows start.. of an array of `count` rows, from each process its own -> the whole array, on all."""
        whole = np.zeros((count, *rows.shape[1:]))
        whole[start : start + len(rows)] = rows
        return self.all_reduce(torch.from_numpy(whole)).numpy()

    def wait(self) -> None:
        """Until every process has come here."""
        self.agree(False)  # an answer takes all; a barrier would choose a device for itself

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process does it alone, then the others: they find on disk what it wrote."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()


def device_of_process(device: torch.device, count: int, environment: Mapping[str, str] = os.environ) -> torch.device:
    """The device of this process: where torchrun started several, each takes the GPU of its own number on this machine.

    count: GPUs of the machine.  RunError when there are too few, or when all are to share one.
    """
    if int(environment.get("WORLD_SIZE", "1")) == 1 or device.type == "cpu":
        return device
    if device.type not in BACKENDS:
        raise RunError(f"several processes cannot train on {device.type!r} together. Use --device cpu, or one process.")
    local, here = int(environment.get("LOCAL_RANK", "0")), int(environment.get("LOCAL_WORLD_SIZE", environment["WORLD_SIZE"]))
    if device.index is not None and here > 1:
        raise RunError(f"{here} processes cannot share {str(device)!r}: each takes a GPU of its own. Use --device cuda.")
    if here > count:
        raise RunError(f"{here} processes were started here, and there are {count} GPUs. Start no more: torchrun --nproc-per-node {count}")
    return torch.device("cuda", device.index if device.index is not None else local)


@contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """The processes that torchrun started, or this one alone.  RunError when another of them is gone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(BACKENDS[device.type], timeout=timedelta(seconds=HANG_SECONDS))
    try:
        yield World(dist.get_rank(), size)
    except RuntimeError as error:
        if isinstance(error, dist.DistBackendError) or "gloo" in str(error):  # gloo has no class of its own for a lost connection
            raise RunError(
                f"another of the {size} processes has ended or does not answer, so all stop. What was saved is intact; run the same "
                "command again, on as many processes as you like."
            ) from error
        raise
    else:
        gc.collect()  # DistributedDataParallel refers to itself; with it the group's threads would outlive Python, which aborts
    finally:
        dist.destroy_process_group()
