"""From denoiser to denoiser.  Guidance binds a model to its condition and leaves `denoise(x, sigma)` for the samplers.

It takes the estimate with the condition and the one without, and moves along the line through them, past the first:

    x0 = without + scale * (with - without)          scale 0: without    1: with    above 1: exaggerated
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from bowerbird.diffusion.prediction import expand
from bowerbird.diffusion.samplers import Denoise

Condition = TypeVar("Condition")
Model = Callable[[Tensor, Tensor, Condition], Tensor]  # (x, sigma, cond) -> x0


def guide(
    model: Model[Condition],
    cond: Condition,
    uncond: Condition,
    scale: float = 1.0,
    both: Condition | None = None,
) -> Denoise:
    """Classifier-free guidance: away from what the model paints without the condition.  arXiv:2207.12598.

    `both`: the rows of `cond` and below them those of `uncond`; one call then answers for both, so that weights are read once.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        if scale == 1:
            return model(x, sigma, cond)
        if scale == 0:
            return model(x, sigma, uncond)
        if both is not None:
            x0, x0_uncond = model(torch.cat([x, x]), torch.cat([sigma, sigma]), both).chunk(2)
            return torch.lerp(x0_uncond, x0, scale)
        return torch.lerp(model(x, sigma, uncond), model(x, sigma, cond), scale)

    return denoise


Clip = Callable[[Tensor], Tensor]  # an estimate x0 -> one where pixels live; never for latents


def within(limit: float = 1.0) -> Clip:
    """Every value cut off at -limit and limit, as DDPM's own samplers do."""
    return lambda x0: x0.clamp(-limit, limit)


def dynamic_threshold(share: float, most: float) -> Clip:
    """Dynamic thresholding, Imagen, arXiv:2205.11487, section 2.3: strong guidance saturates pixels, cutting them off all at 1.

    s is the value below which a `share` of each picture's |x0| lies, within 1..most; x0 is cut off at s and divided by it.
    """

    def clip(x0: Tensor) -> Tensor:
        s = expand(x0.flatten(1).abs().quantile(share, dim=1).clamp(1, max(1.0, most)), x0)
        return torch.minimum(torch.maximum(x0, -s), s) / s

    return clip


def clip_x0(denoise: Denoise, clip: Clip = within()) -> Denoise:  # noqa: B008 - a pure function
    """Keep every estimate where pixels live."""
    return lambda x, sigma: clip(denoise(x, sigma))


def keep(denoise: Denoise, known: Tensor, anew: Tensor) -> Denoise:
    """Paint only where `anew` (B or 1, 1, H, W; bool) says so: elsewhere the estimate is what is known, known (B or 1, C, H, W).

    A deterministic sampler's path then ends on it exactly, and what is painted sees it at every step (the replacement
    method of arXiv:2011.13456, appendix I.2, applied to x0).
    """
    return lambda x, sigma: torch.where(anew, denoise(x, sigma), known)
