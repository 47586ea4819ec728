"""What a picture shows, in 64 numbers: a condition for pictures that come without labels or captions.

A model that is told what each training picture shows only has to learn how such a thing looks, and guidance works as it
does with labels.  To paint, it is told something near to what one of its training pictures shows: a draw from a kernel
density of theirs.  Representation-conditioned generation (RCG; Li et al. 2024, arXiv:2312.03701), with the density in
place of a second generator.

    pooled features of EfficientNet-Lite0, (N, 1280)  ->  project  ->  whitened principal components, (N, 64)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bowerbird import draws, weights

COMPONENTS = 64
INPUT_PX = 128  # what the feature network sees: a third of the work of its usual 224, and enough for what it is used for here
BANDWIDTH = 0.4  # of the kernels.  Models learn from representations blurred as much, so that what they paint from is nothing new to them
KEPT = 4096  # training pictures whose representations a model folder holds, 128 bytes each
PROJECTION = Path(__file__).with_suffix(".safetensors")  # scripts/fit_image_embedding.py made it


@dataclass(frozen=True)
class Representations:
    """Of pictures: components (N, 64) float32, labels (N,) int64, -1 for none."""

    components: Tensor
    labels: Tensor

    def drawn(self, seeds: Sequence[int], label: int | None = None) -> Tensor:
        """A draw from the kernel density, of the pictures with that label if one is given, (len(seeds), 64): each by its own seed.

        A label that none of the pictures has counts as none given.
        """
        of_label = torch.nonzero(self.labels == label).flatten() if label is not None else torch.empty(0)
        rows = of_label if len(of_label) else torch.arange(len(self.components))
        chosen = [int(rows[int(draws.uniform(seed, "representation", [0])[0] * len(rows))]) for seed in seeds]
        noise = np.concatenate([draws.normal(seed, "representation noise", [0], (COMPONENTS,)) for seed in seeds])
        return blurred(self.components[chosen], torch.from_numpy(noise))

    def thinned(self) -> Representations:
        """Evenly chosen ones, few enough to keep beside a model."""
        rows = torch.linspace(0, len(self.components) - 1, min(KEPT, len(self.components))).long()
        return Representations(self.components[rows], self.labels[rows])


def project(features: Tensor) -> Tensor:
    """(N, 1280) -> (N, 64), each component of mean 0 and variance 1 over the pictures the projection was fitted to."""
    fitted = _projection()
    return (features - fitted["mean"]) @ fitted["projection"]


def blurred(components: Tensor, noise: Tensor) -> Tensor:
    """Components (B, 64) somewhere in their kernels; noise (B, 64) standard normal."""
    return components + BANDWIDTH * noise


@cache
def _projection() -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in weights.load(PROJECTION).items()}
