"""Memory and time of one U-Net call with PyTorch's fused attention and with diffusers' sliced attention.

    python benchmarks/attention_slicing.py

A U-Net with the attention of Stable Diffusion 1.x's first level (8 heads) and few channels, so that attention is what is
measured; two predictions at once, as guidance makes them; float32, one thread.  Each way runs in a process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

WAYS = ("fused", "auto", "max")  # the latter two as diffusers' `set_attention_slice` calls them: two slices, one head a slice


def measure(way: str, latent_side: int) -> str:
    import torch
    from diffusers import UNet2DConditionModel

    torch.set_num_threads(1)
    unet = UNet2DConditionModel(
        block_out_channels=(64, 64), layers_per_block=1, cross_attention_dim=64, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip
    if way != "fused":
        unet.set_attention_slice(way)
    text = torch.randn(2, 77, 64)
    with torch.inference_mode():
        unet(torch.randn(2, 4, 16, 16), 1, text)  # what a first call loads is no part of it
        before, start = _peak_mib(), time.process_time()
        unet(torch.randn(2, 4, latent_side, latent_side), 1, text)
    return f"{_peak_mib() - before:8,.0f} MiB {time.process_time() - start:8.1f} s"


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    if len(sys.argv) == 3:
        print(measure(sys.argv[1], int(sys.argv[2])))
        return
    for latent_side in (64, 96):
        for way in WAYS:
            done = subprocess.run([sys.executable, __file__, way, str(latent_side)], stdout=subprocess.PIPE, text=True, check=True)
            print(f"{latent_side * 8} px, {way:5}: {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
