"""What a network's output means, against the definitions of the literature written out."""

import pytest
import torch

from bowerbird.diffusion.prediction import PREDICTIONS, add_noise

SIGMA = torch.logspace(-3, 3, 25, dtype=torch.float64)
GENERATOR = torch.Generator().manual_seed(0)
X0 = torch.randn(25, 3, 4, 4, generator=GENERATOR, dtype=torch.float64)
EPS = torch.randn(25, 3, 4, 4, generator=GENERATOR, dtype=torch.float64)
X = X0 + SIGMA[:, None, None, None] * EPS
SIGMA_DATA = 0.5


def direct_form(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(what the network sees, what it should answer), in the variables of the papers."""
    sigma = SIGMA[:, None, None, None]
    alpha_bar, t = 1 / (1 + sigma**2), sigma / (1 + sigma)
    x_t = alpha_bar.sqrt() * X0 + (1 - alpha_bar).sqrt() * EPS
    if name == "eps":
        return x_t, EPS
    if name == "v":
        return x_t, alpha_bar.sqrt() * EPS - (1 - alpha_bar).sqrt() * X0
    if name == "flow":
        return (1 - t) * X0 + t * EPS, EPS - X0
    variance = sigma**2 + SIGMA_DATA**2
    if name == "edm":
        return X / variance.sqrt(), (X0 - SIGMA_DATA**2 / variance * X) / (sigma * SIGMA_DATA / variance.sqrt())
    return X / variance.sqrt(), X0


@pytest.mark.parametrize("name", PREDICTIONS)
def test_input_and_target_are_those_of_the_literature(name):
    seen, answer = direct_form(name)
    prediction = PREDICTIONS[name]
    torch.testing.assert_close(prediction.input_scale(SIGMA, SIGMA_DATA)[:, None, None, None] * X, seen, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(prediction.target(X0, EPS, SIGMA, SIGMA_DATA), answer, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_x0_undoes_target(name):
    """A perfect network must give back the clean picture at every noise level."""
    prediction = PREDICTIONS[name]
    output = prediction.target(X0, EPS, SIGMA, SIGMA_DATA)
    torch.testing.assert_close(prediction.x0(add_noise(X0, EPS, SIGMA), output, SIGMA, SIGMA_DATA), X0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["v", "edm"])
def test_input_and_target_have_unit_variance(name):
    """The point of these two: with data of width sigma_data the network sees and answers numbers of size 1 at every sigma.

    Exact, without sampling: x0 = sigma_data and eps = 0, or the reverse, give the two coefficients; their squares add up.
    """
    sigma_data = 1.0 if name == "v" else SIGMA_DATA
    one, zero = torch.ones(25, 1, dtype=torch.float64), torch.zeros(25, 1, dtype=torch.float64)
    prediction = PREDICTIONS[name]
    from_x0 = prediction.target(sigma_data * one, zero, SIGMA, sigma_data)
    from_eps = prediction.target(zero, one, SIGMA, sigma_data)
    torch.testing.assert_close(from_x0**2 + from_eps**2, one, rtol=1e-9, atol=0)
    seen = prediction.input_scale(SIGMA, sigma_data) ** 2 * (sigma_data**2 + SIGMA**2)
    torch.testing.assert_close(seen, torch.ones_like(SIGMA), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["eps", "v", "flow", "edm"])
def test_without_noise_the_model_is_the_identity(name):
    """Whatever the network says: there is nothing to remove."""
    garbage = 100 * torch.ones_like(X0)
    sigma = torch.full((25,), 1e-8, dtype=torch.float64)
    torch.testing.assert_close(PREDICTIONS[name].x0(X0, garbage, sigma, SIGMA_DATA), X0, rtol=0, atol=1e-5)


def test_edm_is_v_mirrored_when_the_data_have_unit_width():
    v, edm = PREDICTIONS["v"], PREDICTIONS["edm"]
    torch.testing.assert_close(edm.target(X0, EPS, SIGMA, 1.0), -v.target(X0, EPS, SIGMA, 1.0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "scale"), [("eps", (1 + 80**2) ** 0.5), ("v", (1 + 80**2) ** 0.5), ("flow", 81.0)])
def test_sampling_starts_from_the_noise_of_the_models_own_variables(name, scale):
    torch.testing.assert_close(PREDICTIONS[name].start(EPS, 80.0, SIGMA_DATA), scale * EPS, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_target_keeps_its_digits_in_float32(name):
    """x0 and x agree to six digits at sigma = 1e-3; a target computed from their difference would be wrong by a percent."""
    exact = PREDICTIONS[name].target(X0, EPS, SIGMA, SIGMA_DATA)
    single = PREDICTIONS[name].target(X0.float(), EPS.float(), SIGMA.float(), SIGMA_DATA)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-4)
