"""THE format: a model folder, what training leaves and what painting opens.

    MODEL/
      bowerbird.json            the manifest below, sealed, with the hash of every file
      transformer/ | unet/      config.json and weights; an autoencoder's folder has none
      vae/                      of a latent model, and of an autoencoder
      representations.safetensors    what its training pictures show, of a model that is told (conditions/image_embedding.py)
      scheduler/                for a U-Net: diffusers' scheduler config
      model_index.json          exactly when a diffusers pipeline can paint from this folder
      samples.png               what it paints

Parts are named as diffusers names them, so the folder is its own export.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from bowerbird import __version__, weights
from bowerbird.conditions.image_embedding import COMPONENTS, Representations
from bowerbird.errors import ModelError
from bowerbird.models.autoencoder import OURS, Autoencoder, AutoencoderConfig, ConvAutoencoder, LatentSpace, Rgb
from bowerbird.models.denoiser import Denoiser, DenoiserSpec
from bowerbird.models.transformer import Transformer, TransformerConfig
from bowerbird.models.unet import UNet, unet_class
from bowerbird.pretrained.autoencoders import open_pretrained_autoencoder
from bowerbird.storage import Disk, verify_folder, write_folder

MANIFEST = "bowerbird.json"
Config = TypeVar("Config")
FORMAT_VERSION = 1
_UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
_TRANSFORMER_WEIGHTS = "transformer/model.safetensors"
_VAE_WEIGHTS = f"vae/{ConvAutoencoder.weights_name}"
_REPRESENTATIONS = "representations.safetensors"


class SamplingDefaults(BaseModel):
    """What `generate` does when the request leaves it open."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sampler: str
    steps: int
    guidance: float = 1.0


class LatentScale(BaseModel):
    """Mean and standard deviation of each channel of the latents that a model learnt on."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Manifest(BaseModel):
    """What a model folder says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    written_by: str = f"bowerbird {__version__}"
    rung: str  # "pixel", "latent" or "autoencoder": which step of the ladder
    denoiser: DenoiserSpec | None = None
    latents: LatentScale | None = None
    labels: tuple[str, ...] = ()
    sampling: SamplingDefaults | None = None
    training: dict[str, Any] = {}  # recipe, pictures seen, data fingerprint, hardware, hours
    scores: dict[str, Any] = {}
    licence: str = "The weights are yours; the pictures they were trained on keep their licences."
    files: dict[str, Any] = {}


def save_model(
    disk: Disk,
    target: Path,
    model: nn.Module,
    manifest: Manifest,
    samples_png: bytes,
    space: LatentSpace | None = None,
    representations: Representations | None = None,
) -> None:
    """Write a denoiser, with the space it learnt on, or an autoencoder as the new folder `target`; it exists whole or not at all."""
    autoencoder = model if isinstance(model, Autoencoder) else space.autoencoder if space else Rgb()
    parts = _parts(model, autoencoder, manifest, samples_png, representations)
    write_folder(disk, target, parts, MANIFEST, manifest.model_dump(mode="json", exclude={"files"}))


def open_model_folder(folder: Path) -> tuple[Denoiser, Manifest]:
    """The model of a folder and its manifest.  ModelError when anything is missing, damaged, or from a newer Bowerbird."""
    manifest = read_manifest(folder)
    if manifest.denoiser is None:
        raise ModelError(
            f"{str(folder)!r} is an autoencoder, which paints nothing by itself. Train a model on its latents: "
            f"bowerbird train PICTURES --recipe latent-64 --set model.autoencoder={folder}"
        )
    if (folder / "transformer").is_dir():
        config = _read_json(folder / "transformer/config.json")
        network: Transformer | UNet = Transformer(_checked(TransformerConfig, config, folder))
        weights.load_into(network, weights.load(folder / _TRANSFORMER_WEIGHTS), str(folder / "transformer"))
    else:
        network = UNet(unet_class().from_config(_read_json(folder / "unet/config.json")))
        weights.load_into(network.network, weights.load(folder / _UNET_WEIGHTS), str(folder / "unet"))
    return Denoiser(network, manifest.denoiser).eval(), manifest


def open_latent_space(folder: Path, manifest: Manifest) -> LatentSpace:
    """What the model of the folder learnt on: the latents of the autoencoder beside it, or pixels."""
    if manifest.latents is None:
        return LatentSpace(Rgb())
    return LatentSpace(open_autoencoder_part(folder), manifest.latents.mean, manifest.latents.std)


def open_representations(folder: Path) -> Representations | None:
    """What the training pictures of the folder's model show; None of a model that is not told."""
    path = folder / _REPRESENTATIONS
    if not path.is_file():
        return None
    tensors = weights.load(path)
    components, labels = tensors.get("components"), tensors.get("labels")
    if components is None or labels is None or components.shape != (len(labels), COMPONENTS) or not len(labels):
        raise ModelError(f"{str(path)!r} does not hold representations of {COMPONENTS} components. Restore it, or use another copy.")
    return Representations(components.float(), labels)


def open_autoencoder_part(folder: Path) -> Autoencoder:
    """The autoencoder in the `vae` of a verified folder."""
    config = _read_json(folder / "vae/config.json")
    if config.pop("_class_name", None) != OURS:
        return open_pretrained_autoencoder(folder / "vae")
    autoencoder = ConvAutoencoder(_checked(AutoencoderConfig, config, folder))
    weights.load_into(autoencoder, weights.load(folder / _VAE_WEIGHTS), str(folder / "vae"))
    return autoencoder.eval()


def scale_of(space: LatentSpace) -> LatentScale | None:
    """The scale of a space for its manifest; pixels have none."""
    if isinstance(space.autoencoder, Rgb):
        return None
    return LatentScale(mean=tuple(space.mean.flatten().tolist()), std=tuple(space.std.flatten().tolist()))


def read_manifest(folder: Path) -> Manifest:
    """The verified manifest: every listed file is there with its hash."""
    document = verify_folder(folder, MANIFEST)
    version = document.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ModelError(
            f"{str(folder)!r} has format {version}, newer than this Bowerbird reads ({FORMAT_VERSION}). Upgrade: pip install -U bowerbird"
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"the manifest of {str(folder)!r} is wrong at {where!r}: {first['msg']}. Use another copy.") from error


def _parts(
    model: nn.Module, autoencoder: Autoencoder, manifest: Manifest, samples_png: bytes, representations: Representations | None
) -> Iterator[tuple[str, bytes]]:
    network = model.network if isinstance(model, Denoiser) else None
    if isinstance(network, Transformer):
        yield "transformer/config.json", _json(network.config.to_dict())
        yield _TRANSFORMER_WEIGHTS, weights.to_bytes(network.state_dict())
    elif isinstance(network, UNet):
        yield "unet/config.json", network.network.to_json_string().encode()
        yield _UNET_WEIGHTS, weights.to_bytes(network.network.state_dict(), {"format": "pt"})
        if manifest.denoiser is not None and manifest.denoiser.betas is not None:
            yield "scheduler/scheduler_config.json", _json(_scheduler_config(manifest.denoiser))
            if not manifest.labels and manifest.latents is None:
                yield "model_index.json", _json(_MODEL_INDEX)
    if not isinstance(autoencoder, Rgb):
        yield "vae/config.json", _json(autoencoder.config())
        yield f"vae/{autoencoder.weights_name}", weights.to_bytes(autoencoder.saved.state_dict(), {"format": "pt"})
    if representations is not None:
        kept = representations.thinned()
        yield _REPRESENTATIONS, weights.to_bytes({"components": kept.components.half(), "labels": kept.labels})
    yield "samples.png", samples_png


_MODEL_INDEX = {
    "_class_name": "DDPMPipeline",
    "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}


def _scheduler_config(spec: DenoiserSpec) -> dict[str, Any]:
    assert spec.betas is not None
    kinds = {"linear": "linear", "scaled-linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
    return {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.42.1",
        "num_train_timesteps": spec.betas.num_steps,
        "beta_start": spec.betas.start,
        "beta_end": spec.betas.end,
        "beta_schedule": kinds[spec.betas.kind],
        "prediction_type": {"eps": "epsilon", "v": "v_prediction"}[spec.prediction],
        "variance_type": "fixed_small",
        "clip_sample": spec.clip_x0,
    }


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{str(path)!r} is missing or damaged. Restore it, or use another copy.") from error
    if not isinstance(document, dict):
        raise ModelError(f"{str(path)!r} is not a table of settings. Restore it, or use another copy.")
    return document


def _checked(kind: Callable[..., Config], config: dict[str, Any], folder: Path) -> Config:
    try:
        return kind(**config)
    except TypeError as error:
        raise ModelError(f"a config of {str(folder)!r} has other fields than this Bowerbird knows: {error}.") from error
