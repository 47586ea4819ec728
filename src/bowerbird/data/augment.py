"""Mirror images, drawn by key: the same sample number always sees the same side."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bowerbird import draws

SIDES = re.compile(r"\b(left|right)\b|\btext\b|\bletters?\b|\bwords?\b", re.IGNORECASE)  # a caption that a mirror image contradicts


def mirrored(seed: int, samples: Sequence[int] | NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which samples are shown as mirror images, about half of them, by their global sample numbers."""
    return draws.uniform(seed, "flip", samples) < 0.5


def flip(pixels: NDArray[np.uint8], seed: int, samples: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
    """`pixels` (b, h, w, 3), mirrored left to right where `mirrored` says so for that row's sample number."""
    return flipped(pixels, mirrored(seed, samples))


def flipped(pixels: NDArray[np.uint8], which: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """`pixels` (b, h, w, 3), those rows mirrored left to right."""
    return np.where(which[:, None, None, None], pixels[:, :, ::-1], pixels)
