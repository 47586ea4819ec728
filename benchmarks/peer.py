"""What the peers' training scripts share: when their time began, and the words of their command line.

Imported before anything slow: the imports are part of the time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from pathlib import Path

# On one core processor time counts, so that other work there is not held against it.  Ours has no such clock.
CLOCK = time.process_time if len(os.sched_getaffinity(0)) == 1 else time.monotonic
STARTED = CLOCK()


def read_options(what: str | None, variants: Iterable[str]) -> argparse.Namespace:
    """folder of pictures, out, minutes, seed and variant, from the command line."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", choices=tuple(variants), default="medium")
    return parser.parse_args()
