"""Samplers against exact answers: where the path ends, how fast the error falls, what the noise does."""

import math
from itertools import pairwise

import pytest
import torch

from bowerbird.diffusion.guidance import clip_x0
from bowerbird.diffusion.samplers import SAMPLERS
from bowerbird.diffusion.schedule import VPSchedule, angle_grid, karras_grid, linear_betas, timestep_grid
from tests.oracles import Gaussian, Mixture

GENERATOR = torch.Generator().manual_seed(3)
UNIT = torch.randn(2, 3, 8, 8, generator=GENERATOR, dtype=torch.float64)
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
TWO_MODES = Mixture((0.4, 0.6), (-0.5, 0.5), (0.3, 0.3))  # close: between far modes a few paths near the fork make up the error


def no_noise(like):
    raise AssertionError("a deterministic sampler asked for noise")


def ignore(done, total, x0):
    pass


def fresh_noise(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype)


# ---------------------------------------------------------------- the deterministic samplers follow the exact path


def path_error(name: str, oracle: Gaussian | Mixture, num_steps: int) -> float:
    """Distance from the exact path at the end of a grid that stops above 0, where the path is still curved."""
    sigmas = karras_grid(num_steps, SIGMA_MIN, SIGMA_MAX)[:-1]
    end = SAMPLERS[name](oracle.denoise, SIGMA_MAX * UNIT, sigmas, no_noise, ignore)
    return float((end - oracle.follow(SIGMA_MAX * UNIT, SIGMA_MAX, SIGMA_MIN)).square().mean().sqrt())


@pytest.mark.parametrize("oracle", [Gaussian(), TWO_MODES], ids=["gaussian", "two modes"])
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpm++2m", 2)])
def test_order_of_convergence(name, order, oracle):
    """A method of order p has error ~ steps^-p: twice the steps, 2^p times closer."""
    errors = [path_error(name, oracle, num_steps) for num_steps in (64, 128, 256, 512)]
    factors = [coarse / fine for coarse, fine in pairwise(errors)]
    assert factors == pytest.approx([2**order] * 3, rel=0.08)
    assert factors[-1] == pytest.approx(2**order, rel=0.02)


def test_on_the_angle_grid_every_step_of_euler_leaves_the_path_by_the_same_share():
    """Of the path's own size, for Gaussian data of the grid's spread; the error of a step grows with its square."""
    oracle = Gaussian(mean=0.0)

    def shares(num_steps: int) -> torch.Tensor:
        sigmas, off = angle_grid(num_steps, SIGMA_MIN, SIGMA_MAX, oracle.std), []
        for sigma, sigma_next in pairwise(sigmas.tolist()):
            end = SAMPLERS["euler"](oracle.denoise, UNIT, torch.tensor([sigma, sigma_next]), no_noise, ignore)
            exact = oracle.follow(UNIT, sigma, sigma_next)
            off.append(float(((end - exact) / exact).abs().max()))
        return torch.tensor(off)

    few, many = shares(100), shares(200)
    assert float(many.max() / many.min()) < 1.1 and float(few.mean() / many.mean()) == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("oracle", [Gaussian(), TWO_MODES, Mixture()], ids=["gaussian", "two modes", "mixture"])
@pytest.mark.parametrize(("name", "num_steps"), [("euler", 4), ("euler", 8), ("euler", 12), ("dpm++2m", 8), ("dpm++2m", 12)])
def test_few_steps_end_nearer_on_the_angle_grid(name, num_steps, oracle):
    """Than on Karras', whose last levels lie where the path is straight by then."""
    end = oracle.follow(SIGMA_MAX * UNIT, SIGMA_MAX, 0.0)

    def error(sigmas: torch.Tensor) -> float:
        return float((SAMPLERS[name](oracle.denoise, SIGMA_MAX * UNIT, sigmas, no_noise, ignore) - end).square().mean())

    assert error(angle_grid(num_steps, SIGMA_MIN, SIGMA_MAX, 1.0)) < error(karras_grid(num_steps, SIGMA_MIN, SIGMA_MAX)) / 1.5


@pytest.mark.parametrize("name", ["heun", "dpm++2m"])
def test_second_order_pays_at_the_same_number_of_calls(name):
    """Why they exist: for 64 calls of the network both come nearer than Euler."""
    num_steps = 32 if name == "heun" else 64  # heun calls twice a step
    assert path_error(name, Gaussian(), num_steps) < path_error("euler", Gaussian(), 64) / 2


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_single_picture_is_recovered_exactly(name):
    """When all data are one picture the denoiser is constant; a grid that ends at 0 must land on it to the last bit."""
    picture = UNIT[:1].float()
    for num_steps in (1, 2, 20):
        sigmas = karras_grid(num_steps, SIGMA_MIN, SIGMA_MAX)
        end = SAMPLERS[name](lambda x, sigma: picture, SIGMA_MAX * UNIT[1:].float(), sigmas, fresh_noise(0), ignore)
        assert end.dtype == torch.float32
        assert torch.equal(end, picture)


@pytest.mark.parametrize("clipped", [False, True])
def test_euler_in_sigma_is_ddim(clipped):
    """DDIM (equation 12, no noise) in its own variance-preserving variables, eps taken from the possibly clipped x0."""
    schedule = VPSchedule.from_betas(linear_betas())
    sigmas = timestep_grid(25, schedule, "leading")
    denoise = clip_x0(Mixture().denoise) if clipped else Mixture().denoise
    alpha_bar = 1 / (1 + sigmas**2)
    x_t = UNIT
    for i in range(25):
        x0 = denoise(x_t / alpha_bar[i].sqrt(), sigmas[i].expand(2))
        eps = (x_t - alpha_bar[i].sqrt() * x0) / (1 - alpha_bar[i]).sqrt()
        x_t = alpha_bar[i + 1].sqrt() * x0 + (1 - alpha_bar[i + 1]).sqrt() * eps
    start = UNIT / alpha_bar[0].sqrt()
    for name in ("ddim", "euler"):
        torch.testing.assert_close(SAMPLERS[name](denoise, start, sigmas, no_noise, ignore), x_t, rtol=0, atol=1e-11)


# ---------------------------------------------------------------- the noise of ancestral sampling


def final_variance(oracle: Gaussian, sigmas: torch.Tensor) -> float:
    """The variance of a sample, without sampling.

    Around a mean of 0 the exact denoiser is linear, so the result is a sum of the start and every later draw, each
    times a coefficient.  Give each draw a pixel of its own: the picture that comes out is the list of coefficients.
    """
    num_steps = len(sigmas) - 1
    draws = iter(torch.eye(num_steps + 1, dtype=torch.float64).reshape(-1, 1, 1, 1, num_steps + 1))
    start = float(oracle.std**2 + sigmas[0] ** 2) ** 0.5
    end = SAMPLERS["ddpm"](oracle.denoise, start * next(draws), sigmas, lambda like: next(draws), ignore)
    return float(end.square().sum())


def log_snr_grid(num_steps, sigma_min):
    """Equal ratios, so that halving their logarithm halves the error of every step."""
    return torch.cat([torch.logspace(math.log10(SIGMA_MAX), math.log10(sigma_min), num_steps, dtype=torch.float64), torch.zeros(1)])


@pytest.mark.parametrize("num_steps", [1, 3, 30])
def test_ancestral_noise_keeps_the_marginal_variance(num_steps):
    """With the truth as estimate, what is left of the old noise and what is added make sigma_next^2 exactly."""
    sigmas = log_snr_grid(num_steps + 1, 0.1)[:-1]
    assert final_variance(Gaussian(0.0, 0.0), sigmas) == pytest.approx(0.1**2, rel=1e-12)


def test_ancestral_sampling_reaches_the_data():
    """With a spread of truths one step loses their variance given x, and ever shorter steps lose ever less of it: order 1."""
    errors = [0.5**2 - final_variance(Gaussian(0.0, 0.5), log_snr_grid(num_steps, 1e-3)) for num_steps in (200, 400, 800)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.05)
    assert errors[2] < 0.01


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_are_distributed_as_the_data(name):
    """20,000 pixels painted from noise against the mixture they should come from (Kolmogorov-Smirnov distance)."""
    noise = fresh_noise(4)
    x = SIGMA_MAX * noise(torch.empty(1, 1, 100, 200, dtype=torch.float64))
    pixels = SAMPLERS[name](Mixture().denoise, x, karras_grid(100, SIGMA_MIN, SIGMA_MAX), noise, ignore).flatten().sort().values
    expected = (torch.arange(20_000) + 0.5) / 20_000
    assert float((Mixture().cdf(pixels, 0.0) - expected).abs().max()) < 0.02  # chance alone gives 0.0096 (95 %)


# ---------------------------------------------------------------- the shared signature


@pytest.mark.parametrize(("name", "calls"), [("ddpm", 10), ("ddim", 10), ("euler", 10), ("heun", 19), ("dpm++2m", 10)])
def test_calls_and_steps_are_counted(name, calls):
    """One call a step, heun two except the last; on_step sees every step once, in order, with its x0."""
    levels, events = [], []

    def denoise(x, sigma):
        assert sigma.shape == (2,)
        assert sigma.dtype == x.dtype == torch.float32
        levels.append(float(sigma[0]))
        return Gaussian().denoise(x, sigma)

    sigmas = karras_grid(10, SIGMA_MIN, SIGMA_MAX)
    end = SAMPLERS[name](denoise, SIGMA_MAX * UNIT.float(), sigmas, fresh_noise(0), lambda *event: events.append(event))
    assert len(levels) == calls
    assert min(levels) == pytest.approx(SIGMA_MIN)
    assert [event[:2] for event in events] == [(done, 10) for done in range(1, 11)]
    start = SIGMA_MAX * UNIT.float()
    assert torch.equal(events[0][2], Gaussian().denoise(start, torch.full((2,), SIGMA_MAX)))  # an estimate from the first step on
    assert torch.equal(events[-1][2], end)  # and the last one is the picture


@pytest.mark.parametrize("name", SAMPLERS)
def test_on_step_can_cancel(name):
    class Stop(Exception):  # noqa: N818
        pass

    def stop_at_third(done, total, x0):
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        SAMPLERS[name](Gaussian().denoise, SIGMA_MAX * UNIT, karras_grid(10, SIGMA_MIN, SIGMA_MAX), fresh_noise(0), stop_at_third)


@pytest.mark.parametrize("name", SAMPLERS)
def test_float32_is_enough(name):
    """Even from sigma = 1000 a step's rounding error shrinks with the noise it belongs to; pictures have 256 levels."""
    sigmas = karras_grid(30, SIGMA_MIN, 1000.0)
    single = torch.stack([UNIT[0].float(), UNIT[1].float()])
    noise_draws = torch.randn(30, 2, 3, 8, 8, generator=torch.Generator().manual_seed(5))

    def paint(x):
        draws = iter(noise_draws)
        return SAMPLERS[name](Gaussian().denoise, 1000 * x, sigmas, lambda like: next(draws).to(like), ignore)

    torch.testing.assert_close(paint(single).double(), paint(single.double()), rtol=0, atol=1e-4)


def test_the_input_is_left_alone():
    """Starting noise is reused (progress grids, the same seed again): no sampler may write into it."""
    for sampler in SAMPLERS.values():
        x = SIGMA_MAX * UNIT
        sampler(Gaussian().denoise, x, karras_grid(5, SIGMA_MIN, SIGMA_MAX), fresh_noise(0), ignore)
        assert torch.equal(x, SIGMA_MAX * UNIT)
