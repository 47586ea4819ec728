"""Noise levels: the tables, the clocks, the grids, and the levels training draws."""

import math

import pytest
import torch

from bowerbird.diffusion.schedule import (
    SIGMA_CAP,
    VPSchedule,
    angle_grid,
    cosine_betas,
    flow_sigma_from_t,
    flow_t_from_sigma,
    karras_grid,
    linear_betas,
    log_normal,
    logit_normal,
    scaled_linear_betas,
    timestep_grid,
    timesteps,
    uniform_t,
)
from bowerbird.errors import ModelError, RequestError

SCHEDULES = {
    "linear": VPSchedule.from_betas(linear_betas()),
    "scaled-linear": VPSchedule.from_betas(scaled_linear_betas()),
    "cosine": VPSchedule.from_betas(cosine_betas()),
}


@pytest.fixture(params=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> VPSchedule:
    return SCHEDULES[request.param]


def assert_is_grid(sigmas: torch.Tensor, num_steps: int) -> None:
    assert sigmas.shape == (num_steps + 1,)
    assert sigmas.dtype == torch.float64
    assert (sigmas.diff() < 0).all()
    assert sigmas[-1] == 0


# ---------------------------------------------------------------- the variance-preserving clock


def test_alpha_bar_falls_and_sigma_is_the_inverse_root_of_snr(schedule):
    """Signal can only be lost on the way to noise; snr = alpha_bar / (1 - alpha_bar) is signal over noise power."""
    assert (schedule.alpha_bar.diff() < 0).all()
    snr = schedule.alpha_bar / (1 - schedule.alpha_bar)
    torch.testing.assert_close(snr * schedule.sigmas**2, torch.ones(1000, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "sigma_end"), [("linear", 157.4), ("scaled-linear", 14.61), ("cosine", 20_291)])
def test_end_points(name, sigma_end):
    """The published schedules end at these noise levels; sampling never starts above the cap."""
    schedule = SCHEDULES[name]
    assert float(schedule.sigmas[-1]) == pytest.approx(sigma_end, rel=5e-4)
    assert schedule.sigma_max == pytest.approx(min(sigma_end, SIGMA_CAP), rel=5e-4)
    assert schedule.sigma_min == float(schedule.sigmas[0])


def test_timestep_and_sigma_are_inverse(schedule):
    """Both read one rising curve, so each undoes the other, at fractional timesteps too."""
    t = torch.linspace(0, 999, 4321, dtype=torch.float64)
    torch.testing.assert_close(schedule.t_from_sigma(schedule.sigma_from_t(t)), t, rtol=0, atol=1e-9)
    torch.testing.assert_close(schedule.t_from_sigma(schedule.sigmas), torch.arange(1000).double(), rtol=0, atol=1e-9)


def test_between_timesteps_log_sigma_is_linear(schedule):
    halfway = schedule.sigma_from_t(torch.tensor([499.5], dtype=torch.float64))
    assert float(halfway) == pytest.approx(float((schedule.sigmas[499] * schedule.sigmas[500]).sqrt()), rel=1e-12)


def test_noise_beyond_the_table_is_its_end(schedule):
    """A network knows no timestep outside those it was trained on; sigma 0 must not become log(0)."""
    sigma = torch.tensor([0.0, 1e-9, 1e9], dtype=torch.float64)
    assert schedule.t_from_sigma(sigma).tolist() == [0, 0, 999]


def test_in_float32_the_timestep_is_whole_to_a_thousandth(schedule):
    """Networks are called in float32; log(sigma) then carries an error of 1e-7, far below the spacing of the timesteps."""
    t = schedule.t_from_sigma(schedule.sigmas.float())
    assert t.dtype == torch.float32
    torch.testing.assert_close(t, torch.arange(1000).float(), rtol=0, atol=1e-3)


def test_zero_terminal_snr_has_a_finite_end():
    """Schedules rescaled to end in pure noise have alpha_bar = 0 there, sigma = infinity; we must stay finite and in order."""
    alpha_bar = SCHEDULES["linear"].alpha_bar.clone()
    alpha_bar[-1] = 0
    schedule = VPSchedule(alpha_bar)
    assert schedule.sigmas.isfinite().all()
    assert (schedule.sigmas.diff() > 0).all()
    assert schedule.sigma_max == SIGMA_CAP
    assert 998 < float(schedule.t_from_sigma(torch.tensor(SIGMA_CAP))) < 999


@pytest.mark.parametrize("alpha_bar", [[0.5, 0.6], [0.9, 0.9], [1.0, 0.5], [0.5, -0.1], [0.5, math.nan]])
def test_a_schedule_that_does_not_fall_is_refused(alpha_bar):
    with pytest.raises(ModelError, match="check the betas"):
        VPSchedule(torch.tensor(alpha_bar, dtype=torch.float64))


# ---------------------------------------------------------------- the flow clock


def test_flow_time_and_sigma_are_inverse():
    t = torch.linspace(0, 0.999, 1000, dtype=torch.float64)
    torch.testing.assert_close(flow_t_from_sigma(flow_sigma_from_t(t)), t, rtol=1e-12, atol=0)
    assert float(flow_sigma_from_t(t[-1])) == pytest.approx(999)


# ---------------------------------------------------------------- grids


@pytest.mark.parametrize("num_steps", [1, 2, 20, 1000])
def test_the_karras_grid_falls_strictly_from_sigma_max_to_zero(num_steps):
    sigmas = karras_grid(num_steps, 0.002, 80.0)
    assert_is_grid(sigmas, num_steps)
    assert float(sigmas[0]) == pytest.approx(80.0, rel=1e-9)
    assert num_steps == 1 or float(sigmas[-2]) >= 0.002 * (1 - 1e-9)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 20, 999, 1000])
def test_timestep_grids_fall_strictly_to_zero(schedule, num_steps, spacing):
    assert_is_grid(timestep_grid(num_steps, schedule, spacing), num_steps)


def test_the_karras_grid_is_uniform_in_the_root_of_sigma():
    """Second differences of sigma^(1/7) vanish."""
    root = karras_grid(20, 0.002, 80.0)[:-1] ** (1 / 7)
    assert float(root.diff().diff().abs().max() / root.diff().abs().max()) < 1e-12


@pytest.mark.parametrize("num_steps", [1, 2, 4, 12, 50, 1000])
def test_the_angle_grid_falls_strictly_and_stays_where_the_network_was_asked(num_steps):
    sigmas = angle_grid(num_steps, 0.05, 20.0, 2.0)
    assert_is_grid(sigmas, num_steps)
    assert float(sigmas[0]) == 20.0
    assert num_steps == 1 or float(sigmas[-2]) >= 0.05 * (1 - 1e-9)


def test_the_angle_grid_is_even_in_the_angle():
    """To the end, while its last level lies above sigma_min."""
    angles = (angle_grid(12, 0.05, 20.0, 2.0) / 2.0).arctan()
    assert float(angles.diff().diff().abs().max()) < 1e-12


def test_more_steps_than_timesteps_are_refused():
    """Some timestep would be taken twice: a step of no length."""
    with pytest.raises(RequestError, match="1000 or fewer"):
        timesteps(1001, 1000, "leading")
    with pytest.raises(ModelError, match="trailing"):
        timesteps(10, 1000, "trailling")


# ---------------------------------------------------------------- noise levels

U = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000


def test_uniform_t_draws_every_timestep_alike(schedule):
    drawn, counts = uniform_t(schedule)(U).unique(return_counts=True)
    torch.testing.assert_close(drawn, schedule.sigmas)
    assert (counts == 100).all()


def test_uniform_t_survives_a_draw_of_one():
    """Random numbers below 1 in float64 may be 1 in float32."""
    schedule = SCHEDULES["linear"]
    assert float(uniform_t(schedule)(torch.ones(1))) == pytest.approx(schedule.sigma_max)


def test_log_normal_has_its_mean_and_width():
    log_sigma = log_normal(-1.2, 1.2)(U).log()
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=1e-6)
    assert float(log_sigma.std()) == pytest.approx(1.2, rel=1e-3)
    assert (log_sigma.diff() > 0).all()  # a quantile function rises


def test_logit_normal_is_the_published_draw():
    """t = sigmoid(normal), then shift t / (1 + (shift - 1) t), then sigma = t / (1 - t)."""
    t = torch.sigmoid(0.4 + 0.9 * torch.special.ndtri(U))
    t = 3 * t / (1 + 2 * t)
    torch.testing.assert_close(logit_normal(0.4, 0.9, shift=3.0)(U), flow_sigma_from_t(t), rtol=1e-9, atol=0)
