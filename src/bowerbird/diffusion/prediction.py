"""What a network's output means.  Every convention of the literature is one line of three coefficients.

    x0 = skip(sigma) * x + out(sigma) * network(in(sigma) * x)                       EDM, arXiv:2206.00364, equation 7

                 in                          skip                         out
    eps          1/sqrt(1 + sigma^2)         1                            -sigma
    v            1/sqrt(1 + sigma^2)         1/(1 + sigma^2)              -sigma/sqrt(1 + sigma^2)
    flow         1/(1 + sigma)               1/(1 + sigma)                -sigma/(1 + sigma)
    x0           1/sqrt(sigma^2 + d^2)       0                            1
    edm          1/sqrt(sigma^2 + d^2)       d^2/(sigma^2 + d^2)          sigma d/sqrt(sigma^2 + d^2)

d is sigma_data, the standard deviation of the pictures (0.5 for pixels in -1..1, 1 for normalised latents).  With d = 1,
"edm" is "v" with its sign turned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Coefficient = Callable[[Tensor, float], Tensor]  # (sigma (B,), sigma_data) -> (B,)


@dataclass(frozen=True)
class Prediction:
    """One line of the table above.  The coefficients take sigma (B,) and sigma_data, and give (B,)."""

    input_scale: Coefficient
    skip_scale: Coefficient
    output_scale: Coefficient

    def x0(self, x: Tensor, output: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        """The clean picture implied by the network's output.  x, output: (B, C, H, W); sigma: (B,)."""
        return expand(self.skip_scale(sigma, sigma_data), x) * x + expand(self.output_scale(sigma, sigma_data), x) * output

    def target(self, x0: Tensor, eps: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        """The output a perfect network would give for x = x0 + sigma * eps: `x0` solved for `output`.  sigma > 0."""
        skip, out = self.skip_scale(sigma, sigma_data), self.output_scale(sigma, sigma_data)
        # x is written out, (x0 - skip * (x0 + sigma * eps)) / out, so that x0 need not cancel against itself at small sigma
        return expand((1 - skip) / out, x0) * x0 - expand(skip * sigma / out, x0) * eps

    def start(self, eps: Tensor, sigma: float, sigma_data: float) -> Tensor:
        """Where sampling starts from unit noise, sigma being the first of the grid.  eps: (B, C, H, W).

        What the network sees first is eps itself: x is sqrt(1 + sigma^2) eps for a VP model, (1 + sigma) eps for a flow.
        """
        first = eps.new_full((len(eps),), sigma)
        return eps / expand(self.input_scale(first, sigma_data), eps)


def add_noise(x0: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
    """x = x0 + sigma * eps.  x0, eps: (B, C, H, W); sigma: (B,)."""
    return x0 + expand(sigma, x0) * eps


def expand(per_picture: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1), to multiply `like` (B, C, H, W)."""
    return per_picture.reshape(-1, *[1] * (like.ndim - 1))


PREDICTIONS: dict[str, Prediction] = {
    "eps": Prediction(
        input_scale=lambda sigma, _: (1 + sigma**2).rsqrt(),
        skip_scale=lambda sigma, _: sigma.new_ones(sigma.shape),
        output_scale=lambda sigma, _: -sigma,
    ),
    "v": Prediction(  # v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0; arXiv:2202.00512
        input_scale=lambda sigma, _: (1 + sigma**2).rsqrt(),
        skip_scale=lambda sigma, _: 1 / (1 + sigma**2),
        output_scale=lambda sigma, _: -sigma * (1 + sigma**2).rsqrt(),
    ),
    "flow": Prediction(  # velocity = dz/dt = eps - x0; arXiv:2209.03003
        input_scale=lambda sigma, _: 1 / (1 + sigma),
        skip_scale=lambda sigma, _: 1 / (1 + sigma),
        output_scale=lambda sigma, _: -sigma / (1 + sigma),
    ),
    "x0": Prediction(
        input_scale=lambda sigma, sigma_data: (sigma**2 + sigma_data**2).rsqrt(),
        skip_scale=lambda sigma, _: sigma.new_zeros(sigma.shape),
        output_scale=lambda sigma, _: sigma.new_ones(sigma.shape),
    ),
    "edm": Prediction(  # arXiv:2206.00364, table 1
        input_scale=lambda sigma, sigma_data: (sigma**2 + sigma_data**2).rsqrt(),
        skip_scale=lambda sigma, sigma_data: sigma_data**2 / (sigma**2 + sigma_data**2),
        output_scale=lambda sigma, sigma_data: sigma * sigma_data * (sigma**2 + sigma_data**2).rsqrt(),
    ),
}
