"""How many threads compute, and how they wait: decided before torch loads, because OpenMP reads its settings once.

OpenMP's threads spin while they wait for each other.  On a machine that does other things one of them is often not running,
and all the others burn their time slices waiting for it: two threads on two busy cores painted 20 times slower than one.  To
sleep at once is no cure: a step has hundreds of waits of some microseconds each, and to be woken costs more than that (one
picture took two threads as long as one).  So threads spin for about as long as waking takes, then sleep, and there are only as
many as there are processors free.  Measured: docs/budget.md, *Threads that wait*.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

_SAMPLES, _PAUSE_SECONDS = 7, 0.01  # of how many programs want to run at this moment
_BY_HAND = "OMP_NUM_THREADS"
_SPINS = "10000"  # turns of libgomp's waiting loop before a thread sleeps: some tens of microseconds


def sleep_while_waiting() -> None:
    """Threads that wait spin briefly, then sleep.  Of no use once torch is loaded, and never against what the user has set."""
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def choose_threads(wanted: int | None = None) -> None:
    """Compute with `wanted` threads; by default with as many as OMP_NUM_THREADS says, or else as are free."""
    if wanted is None and (_BY_HAND in os.environ or "torch" in sys.modules):
        return
    os.environ["BOWERBIRD_THREADS"] = "by hand" if wanted is not None else "as are free"
    os.environ[_BY_HAND] = str(wanted or free_processors())
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(wanted)


def chosen_by_hand() -> bool:
    """Whether somebody said how many threads there are to be; otherwise a run that goes on takes as many as it began with."""
    return _BY_HAND in os.environ and os.environ.get("BOWERBIRD_THREADS") != "as are free"


def free_processors() -> int:
    """Processors that this process may use and that nobody else is using, one at least."""
    busy = _running_programs() - 1  # this one is running, too
    return max(1, min(allowed_processors(), (os.cpu_count() or 1) - busy))


def allowed_processors() -> int:
    """Processors that this process may use: by its affinity, and by the quota of its control groups, rounded."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, round(min(count, _quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")))))


def _quota(root: Path, own: Path) -> float:
    """Processors that control groups grant, versions 2 and 1; infinity where they grant all.  The tightest of all levels counts."""
    quotas = [float("inf")]
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return quotas[0]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        here = base / path.lstrip("/")
        for folder in (here, *here.parents):
            if not folder.is_relative_to(base):
                break
            quotas.append(_quota_of(folder))
        quotas.append(_quota_of(root / "cpu") if controllers else quotas[0])
    return min(quotas)


def _quota_of(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return int(quota) / int(period) if quota not in ("max", "-1") else float("inf")
    except (OSError, ValueError, ZeroDivisionError):
        return float("inf")


def _running_programs() -> int:
    """How many threads of all programs want a processor, the median of a few looks; the load average would remember the last minute."""
    seen = []
    for look in range(_SAMPLES):
        try:
            seen.append(int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]))
        except (OSError, ValueError, IndexError):  # not Linux: what this system says of the last minute
            return 1 + round(os.getloadavg()[0]) if hasattr(os, "getloadavg") else 1
        if look < _SAMPLES - 1:
            time.sleep(_PAUSE_SECONDS)
    return int(statistics.median(seen))
