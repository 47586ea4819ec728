"""Training pictures a second by how an update computes, and against another checkout of Bowerbird: in turn, so that what else the
machine does falls on all alike."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.pictures import prepare
from bowerbird.hardware import choose_device
from bowerbird.recipe import read_recipe
from bowerbird.training import Budget, forecast

UPDATES, ROUNDS = 10, 7
LENGTH = ("train.pictures=10000000", "train.init=")  # nowhere near its end, so that nothing else is done meanwhile
WAYS = {
    "fp32": ("train.precision=fp32", "train.compile=never"),
    "bf16": ("train.precision=bf16", "train.compile=never"),
    "bf16, compiled": ("train.precision=bf16", "train.compile=always"),
    "bf16, compiled, batch 32": ("train.precision=bf16", "train.compile=always", "train.batch=32"),
}
SIDE = 1536  # of the matrices that tell what a core multiplies
TRAINER = Path(__file__).with_name("train_in_turns.py")


@dataclass
class Trainer:
    """A training in a process of its own, which stands still until it is told to go on."""

    process: subprocess.Popen[str]

    def go_on(self, updates: int) -> dict[str, float]:
        """What so many updates took, by the clock and of the processor."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{updates}\n")
        self.process.stdin.flush()
        return self.wait()

    def wait(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a trainer ended with {self.process.wait()}; its words are above")
        found: dict[str, float] = json.loads(line)
        return found

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def pictures_a_second(options: argparse.Namespace) -> dict[str, Any]:
    """Every way, and the other checkout as it is, on one thread and on all: pictures a second, and of a second of one core."""
    bench = prepare(options.pictures, options.splits, options.size, options.work)
    name = options.variant or "latent-64"
    threads = [options.threads] if options.threads else sorted({1, len(os.sched_getaffinity(0))})
    recipe = read_recipe(name, [*LENGTH, "train.compile=never"])
    flops = forecast(bench.folder, recipe, Budget(), device=choose_device("cpu")).flops_per_picture
    return {
        "name": f"steps-{Path(name).stem}",
        "recipe": Path(name).stem,
        "before": _commit(options.before) if options.before else "",
        "updates": UPDATES * ROUNDS,
        "flops_per_picture": flops,
        "multiplied": {"fp32": core_gflops(torch.float32), "bf16": core_gflops(torch.bfloat16)},
        "rows": [row for count in threads for row in _in_turns(bench.folder, name, count, options)],
    }


def _commit(checkout: Path) -> str:
    return subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def core_gflops(dtype: torch.dtype) -> float:
    """What one core multiplies: the median of a few products of square matrices, in 10^9 operations a second of its time."""
    before, square = torch.get_num_threads(), torch.ones(SIDE, SIDE, dtype=dtype)
    torch.set_num_threads(1)
    seconds = []
    for _ in range(7):
        began = time.process_time()
        torch.mm(square, square)
        seconds.append(time.process_time() - began)
    torch.set_num_threads(before)
    return 2 * SIDE**3 / statistics.median(seconds) / 1e9


def _in_turns(pictures: Path, recipe: str, threads: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    ways: dict[str, tuple[Path | None, tuple[str, ...]]] = {way: (None, settings) for way, settings in WAYS.items()}
    if options.before:
        ways = {"before": (options.before / "src", ()), **ways}
    trainers = {way: _started(pictures, recipe, threads, way, *each, options.work) for way, each in ways.items()}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, trainer in trainers.items():
            found[way].append(trainer.go_on(UPDATES))
    for trainer in trainers.values():
        trainer.end()
    rows = []
    for way, (_, settings) in ways.items():
        batch = read_recipe(recipe, settings).train.batch
        clock, processor = (UPDATES * batch / statistics.median(each[kind] for each in found[way]) for kind in ("seconds", "cpu_seconds"))
        rows.append({"threads": threads, "way": way, "batch": batch, "pictures_per_second": clock, "per_cpu_second": processor})
    return rows


def _started(pictures: Path, recipe: str, threads: int, way: str, source: Path | None, settings: tuple[str, ...], work: Path) -> Trainer:
    out = work / f"steps-{way.replace(', ', '-')}"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-P", str(TRAINER), str(pictures), str(out), recipe, str(threads), *LENGTH, *settings]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | ({"PYTHONPATH": str(source)} if source else {})
    trainer = Trainer(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment))
    trainer.wait()  # its first update, with all that is made ready before
    return trainer
