"""Autoencoders of other projects behind our interface: diffusers' classes, named by a fixed table and imported lazily.

A folder holds one at its root (a published autoencoder alone), in `vae` (Stable Diffusion's pipelines) or in `vqvae` (the
first latent diffusion models).  Its config is read as data and its weights from safetensors, as for all pretrained models.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bowerbird.errors import ModelError
from bowerbird.models.autoencoder import TILE_PX, Autoencoder, in_tiles
from bowerbird.pretrained.configs import read_config
from bowerbird.pretrained.loading import diffusers_classes, open_network

CLASSES = ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny", "VQModel")
PLACES = ("", "vae", "vqvae")


class PretrainedAutoencoder(Autoencoder):
    """A diffusers autoencoder.  Its own latents, unscaled: LatentSpace scales.

    Pictures larger than TILE_PX, or than those it was made for, go through in tiles.  KL and DC normalise over the whole
    picture, so their tiles, which diffusers fades into each other, only resemble the whole; the tiny one is local, and
    its tiles are exact; a VQModel, made for 256 px, has none.
    """

    weights_name = "diffusion_pytorch_model.safetensors"

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        settings = network.config
        self.channels = settings.latent_channels
        widths = settings.get("encoder_block_out_channels") or settings.block_out_channels
        self.factor = 2 ** (len(widths) - 1)
        self._is_tiny = type(network).__name__ == "AutoencoderTiny"
        if type(network).__name__ == "AutoencoderKL":  # some published ones say a sample_size of 32
            network.tile_sample_min_size = max(TILE_PX, _side(settings.sample_size))
            network.tile_latent_min_size = network.tile_sample_min_size // self.factor
        if hasattr(network, "use_tiling") and not self._is_tiny:
            network.enable_tiling()

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        if self._is_tiny:
            latents = in_tiles(self.network.encoder, pictures, TILE_PX, _tiny_reach(self.network) * self.factor, 1 / self.factor)
            return latents, torch.zeros_like(latents)
        encoded = self.network.encode(pictures)
        if hasattr(encoded, "latent_dist"):
            return encoded.latent_dist.mean, encoded.latent_dist.std
        latents = encoded.latent if hasattr(encoded, "latent") else encoded.latents
        return latents, torch.zeros_like(latents)

    def decode(self, latents: Tensor) -> Tensor:
        if self._is_tiny:
            return in_tiles(self.network.decoder, latents, TILE_PX // self.factor, _tiny_reach(self.network), self.factor)
        return self.network.decode(latents).sample  # type: ignore[no-any-return]

    def published_scale(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, as the models published with it take them to be.

        diffusers keeps them as `scaling_factor`, by which latents are multiplied once a shift or mean is taken off.
        """
        settings = self.network.config
        mean = settings.get("latents_mean") or [settings.get("shift_factor") or 0.0] * self.channels
        std = settings.get("latents_std") or [1.0] * self.channels
        return list(mean), [each / settings.scaling_factor for each in std]

    def config(self) -> dict[str, Any]:
        return dict(json.loads(self.network.to_json_string()))

    @property
    def saved(self) -> nn.Module:
        return self.network  # type: ignore[no-any-return]


def _side(sample_size: int | list[int]) -> int:
    return sample_size if isinstance(sample_size, int) else max(sample_size)


def _tiny_reach(network: Any) -> int:
    """Latents by which one place can influence another: a 3x3 convolution sees one pixel further, a level up half as far."""
    encoder, decoder = list[int](network.config.num_encoder_blocks), list[int](network.config.num_decoder_blocks)
    deepest_first = [max(blocks) for blocks in zip(reversed(encoder), decoder, strict=True)]
    return math.ceil(1 + sum((3 * blocks + 1) * 0.5**level for level, blocks in enumerate(deepest_first)))


def is_pretrained_autoencoder(folder: Path) -> bool:
    """Whether `folder` is an autoencoder and nothing else; a pipeline that holds one paints."""
    return autoencoder_place(folder) == folder


def autoencoder_place(folder: Path) -> Path | None:
    """Where in `folder` an autoencoder of the table lies; None without one."""
    for path in (folder / place / "config.json" for place in PLACES):
        if path.is_file() and read_config(path).get("_class_name") in CLASSES:
            return path.parent
    return None


def open_pretrained_autoencoder(folder: Path) -> PretrainedAutoencoder:
    """The diffusers autoencoder in `folder`, in float32.  ModelError when there is none of the table, or its files are damaged."""
    place = autoencoder_place(folder)
    if place is None:
        raise ModelError(f"{str(folder)!r} holds no autoencoder that Bowerbird opens: {', '.join(CLASSES)}.")
    config = read_config(place / "config.json")
    name = str(config["_class_name"])
    for key in ("scaling_factor", "shift_factor", "latents_mean", "latents_std"):
        values = config[key] if isinstance(config.get(key), list) else [config.get(key)]
        least = float("-inf") if key in ("shift_factor", "latents_mean") else 0.0
        numbers = all(isinstance(value, int | float) and least < value < 1e6 for value in values)
        each = key.startswith("latents") and len(values) != config.get("latent_channels")
        if config.get(key) is not None and (each or not numbers):
            raise ModelError(
                f"the autoencoder in {str(place)!r} sets {key} = {str(config[key])[:60]}, which scales nothing. Use another copy."
            )
    network = open_network(diffusers_classes()[name], place, torch.float32)
    _check_answers(network, place)
    return PretrainedAutoencoder(network).eval()


def _check_answers(network: Any, place: Path) -> None:
    """ModelError for a config that makes a network from which no picture comes back: its twin is asked once, for shapes alone."""
    try:
        with torch.device("meta"), torch.inference_mode():
            twin = PretrainedAutoencoder(type(network).from_config(network.config))
            pictures = torch.empty(1, 3, 2 * twin.factor, 2 * twin.factor)
            shape = twin.decode(twin.encode(pictures)[0]).shape
    except Exception as error:  # diffusers and torch raise many kinds for one cause: values that go together in no network
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"the config of {str(place)!r} describes a network that does not work: {reason}. Use another copy.") from error
    if shape != pictures.shape:
        raise ModelError(f"the config of {str(place)!r} describes a network that changes the size of pictures. Use another copy.")
