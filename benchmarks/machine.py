"""What the machine was and how fast it was at that moment; what a child process took."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bowerbird import hardware

PACKAGES = ("bowerbird", "torch", "numpy", "pillow", "diffusers", "denoising-diffusion-pytorch")
_SIDE, _ROUNDS = 1536, 6


def describe() -> dict[str, Any]:
    """Hardware, how much of it this run may use, its load and matrix-multiply rate now: timings compare only beside these."""
    return {
        "processor": hardware.describe(torch.device("cpu")),
        "cores": os.cpu_count(),
        "cores_used": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "matmul_gflops": round(matmul_gflops()),
    }


def matmul_gflops() -> float:
    """Best of a few float32 multiplications of 1536x1536 matrices, in 10^9 operations a second."""
    a, b = torch.randn(_SIDE, _SIDE), torch.randn(_SIDE, _SIDE)
    best = min(_seconds(a, b) for _ in range(_ROUNDS))
    return 2 * _SIDE**3 / best / 1e9


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    started = time.perf_counter()
    a @ b
    return time.perf_counter() - started


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Child:
    """A finished child process: wall-clock seconds from start to end, processor seconds, and the most memory it held."""

    seconds: float
    cpu_seconds: float  # less than the cores' worth of seconds where others used them too
    peak_bytes: int


def run_child(command: list[str], log: Path, cache: Path | None = None) -> Child:
    """Run a command to its end, its output into `log`, with a picture cache of its own where `cache` is given.

    RuntimeError with the end of the log when it fails.
    """
    environment = os.environ | ({"BOWERBIRD_CACHE": str(cache)} if cache else {})
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-2000:]}")
    return Child(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
