"""What the machine offers: device, precision, memory."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
import time
from contextlib import AbstractContextManager
from functools import cache

import torch

from bowerbird.errors import ResourceError, did_you_mean

WORTHWHILE = 1.5  # times as fast as fp32, before bf16 is chosen


def choose_device(name: str | None = None) -> torch.device:
    """The named device, or the best there is: CUDA, then Apple's MPS, then the CPU."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ResourceError(f"there is no device {name!r} here. Use --device cpu, or install a torch build for it.") from error
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """'fp32' or 'bf16'; auto is bf16 autocast where the processor multiplies it, because elsewhere it is slower than fp32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if device.type == "cpu" and bf16_gain() > WORTHWHILE else "fp32"


@cache
def bf16_gain() -> float:
    """How many times as fast this CPU multiplies matrices in bf16 as in fp32, asked of it once a process, in some milliseconds.

    With AMX or AVX-512 BF16 it is 4 and more, emulated well below 1: a busy machine blurs that, but does not turn it round.
    """

    def seconds(dtype: torch.dtype) -> float:
        square = torch.ones(384, 384, dtype=dtype)
        best = float("inf")
        for _ in range(6):
            started = time.perf_counter()
            torch.mm(square, square)
            best = min(best, time.perf_counter() - started)
        return best

    return seconds(torch.float32) / seconds(torch.bfloat16)


def dtype_of(precision: str) -> torch.dtype | None:
    """The dtype a pretrained model is loaded in; None lets the device decide.  ResourceError for a word that is none."""
    known = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in known:
        raise ResourceError(f"there is no precision {precision!r}.{did_you_mean(precision, known)}")
    return known[precision]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Weights stay float32; only the arithmetic inside is bf16."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def describe(device: torch.device) -> str:
    """Name of the hardware in words, for reports."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def _cpu_name() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123 - not a user's file
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory this process has held so far: on the GPU for CUDA, resident otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # where ru_maxrss is also that of the program which started this one
        with open("/proc/self/status") as lines:  # noqa: PTH123 - not a user's file
            for line in lines:
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, kilobytes elsewhere


def available_memory_bytes(device: torch.device) -> int:
    """Memory that a run could still take on this device."""
    if device.type == "cuda":
        # what torch keeps of the memory that earlier work gave back is there to be used again
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if sys.platform == "linux":
        with open("/proc/meminfo") as lines:  # noqa: PTH123 - not a user's file
            for line in lines:
                if line.startswith("MemAvailable"):  # free pages, and those that only cache files
                    return int(line.split()[1]) * 1024
    pages, page_bytes = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return pages * page_bytes
