"""The one loss, against each loss of the literature computed directly, in float64."""

import math
from functools import partial

import pytest
import torch

from bowerbird.diffusion.loss import WEIGHTINGS, denoising_loss, mean_over, normalised
from bowerbird.diffusion.prediction import PREDICTIONS
from bowerbird.diffusion.schedule import VPSchedule, linear_betas, log_normal, logit_normal, uniform_t

SIGMA_DATA = 0.5
SIGMA = torch.logspace(-2, 2, 30, dtype=torch.float64)
ALPHA_BAR = 1 / (1 + SIGMA**2)
SNR = ALPHA_BAR / (1 - ALPHA_BAR)

generator = torch.Generator().manual_seed(1)
X0, EPS, OUTPUT = torch.randn(3, 30, 3, 4, 4, generator=generator, dtype=torch.float64)  # OUTPUT: what a poor network says


def column(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]


def square_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output - target).square().mean(dim=(1, 2, 3))


def eps_error() -> torch.Tensor:
    return square_error(OUTPUT, EPS)


def v_error() -> torch.Tensor:
    return square_error(OUTPUT, column(ALPHA_BAR.sqrt()) * EPS - column((1 - ALPHA_BAR).sqrt()) * X0)


def flow_error() -> torch.Tensor:
    return square_error(OUTPUT, EPS - X0)


def edm_error() -> torch.Tensor:
    """EDM, table 1: F is asked for (x0 - c_skip x) / c_out, and lambda c_out^2 = 1 makes its loss plain."""
    x = X0 + column(SIGMA) * EPS
    variance = column(SIGMA**2 + SIGMA_DATA**2)
    return square_error(OUTPUT, (X0 - SIGMA_DATA**2 / variance * x) * variance.sqrt() / (column(SIGMA) * SIGMA_DATA))


DIRECT = {  # (what the network predicts, the weighting) -> the loss as its paper writes it
    ("x0", "x0"): lambda: square_error(OUTPUT, X0),
    ("eps", "eps"): eps_error,
    ("v", "v"): v_error,
    ("flow", "flow"): flow_error,
    ("edm", "edm"): edm_error,
    ("x0", "min-snr"): lambda: SNR.clamp(max=5) * square_error(OUTPUT, X0),
    ("eps", "min-snr"): lambda: SNR.clamp(max=5) / SNR * eps_error(),
    ("v", "min-snr"): lambda: SNR.clamp(max=5) / (SNR + 1) * v_error(),
    ("eps", "sigmoid"): lambda: torch.sigmoid(2 - SNR.log()) * eps_error(),
    ("eps", "v"): lambda: (SNR + 1) / SNR * eps_error(),  # crosswise: the weight and the output are independent choices
    ("v", "eps"): lambda: SNR / (SNR + 1) * v_error(),
}


@pytest.mark.parametrize(("prediction", "weighting"), DIRECT)
def test_every_loss_is_a_weight(prediction, weighting):
    model_x0 = PREDICTIONS[prediction].x0(X0 + column(SIGMA) * EPS, OUTPUT, SIGMA, SIGMA_DATA)
    ours = denoising_loss(model_x0, X0, WEIGHTINGS[weighting](SIGMA, SIGMA_DATA))
    torch.testing.assert_close(ours, DIRECT[prediction, weighting](), rtol=1e-9, atol=0)


def test_no_weighting_is_left_unproven():
    assert {weighting for _, weighting in DIRECT} == set(WEIGHTINGS)


@pytest.mark.parametrize("prediction", ["eps", "v", "flow", "edm"])
def test_a_networks_own_loss_has_the_weight_of_its_output_scale(prediction):
    """x0 errs by output_scale times what the network errs by."""
    own = 1 / PREDICTIONS[prediction].output_scale(SIGMA, SIGMA_DATA) ** 2
    torch.testing.assert_close(WEIGHTINGS[prediction](SIGMA, SIGMA_DATA), own, rtol=1e-12, atol=0)


def test_loss_is_per_picture():
    """Permuting the batch permutes the losses, and a perfect picture costs nothing."""
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    weight = WEIGHTINGS["v"](SIGMA, SIGMA_DATA)
    assert torch.equal(denoising_loss(OUTPUT, X0, weight)[order], denoising_loss(OUTPUT[order], X0[order], weight[order]))
    assert torch.equal(denoising_loss(X0, X0, weight), torch.zeros_like(SIGMA))


# ---------------------------------------------------------------- the mean over noise levels


def test_mean_over_log_normal_levels_has_a_closed_form():
    """E[sigma^k] = exp(k location + k^2 scale^2 / 2).  For k = -2 all of it lies in a tail that equal steps of u would miss."""

    def power(sigma: torch.Tensor, k: int) -> torch.Tensor:
        return sigma**k

    for k in (-2, -1, 0, 1, 2):
        exact = math.exp(k * -1.2 + (k * 1.2) ** 2 / 2)
        assert mean_over(log_normal(-1.2, 1.2), partial(power, k=k)) == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_mean_over_timesteps_is_their_mean(weighting):
    """A step function, which quadrature meets with an error of the order of its own step."""
    schedule = VPSchedule.from_betas(linear_betas())
    weights = WEIGHTINGS[weighting](schedule.sigmas, SIGMA_DATA)
    ours = mean_over(uniform_t(schedule), lambda sigma: WEIGHTINGS[weighting](sigma, SIGMA_DATA))
    assert ours == pytest.approx(float(weights.mean()), rel=1e-3)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_normalised_weights_average_to_one(weighting):
    levels = logit_normal(0.0, 1.0)
    u = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    weights = normalised(WEIGHTINGS[weighting], levels, SIGMA_DATA)(levels(u))
    assert float(weights.mean()) == pytest.approx(1, rel=0.02)  # the sum over u misses a little of the tail
