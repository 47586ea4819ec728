"""Seconds and memory of a LoRA's training step at real size: ours, and one as diffusers' own script has it, side by side.

    python benchmarks/lora_step.py [sd15 | sdxl] [PIXELS] [ROUNDS]

The U-Net has the published size and random weights in bfloat16; rank 16 beside attention, one picture, AdamW, one thread.
Theirs: the training step of diffusers' examples/text_to_image/train_text_to_image_lora.py (`unet.add_adapter`, the adapter's
weights cast to float32, autocast, the scheduler's `add_noise`, min-SNR), written from its documentation and on the same tensors.
Ours and theirs take turns in one process; what a forward pass keeps for the backward pass is counted, weights aside.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from bowerbird.diffusion.loss import WEIGHTINGS, denoising_loss, normalised
from bowerbird.diffusion.prediction import add_noise
from bowerbird.diffusion.schedule import uniform_t
from bowerbird.models.denoiser import Betas, Denoiser, DenoiserSpec
from bowerbird.pretrained.adapters import TARGETS, adapted
from bowerbird.pretrained.families import FAMILIES

RANK, TIMESTEP = 16, 400
Step = Callable[[], Tensor]  # a forward pass; its loss


def unet_of(family: str) -> object:
    """Random weights, in the dtype they are used in from the start: float32 would take twice the room."""
    from diffusers import UNet2DConditionModel

    config = json.loads((FAMILIES[family].configs / "unet/config.json").read_text())
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    unet = UNet2DConditionModel.from_config(config)
    torch.set_default_dtype(torch.float32)
    return unet.requires_grad_(False).eval()


def condition(unet: object, side: int) -> tuple[Tensor, dict[str, Tensor]]:
    config = unet.config  # type: ignore[attr-defined]
    text = torch.randn(1, 77, config.cross_attention_dim)
    if config.addition_embed_type is None:
        return text, {}
    sizes = torch.tensor([[8.0 * side, 8.0 * side, 0, 0, 8.0 * side, 8.0 * side]])
    return text, {"text_embeds": torch.randn(1, 1280), "time_ids": sizes}


def ours(unet: object, x0: Tensor, eps: Tensor, text: Tensor, more: dict[str, Tensor]) -> tuple[Step, list[Tensor]]:
    betas = Betas(kind="scaled-linear", start=0.00085, end=0.012)
    schedule, shape = betas.schedule(), (4, x0.shape[-2], x0.shape[-1])
    spec = DenoiserSpec(prediction="eps", time="timestep", betas=betas, sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max,
                        sigma_data=1.0, sample_shape=shape)  # fmt: skip
    model = Denoiser(adapted(unet, RANK, RANK, "attention"), spec)
    weight = normalised(WEIGHTINGS["min-snr"], uniform_t(schedule), 1.0)
    sigma = schedule.sigmas[[TIMESTEP]].float()
    cond = {"text": text} | ({"pooled": more["text_embeds"]} if more else {})
    return lambda: denoising_loss(model(add_noise(x0, eps, sigma), sigma, cond), x0, weight(sigma)).sum(), list(model.parameters())


def theirs(unet: object, x0: Tensor, eps: Tensor, text: Tensor, more: dict[str, Tensor]) -> tuple[Step, list[Tensor]]:
    from diffusers import DDPMScheduler
    from diffusers.training_utils import cast_training_params, compute_snr
    from peft import LoraConfig

    settings = LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=list(TARGETS["attention"]))
    unet.add_adapter(settings)  # type: ignore[attr-defined]
    cast_training_params(unet, dtype=torch.float32)
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    time_of = torch.tensor([TIMESTEP])

    def step() -> Tensor:
        noisy = scheduler.add_noise(x0, eps, time_of)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            told = {name: tensor.bfloat16() for name, tensor in more.items()} or None
            predicted = unet(noisy.bfloat16(), time_of, text.bfloat16(), added_cond_kwargs=told, return_dict=False)[0]  # type: ignore[operator]
        snr = compute_snr(scheduler, time_of)
        loss: Tensor = (snr.clamp(max=5) / snr * (predicted.float() - eps).square().flatten(1).mean(1)).mean()
        return loss

    return step, [parameter for parameter in unet.parameters() if parameter.requires_grad]  # type: ignore[attr-defined]


def kept_bytes(step: Step, frozen: set[int]) -> int:
    """What a forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in frozen:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step()
    total = sum(kept.values())
    del loss
    return total


def main(family: str = "sd15", pixels: str = "256", rounds: str = "3") -> None:
    torch.set_num_threads(1)
    side, ways = int(pixels) // 8, {"ours": ours, "theirs": theirs}
    x0, eps = torch.randn(1, 4, side, side), torch.randn(1, 4, side, side)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    steps: dict[str, tuple[Step, torch.optim.Optimizer]] = {}
    for name, way in ways.items():
        unet = unet_of(family)
        text, more = condition(unet, side)
        frozen = {p.untyped_storage().data_ptr() for p in unet.parameters()}  # type: ignore[attr-defined]
        step, learnt = way(unet, x0, eps, text, more)
        frozen |= {p.untyped_storage().data_ptr() for p in learnt}
        steps[name] = step, torch.optim.AdamW(learnt, lr=1e-4, fused=True)
        count = sum(p.numel() for p in learnt)
        print(
            f"{name}: {count / 1e6:.2f} M learnt weights, {kept_bytes(step, frozen) / 2**20:,.0f} MiB kept for the backward pass",
            flush=True,
        )
    for _ in range(int(rounds)):
        for name, (step, optimizer) in steps.items():
            began = time.process_time()
            step().backward()
            torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
            optimizer.step()
            optimizer.zero_grad()
            seconds[name].append(time.process_time() - began)
            print(f"{name} {seconds[name][-1]:.1f} s of one core", flush=True)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    print(f"{family} at {pixels} px: ours {medians['ours']:.1f} s, theirs {medians['theirs']:.1f} s a step (median of {rounds})")


if __name__ == "__main__":
    main(*sys.argv[1:])
