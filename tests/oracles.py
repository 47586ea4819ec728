"""Data whose denoiser and whose path from noise to picture are known exactly.  Pixels are independent, so shapes are free."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bowerbird.diffusion.prediction import expand


@dataclass(frozen=True)
class Gaussian:
    """Pixels ~ N(mean, std^2); std 0 is a point mass."""

    mean: float = 0.3
    std: float = 0.5

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x]: mean and x, weighted by how sure each of them is."""
        sigma = expand(sigma, x)
        x0: Tensor = (self.std**2 * x + sigma**2 * self.mean) / (self.std**2 + sigma**2)
        return x0

    def follow(self, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """Where the exact path through x at sigma is at sigma_next: the distance to the mean shrinks as the marginal's width."""
        narrowing: float = ((self.std**2 + sigma_next**2) / (self.std**2 + sigma**2)) ** 0.5
        return self.mean + (x - self.mean) * narrowing


@dataclass(frozen=True)
class Mixture:
    """Pixels ~ a mixture of Gaussians.  The defaults have modes outside -1..1, so that clipping matters."""

    weights: tuple[float, ...] = (0.3, 0.5, 0.2)
    means: tuple[float, ...] = (-1.2, 0.1, 1.1)
    stds: tuple[float, ...] = (0.1, 0.3, 0.2)

    def _components(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, torch.distributions.Normal]:
        """Weights (K,) and the components of the noisy marginal, broadcast against x[..., None]."""
        weights, means, stds = (x.new_tensor(values) for values in (self.weights, self.means, self.stds))
        return weights, torch.distributions.Normal(means, (stds**2 + sigma[..., None] ** 2).sqrt())

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x]: each component's own answer, weighted by how likely the component is."""
        sigma = expand(sigma, x)
        weights, noisy = self._components(x, sigma)
        likely = torch.softmax(weights.log() + noisy.log_prob(x[..., None]), dim=-1)
        answers = [Gaussian(mean, std).denoise(x, sigma.flatten()) for mean, std in zip(self.means, self.stds, strict=True)]
        return (likely * torch.stack(answers, dim=-1)).sum(-1)

    def cdf(self, x: Tensor, sigma: float) -> Tensor:
        """P(noisy pixel <= x) at noise level sigma."""
        weights, noisy = self._components(x, x.new_tensor(sigma))
        below: Tensor = (weights * noisy.cdf(x[..., None])).sum(-1)
        return below

    def follow(self, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """Where the exact path is at sigma_next.  Paths in one dimension cannot cross, so each keeps its quantile."""
        quantile = self.cdf(x, sigma)
        low, high = torch.full_like(x, -20 - 10 * sigma_next), torch.full_like(x, 20 + 10 * sigma_next)
        for _ in range(100):
            middle = (low + high) / 2
            below = self.cdf(middle, sigma_next) < quantile
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2
