"""How the weights move: learning rate, AdamW or Muon, and their average."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bowerbird.errors import ModelError
from bowerbird.recipe import Train

# What each keeps of every parameter
_MOMENTS = {torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}, torch.optim.Muon: {"momentum_buffer"}}


def learning_rate(settings: Train, seen: int) -> float:
    """Rises over `warmup` pictures, stays, and falls to 0 over the last `decay` of the run; 0 beyond, where a forecast may come.

    The constant middle is what lets a finished run be extended from the checkpoint kept where the fall begins
    (warmup-stable-decay; arXiv:2404.06395).
    """
    rise = min(1.0, (seen + settings.batch) / settings.warmup) if settings.warmup else 1.0
    fall_pictures = settings.decay * settings.pictures
    fall = min(1.0, max(0, settings.pictures - seen) / fall_pictures) if fall_pictures else 1.0
    return settings.lr * min(rise, fall)


def decay_start(settings: Train) -> int:
    """Pictures seen where the learning rate begins to fall, in whole batches."""
    start = settings.pictures - settings.decay * settings.pictures
    return int(start // settings.batch) * settings.batch


def make_optimizers(settings: Train, network: nn.Module) -> list[torch.optim.Optimizer]:
    """AdamW for everything; or Muon for the matrices inside the network and AdamW for the rest."""
    parameters = dict(network.named_parameters())
    matrices = {name for name, p in parameters.items() if p.ndim == 2 and "blocks" in name} if settings.optimizer == "muon" else set()
    rest = [p for name, p in parameters.items() if name not in matrices]
    adamw = torch.optim.AdamW(rest, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True)
    if not matrices:
        return [adamw]
    # match_rms_adamw scales Muon's steps to AdamW's size, so that one learning rate serves both (arXiv:2502.16982)
    muon = torch.optim.Muon(
        [parameters[name] for name in sorted(matrices)], lr=settings.lr, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [adamw, muon]


def adversary_optimizer(settings: Train, critic: nn.Module) -> torch.optim.Optimizer:
    """AdamW with little momentum: what a critic learnt of earlier pictures is out of date soon (StyleGAN2, arXiv:1912.04958, has none)."""
    return torch.optim.AdamW(critic.parameters(), lr=settings.lr, betas=(0.5, 0.95), weight_decay=settings.weight_decay, fused=True)


def set_learning_rate(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The moments of all optimizers as flat names: '<optimizer>.<parameter>.<moment>'."""
    return {
        f"{number}.{parameter}.{name}": tensor
        for number, optimizer in enumerate(optimizers)
        for parameter, moments in optimizer.state_dict()["state"].items()
        for name, tensor in moments.items()
    }


def load_optimizer_tensors(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Give the optimizers their moments; ModelError when these are not theirs."""
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    own = [[p for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]
    places = {f"{number}.{parameter}": weight for number, weights in enumerate(own) for parameter, weight in enumerate(weights)}
    for flat, tensor in tensors.items():
        place, _, name = flat.rpartition(".")
        weight = places.get(place)
        if weight is None or tensor.shape not in (weight.shape, ()):
            raise ModelError(f"the moment {flat[:80]!r} of shape {list(tensor.shape)} is none of this network's. Restore the checkpoint.")
        if tensor.shape == weight.shape:  # fused optimizers walk through memory: the moments must lie there as the weights do
            tensor = torch.empty_like(weight, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
        number, parameter = map(int, place.split("."))
        states[number].setdefault(parameter, {})[name] = tensor
    for optimizer, state in zip(optimizers, states, strict=True):
        if any(moments.keys() != _MOMENTS[type(optimizer)] for moments in state.values()):
            raise ModelError("moments of this network are missing. Restore the checkpoint.")
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class Ema:
    """Power-function average of the weights (EDM2; Karras et al. 2024, arXiv:2312.02696, section 3.1).

    Its width is a constant share of training so far, so one number serves short and long runs, and the random start is
    forgotten by itself: no warm-up.
    """

    def __init__(self, model: nn.Module, relative_width: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.exponent = ema_exponent(relative_width)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Blend in the weights after update number `step` (1, 2, ...)."""
        blend = 1 - (1 - 1 / step) ** (self.exponent + 1)
        own, new = self.model.state_dict(), model.state_dict()
        floating = [name for name, tensor in own.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([own[name] for name in floating], [new[name] for name in floating], blend)
        for name in own.keys() - set(floating):
            own[name].copy_(new[name])


def ema_exponent(relative_width: float) -> float:
    """gamma such that weights t^gamma have standard deviation `relative_width` (in units of training length).

    sigma_rel = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)); the largest real root of the cubic it makes.
    """
    w = relative_width**-2
    roots: Any = np.roots([1, 7, 16 - w, 12 - w])
    return float(roots.real.max())
