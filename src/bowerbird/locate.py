"""What a MODEL argument stands for, and where it lies.  Nothing is loaded here; what is ours is verified, once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from bowerbird import pretrained
from bowerbird.errors import ModelError, did_you_mean
from bowerbird.model_folder import MANIFEST, Manifest, read_manifest
from bowerbird.pretrained.autoencoders import autoencoder_place, is_pretrained_autoencoder
from bowerbird.pretrained.ddpm_folder import is_ddpm_folder
from bowerbird.progress import OnProgress
from bowerbird.run_folder import is_run, model_of_run

BUNDLED = Path(__file__).parent / "models/bundled"  # model folders that come with the project


@dataclass(frozen=True)
class Opening:
    """How somebody else's model is to be opened; our own need none of it."""

    dtype: torch.dtype | None = None  # None: what is safe and fast on the device
    family: str | None = None  # instead of the recognised one
    prediction: str | None = None  # "eps" or "v", instead of the guessed one
    autoencoder: str | None = None  # of a latent model that brings none
    offline: bool = False  # never download
    ask: pretrained.Ask | None = None  # called before a download, which happens only if it says yes
    only_autoencoder: bool = False  # of a hub name, fetch no more than that


@dataclass(frozen=True)
class Place:
    """What lies there.  ours: a model folder, with its verified manifest; ddpm, autoencoder, pretrained: of other projects."""

    where: str  # as it was named
    path: Path
    what: Literal["ours", "ddpm", "autoencoder", "pretrained"]
    manifest: Manifest | None = None

    @property
    def paints(self) -> bool:
        return self.what != "autoencoder" and (self.manifest is None or self.manifest.kind != "autoencoder")


def bundled() -> dict[str, Path]:
    """The model folders that come with the project, by name."""
    return {path.parent.name: path.parent for path in sorted(BUNDLED.glob(f"*/{MANIFEST}"))}


def find(where: str | Path, opening: Opening | None = None, on_progress: OnProgress | None = None) -> Place | None:
    """A bundled model by name, a run's best model, RUN@latest, a model or diffusers folder, a checkpoint or a hub name; None if none.

    ModelError when something of the kind is there and damaged, or when a download is refused.
    """
    opening, name = opening or Opening(), str(where)
    if name in bundled():
        return Place(name, bundled()[name], "ours", read_manifest(bundled()[name]))
    path = pretrained.fetched(where, opening.offline, opening.ask, opening.only_autoencoder)
    if pretrained.can_open(path):
        return Place(name, path, "pretrained")
    folder = path if path.exists() else Path(name.rpartition("@")[0])
    if is_run(folder):
        return _of_run(folder, name, on_progress)
    if (path / MANIFEST).is_file():
        return Place(name, path, "ours", read_manifest(path))
    if is_ddpm_folder(path):
        return Place(name, path, "ddpm")
    if is_pretrained_autoencoder(path) or (opening.only_autoencoder and autoencoder_place(path) is not None):
        return Place(name, path, "autoencoder")
    return None


def locate(where: str | Path, opening: Opening | None = None, on_progress: OnProgress | None = None) -> Place:
    """As `find`; ModelError where there is nothing to open."""
    place = find(where, opening, on_progress)
    if place is not None:
        return place
    if Path(where).exists():
        raise ModelError(
            f"{str(where)!r} is neither a run, a model folder nor a diffusers folder. A model folder holds {MANIFEST} or a U-Net's "
            "config.json."
        )
    raise ModelError(
        f"there is no model at {str(where)!r}.{did_you_mean(str(where), bundled())} Give a run, a model folder, a diffusers folder or a "
        "bundled model."
    )


def locate_autoencoder(where: str | Path, opening: Opening | None = None) -> Place:
    """As `locate`, for what has an autoencoder to lend: one of ours, another project's, or a pretrained pipeline that holds one."""
    place = find(where, replace(opening or Opening(), only_autoencoder=True))
    names = [name for name, folder in bundled().items() if not (folder / "transformer").is_dir()]
    if place is None:
        raise ModelError(f"{str(where)!r} is no autoencoder.{did_you_mean(str(where), names)} Or give the run or folder of one.")
    if place.manifest is not None and place.paints:
        raise ModelError(f"{str(where)!r} paints; it is no autoencoder. Bundled ones: {', '.join(names)}; or give the run of one.")
    return place


def _of_run(run: Path, name: str, on_progress: OnProgress | None) -> Place:
    which = name.rpartition("@")[2] if not Path(name).exists() else "best"
    folder, manifest = model_of_run(run, which, on_progress)
    return Place(name, folder, "pretrained") if manifest.kind == "pipeline" else Place(name, folder, "ours", manifest)
