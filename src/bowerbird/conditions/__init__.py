"""What steers a picture: conditions, each an object that owns its input, its dropping, its part of the network and its files.

    label   a class        text   words        image_embedding   what a picture shows, in 64 numbers

A model carries the conditions it was trained with, by name.  To add one: write its module, name it in CONDITIONS, give it its
two fields in the recipe's [condition] section.  Nothing else knows how many there are.

What they say travels as `cond` (models/conditioning.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bowerbird import draws
from bowerbird.models.conditioning import Cond

if TYPE_CHECKING:
    from bowerbird.data.picture_set import Pictures
    from bowerbird.progress import OnProgress
    from bowerbird.recipe import Recipe
    from bowerbird.request import PaintRequest


class Condition(Protocol):
    """One condition of one model.  While a model learns, it also holds a row for each training picture."""

    name: ClassVar[str]
    fields: ClassVar[tuple[str, ...]]  # of a request that it reads

    @classmethod
    def learn(
        cls, recipe: Recipe, pictures: Pictures, device: torch.device, on_progress: OnProgress | None, base: Self | None = None
    ) -> Self:
        """The condition as these pictures teach it; `base`: that of the model which is tuned on them."""

    @classmethod
    def open(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        """The condition of a verified model folder, whose manifest says `settings`.  ModelError when its files are damaged."""

    @classmethod
    def seconds(cls, pictures: Pictures, device: torch.device) -> float:
        """What `learn` will take."""

    def shown(self, chosen: NDArray[np.int64], samples: NDArray[np.int64], seed: int, dropped: NDArray[np.bool_]) -> Cond:
        """What the chosen training pictures say as samples number `samples`; nothing where `dropped`."""

    def asked(self, request: PaintRequest, seeds: Sequence[int]) -> Cond:
        """What a request wants, a row for each seed; {} where it leaves this condition open.  RequestError for what is not known."""

    def unwanted(self, request: PaintRequest, count: int) -> Cond:
        """What guidance leads away from; by default, nothing."""

    def nothing(self, like: Tensor) -> Tensor:
        """As many rows as `like` has, of its shape, that say nothing: what a model sees where this condition is left open."""

    def remarks(self, request: PaintRequest) -> Iterator[str]:
        """What whoever asks should know of how the request is read, each as the rest of a sentence: "this model ..."."""

    def settings(self) -> dict[str, Any]:
        """What the manifest says of it."""

    def shape(self) -> dict[str, int]:
        """The numbers that decide the shapes of its part of the network, for the network's config."""

    @classmethod
    def part(cls, shape: Mapping[str, int], width: int) -> nn.Module:
        """Its part (NetworkPart) of a network of that width."""

    def files(self) -> Iterator[tuple[str, bytes]]:
        """What is kept beside the model."""


def known_conditions() -> dict[str, type[Condition]]:
    """Every condition there is, by its name in recipes, manifests and networks."""
    from bowerbird.conditions.image_embedding import ImageEmbedding
    from bowerbird.conditions.label import Label
    from bowerbird.conditions.text import Text

    return {each.name: each for each in (Label, Text, ImageEmbedding)}


def learnt_conditions(
    recipe: Recipe,
    pictures: Pictures,
    device: torch.device,
    on_progress: OnProgress | None = None,
    base: Mapping[str, Any] | None = None,
) -> dict[str, Condition]:
    """The conditions that a recipe asks for, as these pictures teach them; `base`: those of the model that is tuned, and no others."""
    wanted = recipe.condition.wanted() if base is None else base
    return {
        name: kind.learn(recipe, pictures, device, on_progress, (base or {}).get(name))
        for name, kind in known_conditions().items()
        if name in wanted
    }


def network_parts(shapes: Mapping[str, Mapping[str, int]], width: int) -> dict[str, nn.Module]:
    """The parts of a network that read conditions of these shapes, in the order in which they are known."""
    return {name: kind.part(shapes[name], width) for name, kind in known_conditions().items() if name in shapes}


def dropped(seed: int, name: str, samples: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """In which samples the condition `name` is dropped: each by itself, so that guidance can separate them."""
    return draws.uniform(seed, f"drop {name}", samples) < share
