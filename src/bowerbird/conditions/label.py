"""The class of a picture, by name: `--label heron`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bowerbird.data.picture_set import Pictures
from bowerbird.errors import ModelError, RequestError, did_you_mean
from bowerbird.models.conditioning import Cond, Steering
from bowerbird.progress import OnProgress, note
from bowerbird.recipe import Recipe
from bowerbird.request import PaintRequest


@dataclass(frozen=True)
class Label:
    """cond["label"]: (B,) int64, the number of a class; len(names) stands for "no class"."""

    names: tuple[str, ...]
    rows: NDArray[np.int64] | None = None  # of the training pictures, -1 for none

    name: ClassVar[str] = "label"
    fields: ClassVar[tuple[str, ...]] = ("label",)

    @classmethod
    def learn(
        cls, recipe: Recipe, pictures: Pictures, device: torch.device, on_progress: OnProgress | None, base: Self | None = None
    ) -> Self:
        if base is None:
            return cls(pictures.label_names, pictures.labels)
        number = np.array([base.names.index(name) if name in base.names else -1 for name in pictures.label_names] + [-1], np.int64)
        unknown = [name for name in pictures.label_names if name not in base.names]
        if unknown:
            note(on_progress, f"the model has no class {', '.join(map(repr, unknown[:3]))}: their pictures are learnt as of none")
        return cls(base.names, number[pictures.labels])

    @classmethod
    def open(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        names = settings.get("names")
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ModelError(f"the manifest of {str(folder)!r} lists no names of labels. Use another copy.")
        return cls(tuple(names))

    @classmethod
    def seconds(cls, pictures: Pictures, device: torch.device) -> float:
        return 0.0

    def shown(self, chosen: NDArray[np.int64], samples: NDArray[np.int64], seed: int, dropped: NDArray[np.bool_]) -> Cond:
        assert self.rows is not None, "only a condition that learns has rows"
        labels = self.rows[chosen]
        return {self.name: torch.from_numpy(np.where(dropped | (labels < 0), len(self.names), labels))}

    def asked(self, request: PaintRequest, seeds: Sequence[int]) -> Cond:
        if request.label is None:
            return {}
        if request.label not in self.names:
            raise RequestError(f"this model has no label {request.label!r}.{did_you_mean(request.label, self.names)}")
        return {self.name: torch.full((len(seeds),), self.names.index(request.label))}

    def unwanted(self, request: PaintRequest, count: int) -> Cond:
        return {}

    def nothing(self, like: Tensor) -> Tensor:
        return torch.full_like(like, len(self.names))

    def remarks(self, request: PaintRequest) -> Iterator[str]:
        yield from ()

    def settings(self) -> dict[str, Any]:
        return {"names": self.names}

    def shape(self) -> dict[str, int]:
        return {"count": len(self.names)}

    @classmethod
    def part(cls, shape: Mapping[str, int], width: int) -> nn.Module:
        return LabelPart(shape["count"], width)

    def files(self) -> Iterator[tuple[str, bytes]]:
        yield from ()


class LabelPart(nn.Embedding):
    """A vector for each class, and one for none, added to the noise level's."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__(count + 1, width)

    def initialise(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, cond: Cond, batch: int, device: torch.device) -> Steering:  # type: ignore[override]
        label: Tensor | None = cond.get(Label.name)
        if label is None:
            label = torch.full((batch,), self.num_embeddings - 1, device=device)
        return Steering(level=super().forward(label))
