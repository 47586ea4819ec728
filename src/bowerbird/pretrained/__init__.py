"""Stable Diffusion's family, opened: 1.x, 2.x, XL, their inpainting variants and the x4 upscaler.

recognise(path)                      which member lies there, from names and shapes alone
open_pretrained(where, device)       a painter for a diffusers folder, a .safetensors file or a hub name
"""

from __future__ import annotations

from pathlib import Path

import torch

from bowerbird.errors import ModelError
from bowerbird.pretrained import memory
from bowerbird.pretrained.families import FAMILIES, Family, Prediction, Recognised, check_family, named_family, recognise
from bowerbird.pretrained.hub import Ask, download, is_hub_name
from bowerbird.pretrained.loading import count_weights, load_parts
from bowerbird.pretrained.painter import PretrainedPainter
from bowerbird.weights import read_header

__all__ = [
    "FAMILIES",
    "Ask",
    "Family",
    "PretrainedPainter",
    "Recognised",
    "can_open",
    "fetched",
    "is_remote",
    "open_pretrained",
    "recognise",
]

PREDICTIONS: dict[str, Prediction] = {"eps": "epsilon", "v": "v_prediction", "epsilon": "epsilon", "v_prediction": "v_prediction"}


def is_remote(where: Path | str) -> bool:
    """Whether `where` is a hub name and no path here."""
    return is_hub_name(str(where)) and not Path(where).exists()


def fetched(where: Path | str, offline: bool = False, ask: Ask | None = None, only_autoencoder: bool = False) -> Path:
    """The path `where`, or for a hub name the folder it was fetched to, once `ask` agreed."""
    return download(str(where), ask, offline, only_autoencoder) if is_remote(where) else Path(where)


def can_open(path: Path) -> bool:
    """Whether `path` is for `open_pretrained`: any single file, or the folder of a member of the family."""
    return path.is_file() or (path.is_dir() and recognise(path) is not None)


def open_pretrained(
    where: Path | str,
    device: torch.device,
    dtype: torch.dtype | None = None,
    family: str | None = None,
    prediction: str | None = None,
    offline: bool = False,
    ask: Ask | None = None,
    compile: bool = False,
    name: str = "",
) -> PretrainedPainter:
    """A painter for `where`: a diffusers folder, a single .safetensors checkpoint, or a hub name such as `maker/model`.

    `family` and `prediction` ("eps" or "v") override what is recognised.  `ask` is called once before anything is
    downloaded and may say no; without it nothing is.  `name`: what the model is called, else `where`.  ModelError says what
    cannot be opened and why.
    """
    path = fetched(where, offline, ask)
    if path.is_file():
        read_header(path)  # says what to do with a pickle or a damaged file
    found = recognise(path)
    if family is not None:
        asked = named_family(family)
        if path.is_dir():
            check_family(path, asked)
        found = Recognised(asked, "family as asked", found.prediction if found else None)
    if found is None:
        raise ModelError(
            f"{str(where)!r} is no Stable Diffusion model that Bowerbird knows. Name its --family if it is: {', '.join(FAMILIES)}."
        )
    if prediction is not None and prediction not in PREDICTIONS:
        raise ModelError(f"there is no prediction {prediction!r}. Known: eps, v.")
    chosen = PREDICTIONS[prediction] if prediction is not None else None
    parts = load_parts(path, found, dtype or memory.choose_dtype(device, count_weights(path)), chosen)
    return PretrainedPainter(name or str(where), parts, device, compile)
