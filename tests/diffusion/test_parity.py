"""Our samplers against diffusers' schedulers, in float64: same network, same noise levels, same noise, same picture.

The network is exact (a mixture's denoiser behind each output convention), takes what diffusers' networks take, a scaled
picture and a timestep, and serves both sides.  diffusers rounds its tables and its state to float32 in places; here
those places are made float64, so that what remains is the arithmetic, and agreement must be to rounding.
"""

import importlib
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from bowerbird.diffusion.guidance import Clip, clip_x0, dynamic_threshold, within
from bowerbird.diffusion.prediction import PREDICTIONS, expand
from bowerbird.diffusion.samplers import SAMPLERS, ddim_with_clip, ddpm_fixed_large
from bowerbird.diffusion.schedule import (
    VPSchedule,
    cosine_betas,
    flow_sigma_from_t,
    flow_t_from_sigma,
    karras_grid,
    linear_betas,
    scaled_linear_betas,
    timestep_grid,
    timesteps,
)
from tests.oracles import Mixture

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs: numpy 2 and torch

MODULES = ["ddpm", "ddim", "euler_discrete", "heun_discrete", "dpmsolver_multistep", "flow_match_euler_discrete"]
BETAS = {"linear": linear_betas, "scaled-linear": scaled_linear_betas, "cosine": cosine_betas}
DIFFUSERS_BETAS: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled-linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
DIFFUSERS_PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
UNIT = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
STEPS = 20
SIGMA_DATA = 1.0  # with which "x0" sees what diffusers' "sample" networks see


class InFloat64:
    """torch or numpy as seen by a scheduler's module, with float64 where it says float32."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return getattr(self.module, "float64" if name == "float32" else name)


@pytest.fixture(autouse=True)
def schedulers_in_float64(monkeypatch):
    for name in MODULES:
        module = importlib.import_module(f"diffusers.schedulers.scheduling_{name}")
        for library in (torch, np):
            alias = "np" if library is np else "torch"
            if hasattr(module, alias):
                monkeypatch.setattr(module, alias, InFloat64(library))


class ExactNetwork:
    """network(scaled picture, timestep) -> output under a convention: what a perfectly trained network would say."""

    def __init__(self, schedule: VPSchedule, prediction: str):
        self.schedule, self.prediction = schedule, PREDICTIONS[prediction]

    def __call__(self, scaled, t):
        sigma = self.schedule.sigma_from_t(torch.zeros(len(scaled), dtype=torch.float64) + t)
        x = scaled / expand(self.prediction.input_scale(sigma, SIGMA_DATA), scaled)
        x0 = Mixture().denoise(x, sigma)
        return self.prediction.target(x0, (x - x0) / expand(sigma, x), sigma, SIGMA_DATA)

    def denoise(self, x, sigma):
        """The same network behind our contract, wrapped as models/ wraps one."""
        scaled = expand(self.prediction.input_scale(sigma, SIGMA_DATA), x) * x
        return self.prediction.x0(x, self(scaled, self.schedule.t_from_sigma(sigma)), sigma, SIGMA_DATA)


def theirs(scheduler, network, x, **step_options):
    """The loop of every diffusers pipeline."""
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        assert scaled.dtype == torch.float64
        x = scheduler.step(network(scaled, t), t, x, **step_options).prev_sample
    return x


def ours(name, denoise, x, sigmas, noise=None):
    return SAMPLERS[name](denoise, x, sigmas, noise, lambda done, total, x0: None)


def assert_same_picture(a, b, atol=1e-11):
    """To rounding: on pixels of size 1 and after up to 1000 steps 3e-12 is the most seen."""
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def drawing(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype)


@pytest.fixture(params=["linear", "scaled-linear", "cosine"])
def betas(request):
    return request.param


@pytest.fixture
def schedule(betas):
    return VPSchedule.from_betas(BETAS[betas]())


@pytest.fixture(params=DIFFUSERS_PREDICTIONS)
def prediction(request):
    return request.param


# ---------------------------------------------------------------- tables


def test_schedules_agree(betas, schedule):
    scheduler = diffusers.DDPMScheduler(**DIFFUSERS_BETAS[betas])
    torch.testing.assert_close(schedule.alpha_bar, scheduler.alphas_cumprod, rtol=1e-9, atol=0)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_timesteps_agree_for_every_number_of_steps(spacing):
    """Everywhere, but for exact halves (36.5), which the rounding error of their float range tips either way."""
    scheduler = diffusers.DDPMScheduler(timestep_spacing=spacing, steps_offset=1 if spacing == "leading" else 0)
    stride = {"leading": lambda n: 1000 // n, "trailing": lambda n: Fraction(1000, n), "linspace": lambda n: Fraction(999, max(n - 1, 1))}
    for num_steps in range(1, 1001):
        scheduler.set_timesteps(num_steps)
        ours = timesteps(num_steps, 1000, spacing, offset=scheduler.config.steps_offset).tolist()
        theirs = scheduler.timesteps.tolist()  # "trailing" with 61 steps has 62, the last one -1: the same rounding error
        assert len(ours) == num_steps
        different = [i for i in range(num_steps) if ours[i] != theirs[i]]
        position = num_steps - 1 if spacing == "linspace" else 0
        assert all((stride[spacing](num_steps) * abs(position - i)) % 1 == Fraction(1, 2) for i in different), num_steps


def test_fractional_timesteps_agree(betas, schedule):
    """Between timesteps both interpolate in log sigma."""
    scheduler = diffusers.EulerDiscreteScheduler(**DIFFUSERS_BETAS[betas])
    sigmas = karras_grid(50, schedule.sigma_min, schedule.sigma_max)[:-1]
    t = scheduler._sigma_to_t(sigmas.numpy(), schedule.sigmas.log().numpy())
    torch.testing.assert_close(schedule.t_from_sigma(sigmas), torch.from_numpy(t), rtol=0, atol=1e-8)


def test_karras_grids_agree(betas, schedule):
    scheduler = diffusers.EulerDiscreteScheduler(**DIFFUSERS_BETAS[betas], use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    torch.testing.assert_close(karras_grid(STEPS, schedule.sigma_min, float(schedule.sigmas[-1])), scheduler.sigmas, rtol=1e-9, atol=0)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("clip", [False, True], ids=["free", "clipped"])
def test_ddpm(betas, schedule, prediction, clip):
    # every one of its 1000 steps where the literature's models live, elsewhere a few: the arithmetic is the same
    num_steps = 1000 if (betas, prediction) == ("linear", "eps") else STEPS
    scheduler = diffusers.DDPMScheduler(
        **DIFFUSERS_BETAS[betas], prediction_type=DIFFUSERS_PREDICTIONS[prediction], variance_type="fixed_small", clip_sample=clip
    )
    scheduler.set_timesteps(num_steps)
    network = ExactNetwork(schedule, prediction)
    expected = theirs(scheduler, network, UNIT, generator=torch.Generator().manual_seed(8))

    sigmas = timestep_grid(num_steps, schedule, "leading")
    denoise = clip_x0(network.denoise) if clip else network.denoise
    start = UNIT * (1 + sigmas[0] ** 2).sqrt()  # diffusers' x_t is ours times sqrt(alpha_bar)
    assert_same_picture(ours("ddpm", denoise, start, sigmas, drawing(8)), expected)


@pytest.mark.parametrize("clip", [False, True], ids=["free", "clipped"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim(betas, schedule, prediction, spacing, clip):
    scheduler = diffusers.DDIMScheduler(
        **DIFFUSERS_BETAS[betas], prediction_type=DIFFUSERS_PREDICTIONS[prediction], clip_sample=clip, timestep_spacing=spacing
    )
    scheduler.set_timesteps(STEPS)
    network = ExactNetwork(schedule, prediction)
    # otherwise its eps stays the network's while x0 is clipped, and the two no longer add up to x_t
    expected = theirs(scheduler, network, UNIT, use_clipped_model_output=True)

    sigmas = timestep_grid(STEPS, schedule, spacing)
    denoise = clip_x0(network.denoise) if clip else network.denoise
    assert_same_picture(ours("ddim", denoise, UNIT * (1 + sigmas[0] ** 2).sqrt(), sigmas), expected)


CLIPS: dict[str, tuple[dict[str, Any], Clip]] = {
    "range": ({"clip_sample": True, "clip_sample_range": 0.6}, within(0.6)),
    "thresholding": (
        {"thresholding": True, "clip_sample": False, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.5},
        dynamic_threshold(0.8, 1.5),
    ),
}


@pytest.mark.parametrize("how", CLIPS)
@pytest.mark.parametrize("num_train_steps", [1000, 4000])
def test_ddim_clips_the_estimate_and_keeps_its_noise(prediction, how, num_train_steps):
    """diffusers' usual DDIM, whose x0 and eps no longer add up to x_t, on schedules of any length; and the end it has for PNDM's sake."""
    settings, clip = CLIPS[how]
    scheduler = diffusers.DDIMScheduler(
        **DIFFUSERS_BETAS["linear"], prediction_type=DIFFUSERS_PREDICTIONS[prediction], num_train_timesteps=num_train_steps,
        set_alpha_to_one=False, steps_offset=1, **settings,
    )  # fmt: skip
    scheduler.set_timesteps(STEPS)
    schedule = VPSchedule.from_betas(linear_betas(num_train_steps))
    network = ExactNetwork(schedule, prediction)
    sigmas = timestep_grid(STEPS, schedule, "leading", offset=1, ends_at_zero=False)
    start = UNIT * (1 + sigmas[0] ** 2).sqrt()
    painted = ddim_with_clip(clip)(network.denoise, start, sigmas, drawing(0), lambda done, total, x0: None)
    atol = 1e-11 if num_train_steps == 1000 else 2e-6  # 4000 end at sigma 5e8, which our tables hold to a million
    assert_same_picture(painted / (1 + sigmas[-1] ** 2).sqrt(), theirs(scheduler, network, UNIT), atol)


@pytest.mark.parametrize("how", CLIPS)
@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_ddpm_with_the_larger_variance(prediction, how, spacing):
    """On "trailing" as well but for the last step, at which diffusers leaves noise of variance beta in the finished picture."""
    settings, clip = CLIPS[how]
    scheduler = diffusers.DDPMScheduler(
        **DIFFUSERS_BETAS["linear"], prediction_type=DIFFUSERS_PREDICTIONS[prediction], variance_type="fixed_large",
        timestep_spacing=spacing, **settings,
    )  # fmt: skip
    scheduler.set_timesteps(STEPS)
    schedule = VPSchedule.from_betas(linear_betas())
    network = ExactNetwork(schedule, prediction)
    expected = theirs(scheduler, network, UNIT, generator=torch.Generator().manual_seed(8))
    sigmas = timestep_grid(STEPS, schedule, spacing)
    start = UNIT * (1 + sigmas[0] ** 2).sqrt()
    painted = ddpm_fixed_large(clip_x0(network.denoise, clip), start, sigmas, drawing(8), lambda done, total, x0: None)
    assert_same_picture(painted, expected)


@pytest.mark.parametrize(("name", "scheduler_class"), [("euler", "EulerDiscreteScheduler"), ("heun", "HeunDiscreteScheduler")])
def test_euler_and_heun(betas, schedule, prediction, name, scheduler_class):
    """These two keep x itself, as we do."""
    scheduler = getattr(diffusers, scheduler_class)(
        **DIFFUSERS_BETAS[betas], prediction_type=DIFFUSERS_PREDICTIONS[prediction], timestep_spacing="trailing"
    )
    scheduler.set_timesteps(STEPS)
    network = ExactNetwork(schedule, prediction)
    sigmas = timestep_grid(STEPS, schedule, "trailing")
    start = UNIT * sigmas[0]
    # Heun's first slope on the cosine schedule divides numbers of 20,000 by 641: 3e-10 seen
    atol = 1e-9 if (name, betas) == ("heun", "cosine") else 1e-11
    assert_same_picture(ours(name, network.denoise, start, sigmas), theirs(scheduler, network, start), atol)


@pytest.mark.parametrize("num_steps", [5, STEPS])
def test_dpm_plus_plus_2m(betas, schedule, prediction, num_steps):
    """5 and 20: below 15 steps diffusers may lower the order of the last ones; at a grid that ends in 0 it is the last alone."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **DIFFUSERS_BETAS[betas], prediction_type=DIFFUSERS_PREDICTIONS[prediction], timestep_spacing="trailing"
    )
    assert (scheduler.config.algorithm_type, scheduler.config.solver_order, scheduler.config.solver_type) == ("dpmsolver++", 2, "midpoint")
    scheduler.set_timesteps(num_steps)
    network = ExactNetwork(schedule, prediction)
    sigmas = timestep_grid(num_steps, schedule, "trailing")
    start = UNIT * (1 + sigmas[0] ** 2).sqrt()
    assert_same_picture(ours("dpm++2m", network.denoise, start, sigmas), theirs(scheduler, network, UNIT))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler(shift):
    """Euler in flow time, dz = velocity dt, is Euler in sigma: both lines from x to x0 are the same line."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    even = torch.linspace(0.999, 0.999 / STEPS, STEPS, dtype=torch.float64)
    t = torch.cat([shift * even / (1 + (shift - 1) * even), torch.zeros(1)])  # arXiv:2403.03206, section 5.3
    sigmas = flow_sigma_from_t(t)
    scheduler.set_timesteps(sigmas=t[:-1].tolist())
    torch.testing.assert_close(scheduler.sigmas, t, rtol=1e-12, atol=0)

    flow = PREDICTIONS["flow"]

    def network(z, timestep):
        sigma = flow_sigma_from_t(torch.zeros(len(z), dtype=torch.float64) + timestep / 1000)
        x = z / expand(flow.input_scale(sigma, SIGMA_DATA), z)
        x0 = Mixture().denoise(x, sigma)
        return flow.target(x0, (x - x0) / expand(sigma, x), sigma, SIGMA_DATA)

    def denoise(x, sigma):
        return flow.x0(x, network(expand(flow.input_scale(sigma, SIGMA_DATA), x) * x, 1000 * flow_t_from_sigma(sigma)), sigma, SIGMA_DATA)

    z = UNIT
    for timestep in scheduler.timesteps:
        z = scheduler.step(network(z, timestep), timestep, z).prev_sample
    assert_same_picture(ours("euler", denoise, flow.start(UNIT, float(sigmas[0]), SIGMA_DATA), sigmas), z)
