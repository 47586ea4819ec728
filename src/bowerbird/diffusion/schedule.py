"""Noise levels.  One number says how noisy a picture is: sigma, in x = x0 + sigma * eps.

Two families of models were trained on another scale of x and with another clock.  Both are sigma in disguise:

    variance preserving (DDPM)   x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps    sigma = sqrt((1 - alpha_bar) / alpha_bar)
    rectified flow               z_t = (1 - t) x0 + t eps                              sigma = t / (1 - t)

Divide the first by sqrt(alpha_bar), the second by 1 - t, and x = x0 + sigma * eps is left.  Tables and grids are float64
on the CPU: they are small, and a sampler takes its steps from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bowerbird.errors import ModelError, RequestError

SIGMA_CAP = 1000.0  # cosine ends near 20,000 and zero terminal SNR at infinity; at 1000 a picture is noise to the eye and to float32


# ---------------------------------------------------------------- the variance-preserving clock


def linear_betas(num_steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> Tensor:
    """beta_t rising linearly, (num_steps,) float64.  DDPM, arXiv:2006.11239, section 4.  sigma ends at 157.4."""
    return torch.linspace(start, end, num_steps, dtype=torch.float64)


def scaled_linear_betas(num_steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> Tensor:
    """sqrt(beta_t) rising linearly, (num_steps,) float64: Stable Diffusion's schedule.  sigma ends at 14.61."""
    return torch.linspace(start**0.5, end**0.5, num_steps, dtype=torch.float64) ** 2


def cosine_betas(num_steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """alpha_bar falling as a squared cosine, (num_steps,) float64.  arXiv:2102.09672, section 3.2.  sigma ends near 20,000."""
    t = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    alpha_bar = torch.cos((t + offset) / (1 + offset) * (math.pi / 2)) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


@dataclass(frozen=True, eq=False)
class VPSchedule:
    """A discrete variance-preserving schedule: alpha_bar (T,) float64, falling; timestep t = 0 .. T - 1.

    Between whole timesteps log(sigma) is linear in t, so that a model trained on T levels answers for any sigma.
    """

    alpha_bar: Tensor

    def __post_init__(self) -> None:
        falling = bool((self.alpha_bar.diff() < 0).all())
        if not (falling and self.alpha_bar[0] < 1 and self.alpha_bar[-1] >= 0):
            raise ModelError("this noise schedule does not fall from below 1 to 0; check the betas of the model's scheduler.")

    @classmethod
    def from_betas(cls, betas: Tensor) -> VPSchedule:
        return cls(torch.cumprod(1 - betas.double(), dim=0))

    @cached_property
    def sigmas(self) -> Tensor:
        """sigma of each timestep, (T,) float64, rising."""
        alpha_bar = self.alpha_bar.clamp(min=1e-12)  # zero terminal SNR: a last sigma of a million instead of infinity
        return ((1 - alpha_bar) / alpha_bar).sqrt()

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        """Where sampling starts: the last sigma, or SIGMA_CAP where that is beyond use."""
        return min(float(self.sigmas[-1]), SIGMA_CAP)

    def t_from_sigma(self, sigma: Tensor) -> Tensor:
        """The timestep, fractional, of each sigma; clamped to 0 .. T - 1.  Same shape and dtype as sigma."""
        log_sigmas = self.sigmas.log().to(sigma)
        return _interpolate(sigma.log(), log_sigmas, torch.arange(len(log_sigmas)).to(sigma))

    def sigma_from_t(self, t: Tensor) -> Tensor:
        """The sigma of each timestep, fractional ones too; clamped to the table.  Same shape and dtype as t."""
        log_sigmas = self.sigmas.log().to(t)
        return _interpolate(t, torch.arange(len(log_sigmas)).to(t), log_sigmas).exp()


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Piecewise linear through (xs, ys), xs rising; constant beyond both ends."""
    right = torch.searchsorted(xs, x).clamp(1, len(xs) - 1)
    left = right - 1
    weight = (x - xs[left]) / (xs[right] - xs[left])
    return torch.lerp(ys[left], ys[right], weight.clamp(0, 1))


# ---------------------------------------------------------------- the flow clock


def flow_t_from_sigma(sigma: Tensor) -> Tensor:
    """Rectified flow's time, 0 (picture) to 1 (noise)."""
    return sigma / (1 + sigma)


def flow_sigma_from_t(t: Tensor) -> Tensor:
    return t / (1 - t)


# ---------------------------------------------------------------- grids: where a sampler steps
#
# A grid of n steps is (n + 1,) float64: n noise levels from sigma_max strictly down, then 0.


def karras_grid(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Uniform in sigma^(1/rho): short steps where the picture forms.  EDM, arXiv:2206.00364, equation 5."""
    root = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_steps, dtype=torch.float64)
    return _ending_at_zero(root**rho)


def angle_grid(num_steps: int, sigma_min: float, sigma_max: float, spread: float) -> Tensor:
    """sigma = spread * tan(theta), theta evenly spaced down to 0: a few long steps, each of which bends alike.

    The path of Gaussian data of standard deviation s runs along sqrt(s^2 + sigma^2).  A step of Euler of length h leaves it by
    h^2 s^2 / 2 (s^2 + sigma^2)^(3/2); that is the same share of the path's own size everywhere when steps are as long as
    s^2 + sigma^2, which is to say evenly spaced in arctan(sigma / s).  The many steps of a long grid end at sigma_min, below which
    the network was hardly asked.
    """
    highest = math.atan(sigma_max / spread)
    lowest = max(math.atan(sigma_min / spread), highest / num_steps) if num_steps > 1 else highest
    sigmas = spread * torch.linspace(highest, lowest, num_steps, dtype=torch.float64).tan()
    sigmas[0] = sigma_max
    return _ending_at_zero(sigmas)


def timesteps(num_steps: int, num_train_steps: int, spacing: str, offset: int = 0) -> Tensor:
    """Whole timesteps as diffusers spaces them, (num_steps,) int64, falling.  arXiv:2305.08891, table 2.

    "leading" and "trailing" walk in strides of T / n, the one ending at 0 and the other starting at T - 1; "linspace"
    does both.  `offset` (the scheduler's steps_offset) moves "leading" up; Stable Diffusion uses 1.
    """
    if num_steps > num_train_steps:
        raise RequestError(f"{num_steps} steps on a schedule of {num_train_steps} timesteps; ask for {num_train_steps} or fewer.")
    if spacing == "leading":
        return torch.arange(num_steps).flip(0) * (num_train_steps // num_steps) + offset
    if spacing == "trailing":
        return (num_train_steps - torch.arange(num_steps).double() * (num_train_steps / num_steps)).round().long() - 1
    if spacing == "linspace":
        return torch.linspace(0, num_train_steps - 1, num_steps, dtype=torch.float64).round().long().flip(0)
    raise ModelError(f"timestep spacing {spacing!r} is not known. Known: leading, linspace, trailing.")


def timestep_grid(num_steps: int, schedule: VPSchedule, spacing: str, offset: int = 0, ends_at_zero: bool = True) -> Tensor:
    """The sigmas of `timesteps`: the grid on which diffusers' DDPM and DDIM step, to 0 or to the first timestep's sigma."""
    steps = timesteps(num_steps, len(schedule.sigmas), spacing, offset)
    if int(steps[0]) >= len(schedule.sigmas):  # an offset beyond the table, where diffusers fails
        raise RequestError(f"{num_steps} steps do not fit a schedule of {len(schedule.sigmas)} timesteps with an offset; ask for fewer.")
    sigmas = schedule.sigmas[steps]
    return _ending_at_zero(sigmas) if ends_at_zero else torch.cat([sigmas, schedule.sigmas[:1]])


def _ending_at_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


# ---------------------------------------------------------------- noise levels: where training looks
#
# A distribution over sigma is given by its quantile function, u in (0, 1) -> sigma, so that training can key its draws
# by sample number (bowerbird.draws) and a mean over all noise levels is an integral over u.

NoiseLevels = Callable[[Tensor], Tensor]


def uniform_t(schedule: VPSchedule) -> NoiseLevels:
    """Every whole timestep alike, as DDPM trains."""

    def quantile(u: Tensor) -> Tensor:
        sigmas = schedule.sigmas.to(u)
        return sigmas[(u * len(sigmas)).long().clamp(max=len(sigmas) - 1)]

    return quantile


def log_normal(location: float = -1.2, scale: float = 1.2) -> NoiseLevels:
    """log(sigma) ~ N(location, scale^2).  The defaults are EDM's, arXiv:2206.00364, table 1."""
    return lambda u: torch.exp(location + scale * torch.special.ndtri(u))


def logit_normal(location: float = 0.0, scale: float = 1.0, shift: float = 1.0) -> NoiseLevels:
    """logit(t) ~ N(location, scale^2) for the flow clock, then shifted: t -> shift t / (1 + (shift - 1) t).

    arXiv:2403.03206, sections 3.1 and 5.3.

    Since sigma = t / (1 - t), logit(t) *is* log(sigma), and the shift multiplies sigma: a log-normal by another name.
    """
    return log_normal(location + math.log(shift), scale)
