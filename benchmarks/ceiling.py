"""How much of what the device multiplies a training step of the transformer uses, by tokens a picture.

    python -m benchmarks.ceiling [--device cuda] [--network small] [--batch 256]

Forward and backward of the network alone, compiled, in bf16, on pictures of noise; the ceiling is the best of some products of large
square matrices in bf16 on the same device in the same run.  Operations are counted by torch on a batch of one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bowerbird import hardware
from bowerbird.models.transformer import SIZES, Block, Transformer, TransformerConfig

SIDES = (4, 8, 16, 32)  # 16, 64, 256 and 1,024 tokens
CHANNELS, SQUARE, ROUNDS = 12, 8192, 10


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """The fastest of a few turns, the device's work included."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return min(found)


def step(network: torch.nn.Module, batch: int, side: int, device: torch.device) -> Callable[[], None]:
    x, sigma = torch.randn(batch, CHANNELS, side, side, device=device), torch.ones(batch, device=device)

    def forward_and_backward() -> None:
        with hardware.autocast(device, "bf16"):
            loss = network(x, sigma).square().mean()
        loss.backward()

    return forward_and_backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device")
    parser.add_argument("--network", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=256, help="pictures; fewer where memory is short")
    parser.add_argument("--square", type=int, default=SQUARE, help="side of the matrices that tell the ceiling")
    options = parser.parse_args()
    device = hardware.choose_device(options.device)
    square = torch.ones(options.square, options.square, dtype=torch.bfloat16, device=device)
    ceiling = 2 * options.square**3 / seconds(lambda: square @ square, device)
    print(f"{hardware.describe(device)}: {ceiling / 1e12:.2f} TFLOP/s in bf16")
    width, depth, heads = SIZES[options.network]
    for side in SIDES:
        network = Transformer(TransformerConfig(width, depth, heads, patch=1, channels=CHANNELS, absolute=True)).to(device)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            step(network, 1, side, device)()
        for block in network.modules():
            if isinstance(block, Block):
                block.compile(fullgraph=True, dynamic=False)
        taken = seconds(step(network, options.batch, side, device), device)
        rate = options.batch * counter.get_total_flops() / taken
        print(
            f"{side * side:5} tokens: {options.batch / taken:8,.0f} pictures/s, {rate / 1e12:.2f} TFLOP/s, {rate / ceiling:.0%}", flush=True
        )


if __name__ == "__main__":
    main()
