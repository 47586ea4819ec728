"""The peer of `benchmarks/serving.py`: a diffusers pipeline behind FastAPI and uvicorn, one picture at a time.

A DiTPipeline with random weights, shaped after a model of ours: the same width, depth, heads, patches, latents, guided steps and solver
(DPM-Solver++ 2M).  The width of its AutoencoderKL is the one with which a picture costs most nearly as many floating-point operations
as ours does.  Requests wait for a lock in uvicorn's threads, as in the usual example of serving diffusers; nothing is written to disk.
"""

from __future__ import annotations

import argparse
import base64
import io
import threading
from pathlib import Path
from typing import Any

import torch
import uvicorn
from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel, DPMSolverMultistepScheduler
from fastapi import FastAPI, Response
from torch.utils.flop_counter import FlopCounterMode

import bowerbird
from bowerbird.request import read_request

WIDTHS = range(8, 72, 8)  # of the decoder's last block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--home", type=Path, required=True, help="unused: a peer that keeps nothing")
    options = parser.parse_args()
    ours: Any = bowerbird.load(options.model)
    asked = read_request({"prompt": "x", "model": options.model, "seed": 0})
    flops = {"ours": operations(lambda: list(ours.paint(asked)))}
    steps, guidance = ours.first.sampling.steps, ours.first.sampling.guidance
    pipelines = [pipeline(ours, width) for width in WIDTHS]
    costs = [operations(lambda pipe=pipe: pipe([0], guidance, num_inference_steps=steps)) for pipe in pipelines]
    pipe, flops["peer"] = min(zip(pipelines, costs, strict=True), key=lambda each: abs(each[1] - flops["ours"]))
    turn, app = threading.Lock(), FastAPI()

    @app.post("/v1/images/generations")
    def paint(body: dict[str, Any]) -> dict[str, Any]:
        with turn:
            (picture,) = pipe([0], guidance, num_inference_steps=steps).images
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return {"data": [{"b64_json": base64.b64encode(buffer.getvalue()).decode()}]}

    @app.get("/health/ready")
    def ready() -> Response:
        return Response()

    @app.get("/flops")
    def counted() -> dict[str, int]:
        return flops

    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


def pipeline(ours: Any, width: int) -> DiTPipeline:
    """The shape of our network, random weights, and a decoder whose last block has `width` channels."""
    config, factor = ours.first.denoiser.network.config, ours.first.model.space.autoencoder.factor
    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        num_attention_heads=config.heads, attention_head_dim=config.width // config.heads, num_layers=config.depth,
        in_channels=config.channels, out_channels=config.channels, patch_size=config.patch, sample_size=ours.native_px // factor,
    )  # fmt: skip
    widths = [min(2**level, 4) * width for level in range(factor.bit_length())]
    vae = AutoencoderKL(
        block_out_channels=widths, latent_channels=config.channels, norm_num_groups=8, layers_per_block=1,
        down_block_types=["DownEncoderBlock2D"] * len(widths), up_block_types=["UpDecoderBlock2D"] * len(widths),
    )  # fmt: skip
    pipe = DiTPipeline(network.eval(), vae.eval(), DPMSolverMultistepScheduler(use_karras_sigmas=True))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def operations(paint: Any) -> int:
    """Floating-point operations of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        paint()
    return int(counter.get_total_flops())


if __name__ == "__main__":
    main()
