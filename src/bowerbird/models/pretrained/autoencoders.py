"""Autoencoders of other projects behind our interface: diffusers' classes, named by a fixed table and imported lazily."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bowerbird.errors import MissingExtraError, ModelError
from bowerbird.models.autoencoder import Autoencoder

CLASSES = ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny")


class PretrainedAutoencoder(Autoencoder):
    """A diffusers autoencoder.  Its own latents, unscaled: LatentSpace scales."""

    weights_name = "diffusion_pytorch_model.safetensors"

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        config = network.config
        self.channels = config.latent_channels
        widths = config.get("block_out_channels") or config["encoder_block_out_channels"]
        self.factor = 2 ** (len(widths) - 1)

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        encoded = self.network.encode(pictures)
        if hasattr(encoded, "latent_dist"):
            return encoded.latent_dist.mean, encoded.latent_dist.std
        latents = encoded.latent if hasattr(encoded, "latent") else encoded.latents
        return latents, torch.zeros_like(latents)

    def decode(self, latents: Tensor) -> Tensor:
        return self.network.decode(latents).sample  # type: ignore[no-any-return]

    def config(self) -> dict[str, Any]:
        return dict(json.loads(self.network.to_json_string()))

    @property
    def saved(self) -> nn.Module:
        return self.network  # type: ignore[no-any-return]


def is_pretrained_autoencoder(folder: Path) -> bool:
    try:
        return json.loads((folder / "config.json").read_bytes()).get("_class_name") in CLASSES
    except (OSError, ValueError, AttributeError):  # no config.json, or one that is no table
        return False


def open_pretrained_autoencoder(folder: Path) -> PretrainedAutoencoder:
    """The diffusers autoencoder in `folder`; ModelError when it is of a class that is not in the table."""
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtraError("diffusers", "pretrained") from error
    name = json.loads((folder / "config.json").read_bytes()).get("_class_name")
    if name not in CLASSES:
        raise ModelError(f"{str(folder)!r} holds a {name!r}, not an autoencoder that Bowerbird opens: {', '.join(CLASSES)}.")
    network = getattr(diffusers, name).from_pretrained(folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False)
    return PretrainedAutoencoder(network).eval()
