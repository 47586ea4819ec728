"""Painting from the starter beside diffusers: the same arithmetic, in turn in one process.

    python -m benchmarks.painting    about two minutes on one core; writes benchmarks/painting.json

diffusers' side is its DiTPipeline on a DiT of the starter's shape (width 320, 10 blocks, 5 heads, a token a latent, random weights, which
cost what learnt ones do), classes in place of words, the starter's own decoder, 12 steps of DPM-Solver++, guidance 4.  Both in
float32 on one thread.  Seconds are of the processor, so that other programs disturb them little.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DiTPipeline, DiTTransformer2DModel, DPMSolverMultistepScheduler
from torch import Tensor, nn

from benchmarks import machine
from bowerbird.generate import open_model
from bowerbird.models.autoencoder import LatentSpace
from bowerbird.models.transformer import Transformer
from bowerbird.painter import OwnPainter
from bowerbird.request import PaintRequest

TARGET = Path(__file__).with_suffix(".json")
COUNTS, TURNS, STEPS, GUIDANCE = (1, 16), 5, 12, 4.0
PROMPT = "3D fluent emoji of a red bird"


class Decoder(nn.Module):
    """The starter's latent space, as DiTPipeline calls an autoencoder."""

    def __init__(self, space: LatentSpace) -> None:
        super().__init__()
        self.space, self.config = space, SimpleNamespace(scaling_factor=1.0)
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def decode(self, latents: Tensor) -> Any:
        return SimpleNamespace(sample=self.space.decode(latents))


def seconds(paint: Callable[[], Any]) -> float:
    began = time.process_time()
    paint()
    return time.process_time() - began


def _all(painter: OwnPainter, request: PaintRequest) -> None:
    list(painter.paint(request))


def main() -> None:
    torch.set_num_threads(1)
    painter = open_model("starter", torch.device("cpu"))
    assert isinstance(painter, OwnPainter)
    channels, side, _ = painter.denoiser.spec.sample_shape
    assert isinstance(painter.denoiser.network, Transformer)
    network = painter.denoiser.network.config
    transformer = DiTTransformer2DModel(
        num_attention_heads=network.heads,
        attention_head_dim=network.width // network.heads,
        in_channels=channels,
        out_channels=channels,
        num_layers=network.depth,
        sample_size=side,
        patch_size=network.patch,
    ).eval()
    pipeline = DiTPipeline(transformer, Decoder(painter.model.space), DPMSolverMultistepScheduler())
    pipeline.set_progress_bar_config(disable=True)
    report: dict[str, Any] = {"machine": machine.describe(), "steps": STEPS, "guidance": GUIDANCE}
    for side_name, parameters in (("bowerbird", painter.denoiser.network.parameters()), ("diffusers", transformer.parameters())):
        report[side_name] = {"parameters": sum(p.numel() for p in parameters), "seconds a picture": {}}
    for count in COUNTS:
        request = PaintRequest(prompt=PROMPT, count=count, seed=1, steps=STEPS, sampler="dpm++2m", guidance=GUIDANCE)
        sides: dict[str, Callable[[], Any]] = {
            "bowerbird": partial(_all, painter, request),
            "diffusers": partial(pipeline, [1] * count, guidance_scale=GUIDANCE, num_inference_steps=STEPS),
        }
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(TURNS + 1):
            for name, paint in sides.items():
                spent = seconds(paint) / count
                if turn:  # the first is to warm up
                    taken[name].append(spent)
        for name, times in taken.items():
            report[name]["seconds a picture"][str(count)] = round(statistics.median(times), 3)
    TARGET.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
