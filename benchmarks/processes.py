"""What sharing a batch between processes costs: milliseconds per update of two processes beside one that does the same share.

    python benchmarks/processes.py --pictures examples/birds            writes benchmarks/processes.json

Each process has one thread, and each batch below is a share of 16 pictures.

    one                one process, a core for itself
    two, apart         two such processes that know nothing of each other: they share memory and its bandwidth
    exchange alone     the gradients of the network (4.3 million numbers) summed over two processes that do nothing else
    two, together      one run of 32 pictures per update on two processes (torchrun, gloo): what is on top is the exchange of gradients
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SHARE, UPDATES, LEFT_OUT = 16, 30, 5
NUMBERS = 4_330_000  # parameters of the transformer nano
RECIPES = ("pixel-32-cpu", "pixel-64")


def train_and_time(pictures: Path, recipe: str, batch: int, out: Path) -> None:
    """Print the fewest milliseconds between two updates, after the first few: what else the machine does makes others longer."""
    import torch

    from bowerbird.progress import Progress
    from bowerbird.recipe import read_recipe
    from bowerbird.training import train

    torch.set_num_threads(1)
    times = []

    def on_progress(event: Progress) -> None:
        if event.stage == "train":
            times.append(time.perf_counter())

    settings = [f"train.batch={batch}", f"train.pictures={batch * UPDATES}", "sample.every_epochs=1000", "sample.steps=1"]
    train(pictures, out, read_recipe(recipe, settings), device=torch.device("cpu"), on_progress=on_progress)
    if times:  # only the first process of a run hears of progress
        print(json.dumps(1000 * float(np.diff(times[LEFT_OUT:]).min())), flush=True)


def time_exchange() -> None:
    """Print the fewest milliseconds of one sum over all processes."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    gradients, times = torch.ones(NUMBERS), []
    for _ in range(50):
        began = time.perf_counter()
        dist.all_reduce(gradients)
        times.append(time.perf_counter() - began)
    if dist.get_rank() == 0:
        print(json.dumps(1000 * min(times)), flush=True)
    dist.destroy_process_group()


def start(command: list[str], pictures: Path, recipe: str, batch: int, out: Path) -> subprocess.Popen[str]:
    arguments = [str(Path(__file__).resolve()), "--pictures", str(pictures), "--recipe", recipe, "--batch", str(batch), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def milliseconds(*processes: subprocess.Popen[str]) -> float:
    answers = [process.communicate()[0] for process in processes]
    return float(np.mean([json.loads(answer.splitlines()[-1]) for answer in answers]))


def compare(pictures: Path, recipe: str) -> dict[str, float]:
    python, torchrun = [sys.executable], [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        one = milliseconds(start(python, pictures, recipe, SHARE, out / "one"))
        apart = milliseconds(*(start(python, pictures, recipe, SHARE, out / f"apart-{number}") for number in range(2)))
        together = milliseconds(start(torchrun, pictures, recipe, 2 * SHARE, out / "together"))
    return {
        "one, ms": round(one, 1),
        "two apart, ms": round(apart, 1),
        "two together, ms": round(together, 1),
        "exchange, ms": round(together - apart, 1),
        "exchange, %": round(100 * (together / apart - 1), 1),
        "pictures a second against one process": round(2 * one / together, 2),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pictures", type=Path, default=Path("examples/birds"))
    options.add_argument("--recipe", choices=RECIPES, help=argparse.SUPPRESS)
    options.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--exchange", action="store_true", help="only the exchange alone; to be run by torchrun")
    chosen = options.parse_args()
    if chosen.exchange:
        time_exchange()
        return
    if chosen.out:
        train_and_time(chosen.pictures, chosen.recipe, chosen.batch, chosen.out)
        return
    results = {"pictures per process and update": SHARE} | {recipe: compare(chosen.pictures, recipe) for recipe in RECIPES}
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
