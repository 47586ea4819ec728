"""A recipe's words -> a network behind the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from bowerbird.conditions import Condition, network_parts
from bowerbird.diffusion.schedule import NoiseLevels, log_normal, logit_normal, uniform_t
from bowerbird.errors import RecipeError
from bowerbird.models import transformer, unet, upscaler
from bowerbird.models.autoencoder import ConvAutoencoder, autoencoder_config
from bowerbird.models.denoiser import Betas, Denoiser, DenoiserSpec
from bowerbird.models.upscaler import Upscaler, UpscalerConfig
from bowerbird.recipe import Recipe

REACH = 2.5  # sampling walks this many standard deviations of the noise levels of training: beyond, the network was hardly asked
# Training looks a little further.  A normal distribution has no end: four pictures in a million would come with ten times the noise that
# the network ever saw, and the error of a single one outweighs thousands of others in the gradient and in the optimizer's averages.
TRAINED = 3.0
SIGMA_DATA_PIXELS = 0.5


def build_denoiser(recipe: Recipe, sample_shape: tuple[int, int, int], conditions: Mapping[str, Condition] | None = None) -> Denoiser:
    """A freshly initialised model for pictures or latents of shape (C, H, W) that reads these conditions."""
    channels, size, _ = sample_shape
    shapes = {name: condition.shape() for name, condition in (conditions or {}).items()}
    if recipe.model.network == "unet":
        config = unet.unet_config(recipe.unet.size, size, channels, shapes.get("label", {}).get("count", 0), recipe.train.dropout)
        return Denoiser(unet.UNet(unet.unet_class()(**config)), _spec(recipe, sample_shape))
    own = recipe.transformer
    if size % own.patch:
        raise RecipeError(
            f"transformer.patch = {own.patch} does not divide the {size} latents that {recipe.model.autoencoder!r} makes of "
            f"data.size = {recipe.data.size}. Use a patch that does, or another size."
        )
    width, depth, heads = transformer.SIZES[own.size]
    settings = transformer.TransformerConfig(
        width,
        depth,
        heads,
        own.patch,
        channels,
        recipe.train.dropout,
        own.stem_channels,
        absolute=True,
        max_frequency=transformer.MAX_FREQUENCY,
        conditions=shapes,
    )
    return Denoiser(transformer.Transformer(settings, network_parts(shapes, width)), _spec(recipe, sample_shape))


def sigma_data_of(recipe: Recipe) -> float:
    """The standard deviation of what the model learns on: latents are scaled to 1."""
    return SIGMA_DATA_PIXELS if recipe.model.autoencoder == "rgb" else 1.0


def levels_of(recipe: Recipe) -> NoiseLevels:
    """The distribution of noise levels that the recipe's [diffusion] section names."""
    words = recipe.diffusion
    if words.noise_levels == "uniform-t":
        return uniform_t(Betas(kind=words.betas).schedule())
    if words.noise_levels == "log-normal":
        levels = log_normal(words.location, words.scale)
    else:
        levels = logit_normal(words.location, words.scale, words.shift)
    lowest, highest = torch.special.ndtr(torch.tensor([-TRAINED, TRAINED], dtype=torch.float64)).tolist()
    return lambda u: levels(u.clamp(lowest, highest))


def build_autoencoder(recipe: Recipe) -> ConvAutoencoder:
    """A freshly initialised autoencoder of ours."""
    settings = recipe.autoencoder
    return ConvAutoencoder(autoencoder_config(settings.size, settings.factor, settings.channels))


def build_upscaler(recipe: Recipe) -> Upscaler:
    """A freshly initialised upscaler."""
    width, convolutions = upscaler.SIZES[recipe.upscaler.size]
    return Upscaler(UpscalerConfig(recipe.upscaler.factor, width, convolutions))


def _spec(recipe: Recipe, sample_shape: tuple[int, int, int]) -> DenoiserSpec:
    fields: dict[str, Any] = {
        "prediction": recipe.diffusion.prediction,
        "sigma_data": sigma_data_of(recipe),
        "sample_shape": sample_shape,
        "clip_x0": recipe.model.autoencoder == "rgb",
    }
    own = recipe.model.network == "transformer"
    if recipe.diffusion.prediction in ("eps", "v"):
        betas = Betas(kind=recipe.diffusion.betas)
        schedule = betas.schedule()
        time: Literal["log-sigma", "timestep", "flow-t"] = "log-sigma" if own else "timestep"
        return DenoiserSpec(time=time, betas=betas, sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max, **fields)
    sigma_min, sigma_max = levels_of(recipe)(torch.special.ndtr(torch.tensor([-REACH, REACH], dtype=torch.float64))).tolist()
    return DenoiserSpec(time="log-sigma" if own else "flow-t", sigma_min=sigma_min, sigma_max=sigma_max, **fields)
