"""What a picture should be, as tensors: the `cond` of the contract `model(x, sigma, cond) -> x0`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Every field is optional; None means that the model does not know this condition or that it is hidden.

    label: (B,) int64, the class; the model's `label_count` stands for "no class".
    representation: (B, 64) float32, what the picture shows (conditions/image_embedding.py); a row of zeros hides it.
    text: (B, L, D) float32 token embeddings; text_mask: (B, L) bool, True where there is a token.
    image: (B, C, H, W) float32 in -1..1, a picture to start from; image_noise: (B,) float32, the sigma it was blurred with.
    """

    label: Tensor | None = None
    representation: Tensor | None = None
    text: Tensor | None = None
    text_mask: Tensor | None = None
    image: Tensor | None = None
    image_noise: Tensor | None = None

    def rows(self, rows: slice) -> Condition:
        """The condition of some of the pictures of the batch."""
        fields = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return Condition(**{name: value[rows] for name, value in fields if value is not None})
