"""From a name to what can be used: a painter for a model, an autoencoder to learn on.

open_model(where)  -> a painter: one of ours (painter.py), or a pretrained pipeline behind the same verbs
open_chain(where)  -> the same, with the models that a request's `then` names behind it
painter.paint(request, on_progress) -> Painted, Painted, ...
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import torch

from bowerbird import hardware, pretrained
from bowerbird.chain import BatchChain, Chain
from bowerbird.enlarge import Enlarger
from bowerbird.errors import ModelError
from bowerbird.locate import Opening, Place, bundled, locate, locate_autoencoder
from bowerbird.model_folder import LORA, MANIFEST, About, Model, SamplingDefaults, open_model_folder
from bowerbird.models.autoencoder import Autoencoder, LatentSpace, Rgb
from bowerbird.painter import OwnPainter, Painter
from bowerbird.pretrained.autoencoders import autoencoder_place, open_pretrained_autoencoder
from bowerbird.pretrained.ddpm_folder import open_ddpm_folder
from bowerbird.progress import OnProgress

UPSCALER = "upscaler-4x"  # bundled; the one that models without their own end with


def load(where: str | Path, device: str | None = None) -> Painter:
    """Open a model for use from Python: `bowerbird.load('runs/birds').paint(...)`."""
    return open_chain(where, hardware.choose_device(device))


def open_model(where: str | Path, device: torch.device, opening: Opening | None = None, on_progress: OnProgress | None = None) -> Painter:
    """A painter for a run, a bundled model, a folder, a checkpoint or a hub name; ModelError when it is none of them."""
    opening = opening or Opening()
    return open_place(locate(where, opening, on_progress), device, opening, on_progress)


def open_chain(where: str | Path, device: torch.device, opening: Opening | None = None, on_progress: OnProgress | None = None) -> Painter:
    """As `open_model`, for requests that name models to take the pictures further, or ask for sizes that need one.

    The upscaler for those is the one in the folder `upscaler` of the run or model, or else the bundled one.
    """

    def open_next(name: str) -> Painter:
        return open_model(name, device, Opening(dtype=opening.dtype, offline=opening.offline, ask=opening.ask) if opening else None)

    first, own = open_model(where, device, opening, on_progress), Path(str(where).rpartition("@")[0] or where) / "upscaler"
    upscaler = str(own) if any((own / name).is_file() for name in (MANIFEST, "run.json")) else UPSCALER
    if not isinstance(first, OwnPainter):
        return Chain(first, open_next)
    return BatchChain(first, open_next, upscaler if own.is_dir() or UPSCALER in bundled() else None, max(first.native))


def open_place(place: Place, device: torch.device, opening: Opening | None = None, on_progress: OnProgress | None = None) -> Painter:
    """A painter for what was located."""
    opening = opening or Opening()
    if place.what == "pretrained":
        if opening.autoencoder is not None:
            raise ModelError(f"{place.where!r} has an autoencoder of its own; leave --autoencoder out.")
        return pretrained.open_pretrained(place.path, device, opening.dtype, opening.family, opening.prediction, name=place.where)
    if place.manifest is not None and place.manifest.kind == "lora":
        base = locate(place.manifest.base, opening, on_progress)
        painter = open_place(base, device, opening, on_progress) if base.what == "pretrained" else None
        if not isinstance(painter, pretrained.PretrainedPainter):
            raise ModelError(f"{place.where!r} is a LoRA for {base.where!r}, which is no Stable Diffusion. Use another copy.")
        return painter.with_lora(place.where, place.path / LORA)
    if not place.paints:
        raise ModelError(
            f"{place.where!r} is an autoencoder, which paints nothing by itself. Train a model on its latents: "
            f"bowerbird train PICTURES --recipe latent-64 --set model.autoencoder={shlex.quote(place.where)}"
        )
    if place.what == "ours":
        model = open_model_folder(place.path, place.manifest)
    else:
        autoencoder = open_autoencoder(opening.autoencoder, device, opening) if opening.autoencoder is not None else None
        denoiser, space, classes = open_ddpm_folder(place.path, autoencoder, on_progress)
        sampling, about = SamplingDefaults(sampler="dpm++2m", steps=20), About(licence="See its source.")
        model = Model(denoiser, space or LatentSpace(Rgb()), classes, sampling=sampling, about=about)
    if model.upscaler is not None:
        return Enlarger(place.where, model.to(device))
    return OwnPainter(place.where, model.to(device), "bf16" if opening.dtype == torch.bfloat16 else "fp32")


def open_autoencoder(where: str | Path, device: torch.device, opening: Opening | None = None) -> Autoencoder:
    """An autoencoder of ours (bundled by name, a run or a model folder) or of another project, on `device`.

    The latter is a diffusers folder, an autoencoder's or a whole pipeline's, or the hub name of one.
    """
    return open_located_autoencoder(locate_autoencoder(where, opening)).to(device)


def open_located_autoencoder(place: Place) -> Autoencoder:
    """The autoencoder that was located, on the CPU."""
    if place.manifest is not None:
        return open_model_folder(place.path, place.manifest).space.autoencoder
    if place.path.is_file() or autoencoder_place(place.path) is None:
        raise ModelError(f"{place.where!r} is no autoencoder. Give the run or folder of one, or a bundled one by name.")
    return open_pretrained_autoencoder(place.path)


def describe_model(where: str | Path) -> dict[str, Any]:
    """What `info` tells of a model, without loading its weights where the manifest suffices."""
    place = locate(where)
    if place.manifest is not None:
        return {"path": str(place.path), **place.manifest.model_dump(mode="json", exclude={"files"})}
    return {"path": str(place.path), **open_place(place, torch.device("cpu")).describe()}
