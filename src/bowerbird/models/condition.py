"""What a picture should be, as tensors: the `cond` of the contract `model(x, sigma, cond) -> x0`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Every field is optional; None means that the model does not know this condition or that it is hidden.

    label: (B,) int64, the class; the model's `label_count` stands for "no class".
    text: (B, L, D) float32 token embeddings; text_mask: (B, L) bool, True where there is a token.
    image: (B, C, H, W) float32 in -1..1, a picture to start from; image_noise: (B,) float32, the sigma it was blurred with.
    """

    label: Tensor | None = None
    text: Tensor | None = None
    text_mask: Tensor | None = None
    image: Tensor | None = None
    image_noise: Tensor | None = None

    def rows(self, rows: slice) -> Condition:
        """The condition of some of the pictures of the batch."""
        fields = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return Condition(**{name: value[rows] for name, value in fields if value is not None})


def no_label(label_count: int, batch: int, device: torch.device) -> Condition:
    """The unconditional side of guidance for a model that knows labels."""
    return Condition(label=torch.full((batch,), label_count, dtype=torch.int64, device=device))
