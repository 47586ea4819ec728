"""From denoiser to denoiser.  Guidance binds a model to its condition and leaves `denoise(x, sigma)` for the samplers.

Both kinds of guidance take a good estimate and a worse one and move along the line through them, past the good one:

    x0 = worse + scale * (good - worse)          scale 0: worse    1: good    above 1: exaggerated
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from bowerbird.diffusion.samplers import Denoise

Condition = TypeVar("Condition")
Model = Callable[[Tensor, Tensor, Condition], Tensor]  # (x, sigma, cond) -> x0


def guide(
    model: Model[Condition],
    cond: Condition,
    uncond: Condition,
    scale: float = 1.0,
    interval: tuple[float, float] | None = None,
) -> Denoise:
    """Classifier-free guidance: away from what the model paints without the condition.  arXiv:2207.12598.

    `interval` (lowest, highest sigma) limits it: under strong noise it narrows what can be painted, under weak noise it
    does nothing (arXiv:2404.07724).
    """
    return _steer(lambda x, sigma: model(x, sigma, cond), lambda x, sigma: model(x, sigma, uncond), scale, interval)


def autoguide(
    model: Model[Condition],
    weak: Model[Condition],
    cond: Condition,
    scale: float = 1.0,
    interval: tuple[float, float] | None = None,
) -> Denoise:
    """Guidance by a smaller or less trained copy of the model: away from its mistakes, no labels needed.  arXiv:2406.02507."""
    return _steer(lambda x, sigma: model(x, sigma, cond), lambda x, sigma: weak(x, sigma, cond), scale, interval)


def clip_x0(denoise: Denoise, limit: float = 1.0) -> Denoise:
    """Keep every estimate within -limit..limit, where pixels live.  DDPM's own samplers do; never for latents."""
    return lambda x, sigma: denoise(x, sigma).clamp(-limit, limit)


def _steer(good: Denoise, worse: Denoise, scale: float, interval: tuple[float, float] | None) -> Denoise:
    """worse + scale * (good - worse) inside the interval, good outside; one call wherever one is enough."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        # a sampler gives the whole batch one noise level, so the first speaks for all
        outside = interval is not None and not interval[0] <= float(sigma[0]) <= interval[1]
        if scale == 1 or outside:
            return good(x, sigma)
        if scale == 0:
            return worse(x, sigma)
        return torch.lerp(worse(x, sigma), good(x, sigma), scale)

    return denoise
