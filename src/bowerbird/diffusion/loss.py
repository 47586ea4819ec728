"""One loss, mean(w(sigma) |model(x, sigma) - x0|^2).  The losses of the literature are its weights.

A network that predicts eps, v, a flow velocity or EDM's mixture errs by its x0 error divided by its output scale
(prediction.py), so its own squared error is the x0 error with weight 1 / output_scale^2.  What a network predicts and
what it is trained to get right are therefore two free choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bowerbird.diffusion.schedule import NoiseLevels

Weighting = Callable[[Tensor, float], Tensor]  # (sigma (B,), sigma_data) -> (B,)


def min_snr(sigma: Tensor, sigma_data: float, gamma: float = 5.0) -> Tensor:
    """The eps loss, held back where there is little noise.  arXiv:2303.09556."""
    return (1 / sigma**2).clamp(max=gamma)


def sigmoid(sigma: Tensor, sigma_data: float, bias: float = 2.0) -> Tensor:
    """The eps loss times sigmoid(bias - log snr).  arXiv:2303.00848.  In sigma: min-SNR without the corner, gamma = e^bias."""
    return 1 / (sigma**2 + math.exp(-bias))


WEIGHTINGS: dict[str, Weighting] = {
    "x0": lambda sigma, _: torch.ones_like(sigma),
    "eps": lambda sigma, _: 1 / sigma**2,
    "v": lambda sigma, _: 1 + 1 / sigma**2,
    "flow": lambda sigma, _: ((1 + sigma) / sigma) ** 2,
    "edm": lambda sigma, sigma_data: (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2,
    "min-snr": min_snr,
    "sigmoid": sigmoid,
}


def denoising_loss(model_x0: Tensor, x0: Tensor, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """The loss of each picture, (B,).  model_x0, x0: (B, C, H, W); weight: (B,).

    mask: (B, 1, H, W), how much each place counts in the mean, 0..1; without one, all alike.
    """
    error = (model_x0 - x0).square()
    if mask is None:
        return weight * error.flatten(1).mean(1)
    return weight * (mask * error).flatten(1).sum(1) / (mask.flatten(1).sum(1) * x0.shape[1])


def normalised(weighting: Weighting, noise_levels: NoiseLevels, sigma_data: float) -> Callable[[Tensor], Tensor]:
    """w(sigma) divided by its mean over the noise levels: weightings then differ in shape and not in learning rate."""
    mean = mean_over(noise_levels, lambda sigma: weighting(sigma, sigma_data))
    return lambda sigma: weighting(sigma, sigma_data) / mean


def mean_over(noise_levels: NoiseLevels, function: Callable[[Tensor], Tensor]) -> float:
    """The mean of function(sigma) over the noise levels, by quadrature.

    Weights like 1/sigma^2 live in the far tail of u, where equal steps of u see nothing.  With u = Phi(z) the integral
    over u becomes one over z with a normal density, and equal steps of z reach u = 1e-15 at both ends.
    """
    z = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2)
    return float((function(noise_levels(torch.special.ndtr(z))) * density).sum() / density.sum())
