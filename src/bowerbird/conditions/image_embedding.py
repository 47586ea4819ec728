"""What a picture shows, in 64 numbers: a condition for pictures that come without labels or captions.

A model that is conditioned on what each training picture shows only has to learn how such a thing looks, and guidance works
as it does with labels.  To paint, it is given something near to what one of its training pictures shows: a draw from a kernel
density of theirs.  Representation-conditioned generation (RCG; Li et al. 2024, arXiv:2312.03701), with the density in
place of a second generator.

    pooled features of EfficientNet-Lite0, (N, 1280)  ->  project  ->  whitened principal components, (N, 64)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from bowerbird import draws, weights
from bowerbird.data.picture_set import Pictures
from bowerbird.errors import ModelError
from bowerbird.models.conditioning import Cond, Steering
from bowerbird.models.features import SECOND_OPINION, extract, extracted, load_network, network_input
from bowerbird.pixels import Pixels
from bowerbird.progress import OnProgress
from bowerbird.recipe import Recipe
from bowerbird.repaint import open_picture
from bowerbird.request import PaintRequest

COMPONENTS = 64
INPUT_PX = 128  # what the feature network sees: a third of the work of its usual 224, and enough for what it is used for here
BANDWIDTH = 0.4  # of the kernels.  Models learn from embeddings with as much noise, so that what they paint from is nothing new to them
KEPT = 4096  # training pictures whose embeddings a model folder holds, 128 bytes each
PROJECTION = Path(__file__).with_suffix(".safetensors")  # scripts/fit_image_embedding.py made it
PART = 4096  # pictures embedded, and kept in the cache, at a time: a run that is killed meanwhile loses one part
TIMED = 8  # pictures
_FILE = "image_embeddings.safetensors"


@dataclass(frozen=True)
class ImageEmbedding:
    """cond["image_embedding"]: (B, 64) float32, a row of zeros where it is dropped.

    components (N, 64) float32 and labels (N,) int64, -1 for none, of the training pictures; label_names: what the numbers mean.
    """

    components: Tensor
    labels: Tensor
    label_names: tuple[str, ...] = ()
    rows: Tensor | None = None  # (n, 64): of all pictures, while it learns

    name: ClassVar[str] = "image_embedding"
    fields: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def learn(
        cls, recipe: Recipe, pictures: Pictures, device: torch.device, on_progress: OnProgress | None, base: Self | None = None
    ) -> Self:
        rows = embed(pictures.pixels, device, on_progress)
        names = pictures.label_names if recipe.condition.label else ()
        return cls(rows[pictures.train], torch.from_numpy(pictures.labels[pictures.train]), names, rows)

    @classmethod
    def open(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        path = folder / _FILE if (folder / _FILE).exists() else folder / "representations.safetensors"  # its name in format 1
        tensors = weights.load(path)
        components, labels = tensors.get("components"), tensors.get("labels")
        if components is None or labels is None or components.shape != (len(labels), COMPONENTS) or not len(labels):
            raise ModelError(f"{str(path)!r} does not hold image embeddings of {COMPONENTS} components. Restore it, or use another copy.")
        return cls(components.float(), labels, tuple(map(str, settings.get("label_names", ()))))

    @classmethod
    def seconds(cls, pictures: Pictures, device: torch.device) -> float:
        missing = sum(len(part) for part in _parts(pictures.pixels) if not extracted(part, SECOND_OPINION, INPUT_PX))
        if not missing:
            return 0.0
        few, network = pictures.pixels[:TIMED], load_network(SECOND_OPINION, str(device))
        began = time.monotonic()
        with torch.inference_mode():
            network(network_input(few, INPUT_PX).to(device)).cpu()
        return (time.monotonic() - began) / len(few) * missing

    def shown(self, chosen: NDArray[np.int64], samples: NDArray[np.int64], seed: int, dropped: NDArray[np.bool_]) -> Cond:
        assert self.rows is not None, "only a condition that learns has rows"
        eps = torch.from_numpy(draws.normal(seed, "image embedding noise", samples, (COMPONENTS,)))
        return {self.name: noised(self.rows[chosen], eps) * torch.from_numpy(~dropped)[:, None]}

    def asked(self, request: PaintRequest, seeds: Sequence[int]) -> Cond:
        if request.prompt:  # the words say what is to be seen
            return {}
        if request.image is not None and request.label is None:
            square = ImageOps.fit(open_picture(request.image), (INPUT_PX, INPUT_PX), Image.Resampling.BICUBIC)
            return {self.name: embed(np.asarray(square)[None], torch.device("cpu")).expand(len(seeds), -1)}
        return {self.name: self.drawn(seeds, request.label)}

    def unwanted(self, request: PaintRequest, count: int) -> Cond:
        return {}

    def nothing(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like)

    def remarks(self, request: PaintRequest) -> Iterator[str]:
        yield from ()

    def settings(self) -> dict[str, Any]:
        return {"label_names": self.label_names}

    def shape(self) -> dict[str, int]:
        return {"components": COMPONENTS}

    @classmethod
    def part(cls, shape: Mapping[str, int], width: int) -> nn.Module:
        return ImageEmbeddingPart(shape["components"], width)

    def files(self) -> Iterator[tuple[str, bytes]]:
        kept = self.thinned()
        yield _FILE, weights.to_bytes({"components": kept.components.half(), "labels": kept.labels})

    def drawn(self, seeds: Sequence[int], label: str | None = None) -> Tensor:
        """A draw from the kernel density, of the pictures with that label if one is given, (len(seeds), 64): each by its own seed.

        A label that none of the pictures has counts as none given.
        """
        number = self.label_names.index(label) if label in self.label_names else None
        of_label = torch.nonzero(self.labels == number).flatten() if number is not None else torch.empty(0)
        rows = of_label if len(of_label) else torch.arange(len(self.components))
        # keyed by the words of format 1, so that its models paint what they painted
        chosen = [int(rows[int(draws.uniform(seed, "representation", [0])[0] * len(rows))]) for seed in seeds]
        noise = np.concatenate([draws.normal(seed, "representation noise", [0], (COMPONENTS,)) for seed in seeds])
        return noised(self.components[chosen], torch.from_numpy(noise))

    def thinned(self) -> ImageEmbedding:
        """Evenly chosen rows, few enough to keep beside a model."""
        rows = torch.linspace(0, len(self.components) - 1, min(KEPT, len(self.components))).long()
        return ImageEmbedding(self.components[rows], self.labels[rows], self.label_names)


class ImageEmbeddingPart(nn.Sequential):
    """Two layers from the components to something added to the noise level's vector; zeros add nothing."""

    def __init__(self, components: int, width: int) -> None:
        super().__init__(nn.Linear(components, width), nn.SiLU(), nn.Linear(width, width))

    def initialise(self) -> None:
        nn.init.zeros_(self[-1].weight)  # type: ignore[arg-type]

    def forward(self, cond: Cond, batch: int, device: torch.device) -> Steering:  # type: ignore[override]
        embedding = cond.get(ImageEmbedding.name)
        if embedding is None:
            return Steering()
        return Steering(level=embedding.any(dim=1, keepdim=True) * super().forward(embedding))  # type: ignore[no-untyped-call]


def embed(pixels: Pixels, device: torch.device, on_progress: OnProgress | None = None) -> Tensor:
    """What every picture shows, (N, 64), on the CPU.  pixels: (N, H, W, 3) uint8.  Looked at once, then in the cache."""
    return torch.cat([project(torch.from_numpy(extract(part, SECOND_OPINION, device, on_progress, INPUT_PX))) for part in _parts(pixels)])


def _parts(pixels: Pixels) -> list[Pixels]:
    return [pixels[start : start + PART] for start in range(0, len(pixels), PART)]


def project(features: Tensor) -> Tensor:
    """(N, 1280) -> (N, 64), each component of mean 0 and variance 1 over the pictures the projection was fitted to."""
    fitted = _projection()
    return (features - fitted["mean"]) @ fitted["projection"]


def noised(components: Tensor, noise: Tensor) -> Tensor:
    """Components (B, 64) somewhere in their kernels; noise (B, 64) standard normal."""
    return components + BANDWIDTH * noise


@cache
def _projection() -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in weights.load(PROJECTION).items()}
