"""Memory that a step frees is there for the next one."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = """
import resource
import numpy as np
from bowerbird.large_pages import keep_memory

def step():
    return sum(np.ones(2**18, np.float32)[0] + kept[0] for kept in [np.ones(2**18, np.float32) for _ in range(50)])

done = keep_memory()
before = step()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
assert [step() for _ in range(20)] == [before] * 20
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
print(any("hg" in line.split() for line in open("/proc/self/smaps") if line.startswith("VmFlags")))
"""


def steps() -> tuple[str, int, bool]:
    told = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True).stdout.split()
    return told[0], int(told[1]), told[2] == "True"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the GNU C library alone can be told so")
def test_steps_fetch_no_new_pages_from_the_system() -> None:
    """20 steps of 50 MB are 256,000 pages of 4 KiB; without this, tens of thousands of them are fetched."""
    kept, faults, large = steps()
    assert kept == "True" and faults < 500
    assert large or not Path("/sys/kernel/mm/transparent_hugepage").exists()
