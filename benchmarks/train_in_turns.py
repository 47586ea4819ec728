"""A training that goes on by so many updates at each line it reads, and says how long they took: `benchmarks.steps` starts several.

It knows nothing of the benchmarks, so that an older Bowerbird can run it, from a checkout on PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bowerbird.errors import Stopped
from bowerbird.recipe import read_recipe
from bowerbird.training import train


def main(pictures: str, out: str, recipe: str, threads: str, *settings: str) -> None:
    torch.set_num_threads(int(threads))
    began, left = (0.0, 0.0), 0

    def answer(event: Any) -> bool:
        """At the end of each round, and before the first: say what it took, and wait for the next."""
        nonlocal began, left
        if event.stage != "train":
            return True
        left -= 1
        if left <= 0:
            seconds, processor = (now - then for now, then in zip((time.perf_counter(), time.process_time()), began, strict=True))
            print(json.dumps({"seconds": seconds, "cpu_seconds": processor}), flush=True)
            left = int(sys.stdin.readline() or 0)
            began = time.perf_counter(), time.process_time()
        return left > 0

    try:
        train(Path(pictures), Path(out), read_recipe(recipe, settings), device=torch.device("cpu"), on_progress=answer)
    except Stopped:
        os._exit(0)


main(*sys.argv[1:])
