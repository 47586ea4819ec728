"""The one contract of our models: `model(x, sigma, cond) -> x0`, with x = x0 + sigma * eps.

Networks differ in what they predict, on which schedule, and how they are told the noise level.  A `Denoiser` wraps one
such network once, at loading; samplers, losses and guidance see the contract alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from bowerbird.diffusion.guidance import Clip, dynamic_threshold, within
from bowerbird.diffusion.prediction import PREDICTIONS, expand
from bowerbird.diffusion.schedule import VPSchedule, cosine_betas, linear_betas, scaled_linear_betas
from bowerbird.models.conditioning import Cond

Side = Annotated[int, Field(ge=1, le=8_192)]


class Betas(BaseModel):
    """A variance-preserving noise schedule of `num_steps` integer timesteps (DDPM, arXiv:2006.11239)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["linear", "scaled-linear", "cosine"] = "linear"
    num_steps: int = Field(1000, ge=1, le=10_000)
    start: float = Field(1e-4, gt=0, lt=1)
    end: float = Field(0.02, gt=0, lt=1)

    def schedule(self) -> VPSchedule:
        if self.kind == "cosine":  # has no start and end
            return VPSchedule.from_betas(cosine_betas(self.num_steps))
        betas = linear_betas if self.kind == "linear" else scaled_linear_betas
        return VPSchedule.from_betas(betas(self.num_steps, self.start, self.end))


class Steps(BaseModel):
    """How the scheduler that a DDPM was published with steps and clips, in diffusers' words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing: Literal["leading", "trailing", "linspace"] = "leading"
    offset: int = 0
    ends_at_zero: bool = True  # else at its first timestep's noise (DDIM without set_alpha_to_one)
    variance: Literal["fixed-small", "fixed-large"] = "fixed-small"
    clip_limit: float = 1.0
    threshold: tuple[float, float] | None = None  # dynamic thresholding instead: the share of pixels below it, and its most

    @property
    def clip(self) -> Clip:
        return within(self.clip_limit) if self.threshold is None else dynamic_threshold(*self.threshold)


class DenoiserSpec(BaseModel):
    """What is needed, beside the network, to call it: recorded in every model folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prediction: Literal["eps", "v", "x0", "flow", "edm"]
    time: Literal["timestep", "log-sigma", "flow-t"]  # the form in which the network is told the noise level
    betas: Betas | None = None  # of those who predict eps or v
    sigma_min: float = Field(gt=0, lt=1e6)
    sigma_max: float = Field(gt=0, lt=1e6)
    sigma_data: float = Field(gt=0, lt=1e3)  # standard deviation of the pictures: 0.5 for pixels, 1 for normalised latents
    sample_shape: tuple[Annotated[int, Field(ge=1, le=512)], Side, Side]  # (C, H, W)
    clip_x0: bool = False  # pixels never leave -1..1, so a sampler may clip its estimate
    steps: Steps | None = None  # of a model trained elsewhere: its own ddpm and ddim step as diffusers does

    @model_validator(mode="after")
    def _possible(self) -> DenoiserSpec:
        if not self.sigma_min < self.sigma_max:
            raise ValueError("sigma_min must be below sigma_max")
        if self.betas is None and (self.prediction in ("eps", "v") or self.time == "timestep"):
            raise ValueError("a network that predicts eps or v, or is told timesteps, needs betas")
        return self


class Denoiser(nn.Module):
    """A network behind the contract.  The network itself is called as network(x, time, cond) -> output (B, C or more, H, W)."""

    def __init__(self, network: nn.Module, spec: DenoiserSpec) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.prediction = PREDICTIONS[spec.prediction]
        self.schedule = spec.betas.schedule() if spec.betas else None

    def forward(self, x: Tensor, sigma: Tensor, cond: Cond | None = None) -> Tensor:
        """x (B, C, H, W) noisy pictures, sigma (B,) their noise -> x0 (B, C, H, W), all float32."""
        scaled = expand(self.prediction.input_scale(sigma, self.spec.sigma_data), x) * x
        output = self.network(scaled, self.time(sigma), cond)
        return self.prediction.x0(x, output[:, : x.shape[1]].to(x.dtype), sigma, self.spec.sigma_data)

    def time(self, sigma: Tensor) -> Tensor:
        """The noise level as this network was taught it, (B,)."""
        if self.spec.time == "timestep":
            assert self.schedule is not None
            return self.schedule.t_from_sigma(sigma).to(sigma.dtype)
        if self.spec.time == "log-sigma":
            return sigma.log() / 4  # EDM, arXiv:2206.00364, table 1
        return 1000 * sigma / (1 + sigma)

    def start(self, eps: Tensor, sigma: float) -> Tensor:
        """Where sampling starts: what the network sees first is eps (B, C, H, W) itself, at noise level `sigma`."""
        return self.prediction.start(eps, sigma, self.spec.sigma_data)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device
