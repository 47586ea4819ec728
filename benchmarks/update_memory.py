"""How much memory an update takes beside what its forward pass keeps: the measurement behind `BACKWARD` in training/budget.py.

python benchmarks/update_memory.py examples/birds pixel-64 train.batch=8
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from bowerbird.data import open_pictures
from bowerbird.recipe import read_recipe
from bowerbird.storage import Disk
from bowerbird.training import loop
from bowerbird.training.memory import measure_memory
from bowerbird.training.parallel import World
from bowerbird.training.resume import start_or_resume
from bowerbird.training.run import Setup
from bowerbird.training.signals import StopSignals


def main(pictures: str, name: str, *settings: str) -> None:
    torch.set_num_threads(1)
    recipe = read_recipe(name, settings)
    with tempfile.TemporaryDirectory() as out:
        shown = open_pictures(Path(pictures), recipe.data.size)
        run = start_or_resume(Setup(Path(out), recipe, shown, torch.device("cpu"), Disk(), StopSignals(), World()))
        assert run is not None
        memory = measure_memory(run)
        loop._update(run)  # the moments are made
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            loop._update(run)
    held = peak = 0
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    kept = memory.fixed + recipe.train.batch * memory.per_picture
    told = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in (("weights", memory.weights), ("kept", kept), ("peak", peak)))
    print(f"{told}, {peak / max(kept, memory.weights):.3f} of the larger")


if __name__ == "__main__":
    main(*sys.argv[1:])
