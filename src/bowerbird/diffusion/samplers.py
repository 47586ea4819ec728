"""From noise to picture: follow the denoiser down a grid of noise levels.

All samplers share one signature and one idea.  The denoiser's estimate x0 is where the path points; stepping from sigma
down to r * sigma keeps the fraction r of what is not yet picture:

    x  <-  x0 + r (x - x0)                                 r = sigma_next / sigma

That is Euler's step, and DDIM.  The others replace x0 by a better guess of where the path points (heun, dpm++2m), or shrink
further, to r^2, and make up for it with fresh noise (ddpm).

`sigmas` is a grid of schedule.py, (n + 1,), falling; one that ends above 0 leaves x at that noise level.  `denoise` gets
x (B, C, H, W) and sigma (B,) and returns x0.  The state has the dtype of x: float32 in use, float64 in proofs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]  # (x, sigma) -> x0
Noise = Callable[[Tensor], Tensor]  # like -> standard normal draws of its shape, dtype and device
OnStep = Callable[[int, int, Tensor], None]  # (steps done, steps in all, x0 so far), after each step; raises to cancel
Sampler = Callable[[Denoise, Tensor, Tensor, Noise, OnStep], Tensor]


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, on_step: OnStep) -> Tensor:
    """First order, one call a step.  In sigma, DDIM (arXiv:2010.02502, equation 12 without noise) is Euler's method."""
    for done, total, sigma, sigma_next in _steps(sigmas):
        x0 = denoise(x, _level(sigma, x))
        x = x0 + (sigma_next / sigma) * (x - x0)
        on_step(done, total, x0)
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, on_step: OnStep) -> Tensor:
    """Second order, two calls a step: the slope here averaged with the slope there.  EDM, arXiv:2206.00364, algorithm 1."""
    for done, total, sigma, sigma_next in _steps(sigmas):
        x0 = denoise(x, _level(sigma, x))
        x_euler = x0 + (sigma_next / sigma) * (x - x0)
        if sigma_next > 0:
            slope = (x - x0) / sigma
            slope_next = (x_euler - denoise(x_euler, _level(sigma_next, x))) / sigma_next
            x = x + (sigma_next - sigma) * (slope + slope_next) / 2
        else:  # at 0 the slope has no value, and Euler's step lands on x0 exactly
            x = x_euler
        on_step(done, total, x0)
    return x


def dpm_plus_plus_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, on_step: OnStep) -> Tensor:
    """Second order, one call a step: x0 extrapolated from the last two.  DPM-Solver++(2M), arXiv:2211.01095, algorithm 2.

    Its time is lambda = -log(sigma).  The step length is h; half of it beyond this point, on the line through the last
    two estimates, lies the x0 to step towards.
    """
    x0_before, h_before = None, math.nan
    for done, total, sigma, sigma_next in _steps(sigmas):
        x0 = denoise(x, _level(sigma, x))
        h = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf
        ahead = x0
        if x0_before is not None and sigma_next > 0:  # first step: nothing to extrapolate from; last: no finite length
            ahead = x0 + h / (2 * h_before) * (x0 - x0_before)
        x = ahead + (sigma_next / sigma) * (x - ahead)
        x0_before, h_before = x0, h
        on_step(done, total, x0)
    return x


def ddim_with_clip(clip: Callable[[Tensor], Tensor]) -> Sampler:
    """DDIM as diffusers steps when it clips: the estimate is cut off, the noise it came with is not drawn from it anew.

    Euler's step with a denoiser that clips takes x - clip(x0) for noise instead (`use_clipped_model_output`), another path.
    """

    def ddim(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, on_step: OnStep) -> Tensor:
        for done, total, sigma, sigma_next in _steps(sigmas):
            x0 = denoise(x, _level(sigma, x))
            clipped = clip(x0)
            x = clipped + (sigma_next / sigma) * (x - x0)
            on_step(done, total, clipped)
        return x

    return ddim


def ddpm(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, on_step: OnStep) -> Tensor:
    """Ancestral sampling: a draw from q(x_next | x, x0).  DDPM, arXiv:2006.11239, equations 6 and 7 ("fixed small" variance).

    If x0 were the truth, x - x0 would be noise of variance sigma^2.  Shrunk by r^2 and with fresh noise of variance
    sigma_next^2 (1 - r^2) it is noise of variance sigma_next^2 again.
    """
    return _ancestral(denoise, x, sigmas, noise, on_step, lambda sigma, sigma_next: sigma_next**2 * (1 - (sigma_next / sigma) ** 2))


def ddpm_fixed_large(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, on_step: OnStep) -> Tensor:
    """The same with the other variance of DDPM, arXiv:2006.11239, section 3.2: beta, right for x0 ~ N(0, 1) as the small is for a point.

    Between two steps of the grid beta is 1 - alpha_bar / alpha_bar_next; in x = x0 + sigma eps it is divided by alpha_bar_next.
    """
    return _ancestral(
        denoise, x, sigmas, noise, on_step, lambda sigma, sigma_next: (sigma**2 - sigma_next**2) * (1 + sigma_next**2) / (1 + sigma**2)
    )


def _ancestral(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, on_step: OnStep, variance: Callable[[float, float], float]
) -> Tensor:
    for done, total, sigma, sigma_next in _steps(sigmas):
        x0 = denoise(x, _level(sigma, x))
        x = x0 + (sigma_next / sigma) ** 2 * (x - x0)
        if sigma_next > 0:
            x = x + math.sqrt(variance(sigma, sigma_next)) * noise(x)
        on_step(done, total, x0)
    return x


def _steps(sigmas: Tensor) -> Iterator[tuple[int, int, float, float]]:
    """(steps done after this one, steps in all, sigma, sigma_next); plain floats: exact coefficients whatever the dtype of x."""
    for done, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist()), start=1):
        yield done, len(sigmas) - 1, sigma, sigma_next


def _level(sigma: float, x: Tensor) -> Tensor:
    """One noise level for the whole batch, (B,)."""
    return x.new_full((len(x),), sigma)


SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": euler,  # one method under two names; people look for both
    "euler": euler,
    "heun": heun,
    "dpm++2m": dpm_plus_plus_2m,
}
