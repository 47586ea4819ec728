"""What a network is told about the picture beside its noise level.

`cond`, the third argument of the contract `model(x, sigma, cond) -> x0`, is a mapping of tensors with a row for each picture,
under names that the conditions (conditions/) know.  What is absent is dropped, for the whole batch.  Rows may be lengthened with
zeros, which say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Cond = Mapping[str, Tensor]


class Steering(NamedTuple):
    """What a condition's part of the network gives: something added to the noise level's vector, tokens beside the picture's, or both.

    level: (B, width); tokens: (B, L, width); mask: (B, L) bool, True where there is a token.
    """

    level: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None


class NetworkPart(Protocol):
    """A module that reads its condition from `cond`, dropped or not."""

    def initialise(self) -> None:
        """Begin such that a network which gains this part paints as it did without."""

    def __call__(self, cond: Cond, batch: int, device: torch.device) -> Steering: ...


def rows(cond: Cond, chosen: slice) -> Cond:
    """The condition of some of the pictures of the batch."""
    return {name: tensor[chosen] for name, tensor in cond.items()}


def to(cond: Cond, device: torch.device) -> Cond:
    return {name: tensor.to(device) for name, tensor in cond.items()}
