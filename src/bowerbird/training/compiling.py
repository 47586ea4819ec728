"""Kernels made for a network: `torch.compile` on the blocks that it repeats, where a run is long enough to repay it.

A block is compiled once for all of its repetitions, which is a quarter of the work of compiling the whole network and gives the
same speed.  A kernel follows from the shapes alone, never from what came before, so that a resumed run computes the same bits.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from bowerbird.cache import cache_root
from bowerbird.models.autoencoder import Residual
from bowerbird.models.transformer import Block
from bowerbird.progress import Progress, note, tell
from bowerbird.training.memory import no_trace
from bowerbird.training.run import Run

BLOCKS = (Block, Residual)
REPAID_SECONDS = 300  # of training, from which on it is tried: 26 s of one core once, 2 s later, and a quarter of the run won
WORTHWHILE = 1.03  # times as fast, below which a run stays as it is
SHAPES = 64  # for which a block is compiled: an autoencoder has a dozen widths and resolutions
TURNS, GAIN_SECONDS = 20, 10.0  # of two updates each, in which the gain is measured


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """What is worth compiling of a model."""
    return [module for module in model.modules() if isinstance(module, BLOCKS)]


def compiler_for(device: torch.device) -> str | None:
    """What makes kernels for this device here; None where nothing does."""
    if device.type == "cuda":
        return "triton" if importlib.util.find_spec("triton") and shutil.which(os.environ.get("CC", "gcc")) else None
    return shutil.which(os.environ.get("CXX", "g++")) if device.type == "cpu" else None


def worth_trying(run: Run, seconds: float) -> bool:
    """Whether kernels could repay themselves in a training that would take so many seconds without."""
    wanted = run.recipe.train.compile
    return wanted == "always" or (wanted == "auto" and seconds > REPAID_SECONDS)


def compile_blocks(run: Run) -> bool:
    """Compile what the run's network repeats, and make the kernels at once; where that cannot be, say so and leave it as it was.

    Everything but the kernels is afterwards as before: no weight moves, no number is drawn.
    """
    blocks = blocks_of(run.state.model)
    if not blocks:
        return False
    tell(run.on_progress, Progress("compile", 0, 1))
    failure = (
        _compiled(run, blocks) if compiler_for(run.device) else f"there is no {'triton' if run.device.type == 'cuda' else 'C++'} compiler"
    )
    run.check()
    if run.world.agree(failure is not None):
        for block in blocks:
            block._compiled_call_impl = None
        note(run.on_progress, f"no kernels of its own ({failure or 'another process has none'}): training is slower without, and as good")
        return False
    tell(run.on_progress, Progress("compile", 1, 1))
    return True


def _compiled(run: Run, blocks: list[nn.Module]) -> str | None:
    """Why it could not be done, None where it could."""
    import torch._dynamo.config
    import torch._inductor.config
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get("TORCHINDUCTOR_CACHE_DIR", default_cache_dir()) == default_cache_dir():  # in /tmp, which others can write
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_root() / "compiled")
    torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
    torch._inductor.config.compile_threads = 1  # in this process: nothing that has to be ended with it
    for block in blocks:
        block.compile(fullgraph=True, dynamic=False)
    try:
        with no_trace(run.device):
            forward_and_backward(run)
    except (RuntimeError, OSError) as error:
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    return None


def forward_and_backward(run: Run) -> None:
    """What an update does with the network, on the share and the micro-batch that it will have; the gradients are thrown away."""
    run.state.model.train()
    batch = run.objective.draw(*run.world.share(run.state.seen, run.state.seen + run.recipe.train.batch))
    losses = run.objective.losses(run.state.model, batch, slice(0, run.recipe.train.micro_batch or len(batch)))
    losses.sum().backward()  # type: ignore[no-untyped-call]
    run.state.model.zero_grad()
    if run.state.adversary is not None:
        run.state.adversary.critic.zero_grad()


def gain(run: Run, update: Callable[[], float], seconds_of_update: float) -> float:
    """How many times as fast an update is with the kernels as without: in turn, so that what else the machine does falls on both."""
    seconds: dict[str, list[float]] = {"force_eager": [], "default": []}
    for _ in range(max(1, min(TURNS, int(GAIN_SECONDS / (2 * seconds_of_update))))):  # as many on every process
        for stance, found in seconds.items():
            run.check()
            with torch.compiler.set_stance(stance):
                started = time.perf_counter()
                update()
                found.append(time.perf_counter() - started)
    return statistics.median(seconds["force_eager"]) / statistics.median(seconds["default"])
