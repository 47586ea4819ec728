"""A recipe's words -> a network behind the contract."""

from __future__ import annotations

from typing import Any, Literal

from bowerbird.errors import RecipeError
from bowerbird.models import transformer, unet
from bowerbird.models.autoencoder import ConvAutoencoder, autoencoder_config
from bowerbird.models.denoiser import Betas, Denoiser, DenoiserSpec
from bowerbird.recipe import Recipe

SIGMA_RANGE_EDM = (0.002, 80.0)  # EDM, arXiv:2206.00364, table 1
SIGMA_RANGE_FLOW = (1 / 999, 999.0)  # t = 0.001 .. 0.999, sigma = t / (1 - t)
SIGMA_DATA_PIXELS = 0.5


def build_denoiser(recipe: Recipe, sample_shape: tuple[int, int, int], label_count: int) -> Denoiser:
    """A freshly initialised model for pictures or latents of shape (C, H, W); label_count 0 means no labels."""
    channels, size, _ = sample_shape
    if recipe.model.network == "unet":
        config = unet.unet_config(recipe.model.size, size, channels, label_count, recipe.train.dropout)
        return Denoiser(unet.UNet(unet.unet_class()(**config)), _spec(recipe, sample_shape))
    if size % recipe.model.patch:
        raise RecipeError(
            f"model.patch = {recipe.model.patch} does not divide the {size} latents that {recipe.model.autoencoder!r} makes of "
            f"data.size = {recipe.data.size}. Use a patch that does, or another size."
        )
    width, depth, heads = transformer.SIZES[recipe.model.size]
    shape = transformer.TransformerConfig(
        width, depth, heads, recipe.model.patch, channels, label_count, recipe.train.dropout, recipe.model.detail
    )
    return Denoiser(transformer.Transformer(shape), _spec(recipe, sample_shape))


def sigma_data_of(recipe: Recipe) -> float:
    """The standard deviation of what the model learns on: latents are scaled to 1."""
    return SIGMA_DATA_PIXELS if recipe.model.autoencoder == "rgb" else 1.0


def build_autoencoder(recipe: Recipe) -> ConvAutoencoder:
    """A freshly initialised autoencoder of ours."""
    settings = recipe.autoencoder
    return ConvAutoencoder(autoencoder_config(recipe.model.size, settings.factor, settings.channels))


def _spec(recipe: Recipe, sample_shape: tuple[int, int, int]) -> DenoiserSpec:
    fields: dict[str, Any] = {
        "prediction": recipe.diffusion.prediction,
        "sigma_data": sigma_data_of(recipe),
        "sample_shape": sample_shape,
        "clip_x0": recipe.model.autoencoder == "rgb",
    }
    if recipe.diffusion.prediction in ("eps", "v"):
        betas = Betas(kind=recipe.diffusion.betas)
        schedule = betas.schedule()
        return DenoiserSpec(time="timestep", betas=betas, sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max, **fields)
    sigma_min, sigma_max = SIGMA_RANGE_EDM if recipe.diffusion.noise_levels == "log-normal" else SIGMA_RANGE_FLOW
    time: Literal["log-sigma", "flow-t"] = "log-sigma" if recipe.model.network == "transformer" else "flow-t"
    return DenoiserSpec(time=time, sigma_min=sigma_min, sigma_max=sigma_max, **fields)
