"""Mirror images, drawn by key: the same sample number always sees the same side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bowerbird import draws


def mirrored(seed: int, samples: Sequence[int] | NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which samples are shown as mirror images, about half of them, by their global sample numbers."""
    return draws.uniform(seed, "flip", samples) < 0.5


def flip(pixels: NDArray[np.uint8], seed: int, samples: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
    """`pixels` (b, h, w, 3), mirrored left to right where `mirrored` says so for that row's sample number."""
    return np.where(mirrored(seed, samples)[:, None, None, None], pixels[:, :, ::-1], pixels)
