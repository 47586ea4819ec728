"""Other people's DDPMs: a diffusers `DDPMPipeline` folder, or a bare `UNet2DModel`, parts in sub-folders or at the root.

A model of latents (`LDMPipeline`, or a U-Net of four channels) has its autoencoder beside it, or is told which it was.
A config names classes; here those names are compared with a fixed table and never imported.  What a config says of how
to paint is honoured as diffusers does, or refused in a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from pydantic import ValidationError

from bowerbird.conditions.label import Label
from bowerbird.errors import ModelError, RequestError
from bowerbird.models.autoencoder import Autoencoder, LatentSpace
from bowerbird.models.conditioning import Cond
from bowerbird.models.denoiser import Betas, Denoiser, DenoiserSpec, Steps
from bowerbird.models.unet import UNet, check_answers, unet_class
from bowerbird.pretrained.autoencoders import PretrainedAutoencoder, autoencoder_place, open_pretrained_autoencoder
from bowerbird.pretrained.configs import class_arguments, read_config, read_scheduler_config, scheduler_defaults
from bowerbird.pretrained.loading import open_network
from bowerbird.progress import OnProgress, note
from bowerbird.request import PaintRequest

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
_VARIANCES = {"fixed_small": "fixed-small", "fixed_small_log": "fixed-small", "fixed_large": "fixed-large"}
_LEARNT_VARIANCES = ("learned", "learned_range")
_PICTURE_CHANNELS = (1, 3)
_MAX_SIDE = 1024


@dataclass(frozen=True)
class Classes(Label):
    """The classes of a U-Net trained elsewhere, by number.  It learnt no picture without one, so guidance has nothing to lead away from."""

    def asked(self, request: PaintRequest, seeds: Sequence[int]) -> Cond:
        if request.label is None:
            raise RequestError(f"this model paints one of {len(self.names)} classes: name it with --label 0 to {len(self.names) - 1}.")
        if request.guidance not in (None, 1):
            raise RequestError(
                "this model learnt no pictures without a class, so there is nothing for guidance to lead away from. Leave it out."
            )
        return super().asked(request, seeds)


def is_ddpm_folder(folder: Path) -> bool:
    """Whether a UNet2DModel lies in `folder` or in its `unet` sub-folder."""
    return _unet_folder(folder) is not None


def open_ddpm_folder(
    folder: Path, autoencoder: Autoencoder | None = None, on_progress: OnProgress | None = None
) -> tuple[Denoiser, LatentSpace | None, dict[str, Label]]:
    """The model of a diffusers DDPM folder, the latents it learnt on (None for pixels), and its classes, if it has any.

    `autoencoder` is the one it was trained with, where none lies beside it.  UnsafeFileError when its weights are a pickle.
    """
    unet_folder = _unet_folder(folder)
    assert unet_folder is not None, "ask is_ddpm_folder first"
    scheduler = _scheduler_config(folder)
    network: Any = open_network(unet_class(), unet_folder, torch.float32)
    _check_unet(network.config, str(unet_folder))
    settings = class_arguments(unet_class(), read_config(unet_folder / "config.json"), unet_folder / "config.json")
    height, width = _sides(network.config.sample_size)
    check_answers(lambda: unet_class()(**settings), (height, width), str(unet_folder))
    if network.config.out_channels == 2 * network.config.in_channels:
        note(on_progress, f"{str(folder)!r} also predicts its variance; that half of the output is ignored")
    space = _latent_space(folder, network.config.in_channels, autoencoder)
    denoiser = Denoiser(UNet(network), _spec(scheduler, network.config, space is None)).eval()
    count = network.config.num_class_embeds
    return denoiser, space, {} if count is None else {Label.name: Classes(tuple(map(str, range(count))))}


def _check_unet(unet: Any, where: str) -> None:
    """ModelError for a U-Net that is built without complaint and cannot paint here."""
    sides = _sides(unet.sample_size)
    coarsest = 2 ** (len(unet.block_out_channels) - 1)
    if not all(type(side) is int and 0 < side <= _MAX_SIDE and side % coarsest == 0 for side in sides) or len(sides) != 2:
        raise ModelError(
            f"{where!r} sets sample_size = {str(unet.sample_size)[:80]}; a side in pixels is expected, a multiple of {coarsest}."
        )
    if unet.out_channels not in (unet.in_channels, 2 * unet.in_channels):
        raise ModelError(f"{where!r} reads {unet.in_channels} channels and gives {unet.out_channels}, which is no DDPM.")
    if unet.class_embed_type is not None:
        raise ModelError(
            f"{where!r} has class_embed_type = {unet.class_embed_type!r}, which Bowerbird does not read; open it with diffusers."
        )
    if unet.time_embedding_type == "fourier":
        raise ModelError(f"{where!r} has Fourier time embeddings, as score-based models do; Bowerbird reads DDPMs. Open it with diffusers.")


def _sides(sample_size: Any) -> tuple[Any, ...]:
    """(height, width)"""
    return tuple(sample_size) if isinstance(sample_size, list | tuple) else (sample_size, sample_size)


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
    """The scheduler's words in ours."""
    if scheduler["_class_name"] not in _SCHEDULERS:
        raise ModelError(f"the scheduler {scheduler['_class_name']!r} is not one Bowerbird reads; known: {', '.join(sorted(_SCHEDULERS))}.")
    if scheduler.get("rescale_betas_zero_snr"):
        raise ModelError(
            "this model's schedule ends at zero signal (rescale_betas_zero_snr), which Bowerbird does not read; open it with diffusers."
        )
    betas = _read_betas(scheduler)
    schedule = betas.schedule()
    if unet.time_embedding_type == "learned" and (unet.num_train_timesteps or 0) < betas.num_steps:
        raise ModelError(
            f"this model learnt {unet.num_train_timesteps} timesteps, and its scheduler has {betas.num_steps}. Use another copy."
        )
    height, width = _sides(unet.sample_size)
    return DenoiserSpec(
        prediction=_named(_PREDICTIONS, scheduler["prediction_type"], "prediction_type"),
        time="timestep",
        betas=betas,
        sigma_min=schedule.sigma_min,
        sigma_max=schedule.sigma_max,
        sigma_data=1.0,  # variance-preserving networks expect inputs of variance 1
        sample_shape=(unet.in_channels, height, width),
        # latents go beyond -1..1 whatever the default says
        clip_x0=of_pixels and bool(scheduler.get("clip_sample") or scheduler.get("thresholding")),
        steps=_read_steps(scheduler),
    )


def _read_steps(scheduler: dict[str, Any]) -> Steps:
    variance = scheduler.get("variance_type")
    limit, share, most = (scheduler.get(key) for key in ("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"))
    offset = scheduler.get("steps_offset", 0)
    if type(offset) is not int or not 0 <= offset < scheduler["num_train_timesteps"]:
        raise ModelError(f"the scheduler's steps_offset is {str(offset)[:40]}, which is no number of timesteps. Use another copy.")
    if scheduler.get("clip_sample") and not _is_positive(limit):
        raise ModelError(f"the scheduler's clip_sample_range is {str(limit)[:40]}, which is no range of pixels. Use another copy.")
    if scheduler.get("thresholding") and not (_is_positive(share) and share <= 1 and _is_positive(most)):
        raise ModelError(f"the scheduler thresholds at {str((share, most))[:80]}, which is no share and value. Use another copy.")
    fields: dict[str, Any] = {
        "spacing": _named({name: name for name in ("leading", "trailing", "linspace")}, scheduler["timestep_spacing"], "timestep_spacing"),
        "offset": offset,
        "ends_at_zero": bool(scheduler.get("set_alpha_to_one", True)),
        "clip_limit": limit if _is_positive(limit) else 1.0,
        "threshold": (share, most) if scheduler.get("thresholding") else None,
    }
    if variance is not None and variance not in _LEARNT_VARIANCES:
        fields["variance"] = _named(_VARIANCES, variance, "variance_type")
    return Steps(**fields)


def _is_positive(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and value > 0


def _read_betas(scheduler: dict[str, Any]) -> Betas:
    if scheduler.get("trained_betas") is not None:
        raise ModelError("this model has hand-made trained_betas, which Bowerbird does not read; open it with diffusers.")
    kind = _named(_BETAS, scheduler["beta_schedule"], "beta_schedule")
    try:
        return Betas(kind=kind, num_steps=scheduler["num_train_timesteps"], start=scheduler["beta_start"], end=scheduler["beta_end"])
    except ValidationError as error:
        told = ", ".join(f"{each['loc'][0]} = {each['input']!r:.40}" for each in error.errors())
        raise ModelError(
            f"this noise schedule does not fall from below 1 to 0 ({told}); check the betas of the model's scheduler."
        ) from error


def _named(table: dict[str, str], name: object, field: str) -> Any:
    if not isinstance(name, str) or name not in table:
        raise ModelError(f"the scheduler's {field} is {str(name)[:80]!r}; Bowerbird reads {', '.join(table)}.")
    return table[name]


def _unet_folder(folder: Path) -> Path | None:
    """Where the U-Net lies.  Training scripts keep its average beside it, and that is what they paint with."""
    for candidate in (folder / "unet_ema", folder / "unet", folder):
        if (candidate / "config.json").exists():
            config = read_config(candidate / "config.json")
            if config.get("_class_name", "UNet2DModel") == "UNet2DModel" and "block_out_channels" in config:
                return candidate
    return None


def _scheduler_config(folder: Path) -> dict[str, Any]:
    """All settings of the scheduler, what its class does by itself among them.  None at all means DDPM as it was published."""
    for path in (folder / "scheduler/scheduler_config.json", folder / "scheduler_config.json"):
        if path.exists():
            settings = read_scheduler_config(path)
            return scheduler_defaults(settings["_class_name"]) | settings
    return {"_class_name": "DDPMScheduler", **scheduler_defaults("DDPMScheduler")}
