"""THE format: a model folder, what training leaves and what painting opens.

    MODEL/
      bowerbird.json            the manifest below, sealed, with the hash of every file
      transformer/ | unet/      config.json and weights
      scheduler/                for a U-Net: diffusers' scheduler config
      model_index.json          exactly when a diffusers pipeline can paint from this folder
      samples.png               what it paints

Parts are named as diffusers names them, so the folder is its own export.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bowerbird import __version__, weights
from bowerbird.errors import ModelError
from bowerbird.models.denoiser import Denoiser, DenoiserSpec
from bowerbird.models.transformer import Transformer, TransformerConfig
from bowerbird.models.unet import UNet, unet_class
from bowerbird.storage import Disk, verify_folder, write_folder

MANIFEST = "bowerbird.json"
FORMAT_VERSION = 1
_UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
_TRANSFORMER_WEIGHTS = "transformer/model.safetensors"


class SamplingDefaults(BaseModel):
    """What `generate` does when the request leaves it open."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sampler: str
    steps: int
    guidance: float = 1.0


class Manifest(BaseModel):
    """What a model folder says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    written_by: str = f"bowerbird {__version__}"
    rung: str  # "pixel": which step of the ladder
    denoiser: DenoiserSpec
    labels: tuple[str, ...] = ()
    sampling: SamplingDefaults
    training: dict[str, Any] = {}  # recipe, pictures seen, data fingerprint, hardware, hours
    scores: dict[str, Any] = {}
    licence: str = "The weights are yours; the pictures they were trained on keep their licences."
    files: dict[str, Any] = {}


def save_model(disk: Disk, target: Path, model: Denoiser, manifest: Manifest, samples_png: bytes) -> None:
    """Write the model as the new folder `target`; it exists whole or not at all."""
    write_folder(disk, target, _parts(model, manifest, samples_png), MANIFEST, manifest.model_dump(mode="json", exclude={"files"}))


def open_model_folder(folder: Path) -> tuple[Denoiser, Manifest]:
    """The model of a folder and its manifest.  ModelError when anything is missing, damaged, or from a newer Bowerbird."""
    manifest = read_manifest(folder)
    if (folder / "transformer").is_dir():
        config = _read_json(folder / "transformer/config.json")
        network: Transformer | UNet = Transformer(_checked(TransformerConfig, config, folder))
        weights.load_into(network, weights.load(folder / _TRANSFORMER_WEIGHTS), str(folder / "transformer"))
    else:
        network = UNet(unet_class().from_config(_read_json(folder / "unet/config.json")))
        weights.load_into(network.network, weights.load(folder / _UNET_WEIGHTS), str(folder / "unet"))
    return Denoiser(network, manifest.denoiser).eval(), manifest


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


def _parts(model: Denoiser, manifest: Manifest, samples_png: bytes) -> Iterator[tuple[str, bytes]]:
    network = model.network
    if isinstance(network, Transformer):
        yield "transformer/config.json", _json(network.config.to_dict())
        yield _TRANSFORMER_WEIGHTS, weights.to_bytes(network.state_dict())
    elif isinstance(network, UNet):
        yield "unet/config.json", network.network.to_json_string().encode()
        yield _UNET_WEIGHTS, weights.to_bytes(network.network.state_dict(), {"format": "pt"})
        if manifest.denoiser.betas is not None:
            yield "scheduler/scheduler_config.json", _json(_scheduler_config(manifest.denoiser))
            if not manifest.labels:
                yield "model_index.json", _json(_MODEL_INDEX)
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


def _checked(kind: type[TransformerConfig], config: dict[str, Any], folder: Path) -> TransformerConfig:
    try:
        return kind(**config)
    except TypeError as error:
        raise ModelError(f"the transformer config of {str(folder)!r} has other fields than this Bowerbird knows: {error}.") from error
