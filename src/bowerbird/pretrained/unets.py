"""A Stable Diffusion U-Net as our networks are called: network(x, time, cond) -> output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bowerbird.models.conditioning import Cond


def predict(unet: Any, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
    """What the U-Net says of x (B, 4, h, w) and `cond["text"]` (B, 77, width), and XL of `cond["pooled"]` (B, width) too; float32.

    XL is told sizes as well, `cond["sizes"]` (B, 6) in pixels: height and width of the picture as it came, top and left of the crop,
    height and width of what is painted.  Without them, those of a whole picture.
    The x4 upscaler reads `cond["small"]` (B, 3, h, w), the small picture with noise of the level `cond["level"]` (B,).
    """
    dtype, more = unet.dtype, None
    if "small" in cond:
        x = torch.cat([x, cond["small"]], 1)
    if "pooled" in cond:
        high, wide = 8.0 * x.shape[-2], 8.0 * x.shape[-1]
        sizes = cond.get("sizes", x.new_tensor([high, wide, 0, 0, high, wide]).expand(len(x), -1))
        more = {"text_embeds": cond["pooled"].to(dtype), "time_ids": sizes.float()}
    output: Tensor = unet(x.to(dtype), time, cond["text"].to(dtype), cond.get("level"), added_cond_kwargs=more, return_dict=False)[0]
    return output.float()


class WholeUNet(nn.Module):
    """A U-Net all of whose weights learn."""

    def __init__(self, unet: Any, recompute: bool = False) -> None:
        """recompute: keep little of a forward pass and do it again for the backward pass."""
        super().__init__()
        self.unet = unet.requires_grad_(True)
        if recompute:
            unet.enable_gradient_checkpointing()

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        return predict(self.unet, x, time, cond)
