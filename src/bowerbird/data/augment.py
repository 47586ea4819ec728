"""Mirror images, drawn by key: the same sample number always sees the same side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bowerbird import draws


def flip(pixels: NDArray[np.uint8], seed: int, samples: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
    """`pixels` (b, h, w, 3) with about half of them mirrored left to right; row k depends on `samples[k]`, its global sample number."""
    mirrored = draws.uniform(seed, "flip", samples) < 0.5
    return np.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels)
