"""Threads sleep while they wait, and are as many as are free: by affinity, by control group, by what runs beside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bowerbird import threads


def said_by(code: str, **environment: str) -> str:
    """What a fresh interpreter prints, in an environment without settings for threads."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "BOWERBIRD_"))}
    done = subprocess.run([sys.executable, "-c", code], env=plain | environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_waiting_threads_sleep_unless_the_user_says_otherwise() -> None:
    code = "import os, bowerbird; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
    assert said_by(code) == "passive 10000"
    assert said_by(code, OMP_WAIT_POLICY="active", GOMP_SPINCOUNT="9") == "active 9"
    assert said_by(f"import torch; {code}") == "None None"  # too late: OpenMP has read its settings


def test_torch_computes_with_the_threads_that_were_chosen() -> None:
    code = "from bowerbird.threads import choose_threads, chosen_by_hand; choose_threads({}); import torch; "
    code += "print(torch.get_num_threads(), chosen_by_hand())"
    free = int(said_by(code.format("None")).split()[0])
    assert 1 <= free <= threads.allowed_processors()
    assert said_by(code.format("None")).endswith("False")
    assert said_by(code.format(1)) == "1 True"
    assert said_by(code.format("None"), OMP_NUM_THREADS="1") == "1 True"


@pytest.mark.parametrize(("running", "free"), [(1, 4), (2, 3), (4, 1), (40, 1)])
def test_what_runs_beside_leaves_less(monkeypatch: pytest.MonkeyPatch, running: int, free: int) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(threads, "allowed_processors", lambda: 4)
    monkeypatch.setattr(threads, "_running_programs", lambda: running)
    assert threads.free_processors() == free


@pytest.mark.parametrize(
    ("files", "own", "quota"),
    [
        ({"cpu.max": "150000 100000"}, "0::/", 1.5),
        ({"cpu.max": "max 100000"}, "0::/", float("inf")),
        ({"cpu.max": "max 100000", "job/cpu.max": "200000 100000", "job/step/cpu.max": "max 100000"}, "0::/job/step", 2.0),
        ({"cpu,cpuacct/box/cpu.cfs_quota_us": "50000", "cpu,cpuacct/box/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/box", 0.5),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/elsewhere", 3.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/", float("inf")),
        ({"cpu.max": "nonsense"}, "0::/", float("inf")),
    ],
)
def test_the_tightest_control_group_counts(tmp_path: Path, files: dict[str, str], own: str, quota: float) -> None:
    """Both versions, at every level up to the root; a container sees its own group at the root."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "own").write_text(own)
    assert threads._quota(tmp_path, tmp_path / "own") == quota
