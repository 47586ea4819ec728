"""Other people's DDPMs: a diffusers `DDPMPipeline` folder, or a bare `UNet2DModel`, parts in sub-folders or at the root.

A model of latents (`LDMPipeline`, or a U-Net of four channels) has its autoencoder beside it, or is told which it was.
A config names classes; here those names are compared with a fixed table and never imported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from bowerbird.errors import ModelError
from bowerbird.models.autoencoder import Autoencoder, LatentSpace
from bowerbird.models.denoiser import Betas, Denoiser, DenoiserSpec
from bowerbird.models.unet import UNet, unet_class
from bowerbird.pretrained.autoencoders import PretrainedAutoencoder, autoencoder_place, open_pretrained_autoencoder
from bowerbird.pretrained.loading import open_network
from bowerbird.progress import OnProgress, note

_SCHEDULERS = {
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
}
_BETAS = {"linear": "linear", "scaled_linear": "scaled-linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
_PICTURE_CHANNELS = (1, 3)


def is_ddpm_folder(folder: Path) -> bool:
    """Whether a UNet2DModel lies in `folder` or in its `unet` sub-folder."""
    return _unet_folder(folder) is not None


def open_ddpm_folder(
    folder: Path, autoencoder: Autoencoder | None = None, on_progress: OnProgress | None = None
) -> tuple[Denoiser, LatentSpace | None]:
    """The model of a diffusers DDPM folder and the latents it learnt on, None for pixels.

    `autoencoder` is the one it was trained with, where none lies beside it.  UnsafeFileError when its weights are a pickle.
    """
    unet_folder = _unet_folder(folder)
    assert unet_folder is not None, "ask is_ddpm_folder first"
    network: Any = open_network(unet_class(), unet_folder, torch.float32)
    if network.config.out_channels == 2 * network.config.in_channels:
        note(on_progress, f"{str(folder)!r} also predicts its variance; that half of the output is ignored")
    space = _latent_space(folder, network.config.in_channels, autoencoder)
    return Denoiser(UNet(network), _spec(_scheduler_config(folder), network.config, space is None)).eval(), space


def _latent_space(folder: Path, channels: int, autoencoder: Autoencoder | None) -> LatentSpace | None:
    """The latents of the autoencoder that was named or lies in the folder, scaled as published; None for a model of pixels."""
    if autoencoder is None and autoencoder_place(folder) is not None:
        autoencoder = open_pretrained_autoencoder(folder)
    if autoencoder is None:
        if channels in _PICTURE_CHANNELS:
            return None
        raise ModelError(
            f"{str(folder)!r} paints latents of {channels} channels and brings no autoencoder. Name the one it was trained with, "
            "for example a Stable Diffusion folder: --autoencoder MODEL"
        )
    if autoencoder.channels != channels:
        raise ModelError(
            f"{str(folder)!r} paints latents of {channels} channels; that autoencoder has {autoencoder.channels}. Name its own."
        )
    scale = autoencoder.published_scale() if isinstance(autoencoder, PretrainedAutoencoder) else (None, None)
    return LatentSpace(autoencoder, *scale)


def _spec(scheduler: dict[str, Any], unet: Any, of_pixels: bool) -> DenoiserSpec:
    """The scheduler's words in ours.  Without a scheduler config: linear betas, 1000 steps, eps, as DDPM was published."""
    if scheduler.get("_class_name", "DDPMScheduler") not in _SCHEDULERS:
        raise ModelError(f"the scheduler {scheduler['_class_name']!r} is not one Bowerbird reads; known: {', '.join(sorted(_SCHEDULERS))}.")
    if scheduler.get("rescale_betas_zero_snr"):
        raise ModelError(
            "this model's schedule ends at zero signal (rescale_betas_zero_snr), which Bowerbird does not read; open it with diffusers."
        )
    betas = _read_betas(scheduler)
    schedule = betas.schedule()
    prediction = _named(_PREDICTIONS, scheduler.get("prediction_type", "epsilon"), "prediction_type")
    size = unet.sample_size if isinstance(unet.sample_size, int) else unet.sample_size[0]
    return DenoiserSpec(
        prediction=prediction,
        time="timestep",
        betas=betas,
        sigma_min=schedule.sigma_min,
        sigma_max=schedule.sigma_max,
        sigma_data=1.0,  # variance-preserving networks expect inputs of variance 1
        sample_shape=(unet.in_channels, size, size),
        clip_x0=of_pixels and bool(scheduler.get("clip_sample", True)),  # latents go beyond -1..1 whatever the default says
    )


def _read_betas(scheduler: dict[str, Any]) -> Betas:
    if scheduler.get("trained_betas") is not None:
        raise ModelError("this model has hand-made trained_betas, which Bowerbird does not read; open it with diffusers.")
    kind = _named(_BETAS, scheduler.get("beta_schedule", "linear"), "beta_schedule")
    return Betas(
        kind=kind,
        num_steps=scheduler.get("num_train_timesteps", 1000),
        start=scheduler.get("beta_start", 1e-4),
        end=scheduler.get("beta_end", 0.02),
    )


def _named(table: dict[str, str], name: object, field: str) -> str:
    if name not in table:
        raise ModelError(f"the scheduler's {field} is {name!r}; Bowerbird reads {', '.join(table)}.")
    return table[str(name)]


def _unet_folder(folder: Path) -> Path | None:
    for candidate in (folder / "unet", folder):
        config = _read(candidate / "config.json")
        if config is not None and config.get("_class_name", "UNet2DModel") == "UNet2DModel" and "block_out_channels" in config:
            return candidate
    return None


def _scheduler_config(folder: Path) -> dict[str, Any]:
    return _read(folder / "scheduler/scheduler_config.json") or _read(folder / "scheduler_config.json") or {}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except OSError:
        return None
    except ValueError as error:
        raise ModelError(f"{str(path)!r} is damaged. Restore it, or use another copy.") from error
    return document if isinstance(document, dict) else None
