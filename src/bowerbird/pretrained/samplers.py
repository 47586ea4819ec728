"""Our names of samplers, and diffusers' schedulers behind them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bowerbird.errors import RequestError, did_you_mean
from bowerbird.pretrained.configs import first_line

# name: (class, settings that make it what its name says).  Everything else, such as betas, is the model's own.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True}),
    "lcm": ("LCMScheduler", {}),
}


def scheduler_for(sampler: str, config: Mapping[str, Any]) -> Any:
    """A fresh scheduler of the named kind on the model's own noise schedule.  RequestError names the nearest known sampler."""
    if sampler not in SAMPLERS:
        raise RequestError(f"there is no sampler {sampler!r}.{did_you_mean(sampler, SAMPLERS)}")
    import diffusers

    class_name, settings = SAMPLERS[sampler]
    return getattr(diffusers, class_name).from_config({**config, **settings})


def check_steps(steps: int, sampler: str, config: Mapping[str, Any]) -> None:
    """RequestError unless the sampler can take so many steps on the model's noise schedule."""
    scheduler = scheduler_for(sampler, config)
    most = int(scheduler.config.num_train_timesteps)
    if steps <= most:
        try:
            scheduler.set_timesteps(steps)
        except ValueError as error:
            raise RequestError(f"{sampler} cannot take {steps} steps with this model ({first_line(error)}). Ask for fewer.") from error
    else:
        raise RequestError(f"{steps} steps on a schedule of {most} timesteps; ask for {most} or fewer.")


def own_sampler(config: Mapping[str, Any]) -> str | None:
    """The sampler a few-step model was distilled for, which no other can replace; None for every other model."""
    if config["_class_name"] == "LCMScheduler":
        return "lcm"
    if config["_class_name"] == "EulerAncestralDiscreteScheduler" and config.get("timestep_spacing") == "trailing":
        return "euler-ancestral"
    return None


OnStep = Callable[[int, int, Tensor | None], None]


def watch(scheduler: Any, on_step: OnStep) -> None:
    """Call on_step(done, total, x0) after each of this scheduler's steps; raising in it ends the painting.

    x0 is the newest estimate of the clean latents.  The pipelines' callbacks give only the noisy ones, and the upscaler's
    has another form, so the scheduler of this one painting is listened to instead.
    """
    step, done, total = scheduler.step, 0, 0

    @functools.wraps(step)  # the pipelines look at its signature to see whether it takes a generator
    def watched(output: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal done, total
        result = step(output, timestep, *args, **kwargs)
        if done == 0:  # image to image enters the schedule late
            total = len(scheduler.timesteps) - int(torch.nonzero(scheduler.timesteps == timestep)[0])
        done += 1
        history = getattr(scheduler, "model_outputs", None)  # DPM-Solver++ keeps its estimates of x0
        on_step(done, total, history[-1] if history else result[1] if len(result) > 1 else None)
        return result

    scheduler.step = watched
