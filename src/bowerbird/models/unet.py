"""diffusers' UNet2DModel: the DDPM of the literature, and the network other tools can open.

diffusers is imported when a U-Net is built, never before; our transformer paints without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bowerbird.errors import MissingExtraError, ModelError
from bowerbird.models.conditioning import Cond

if TYPE_CHECKING:
    from diffusers import UNet2DModel

# name: (channels of each level, layers in a level, levels with attention counted from the finest)
SIZES: dict[str, tuple[tuple[int, ...], int, tuple[int, ...]]] = {
    "micro": ((32, 32), 1, ()),
    "small": ((64, 128, 192, 256), 1, (2, 3)),
    "114m": ((128, 128, 256, 256, 512, 512), 2, (4,)),  # diffusers' unconditional training example
}


class UNet(nn.Module):
    """network(x, time, cond) -> output around a UNet2DModel."""

    def __init__(self, network: UNet2DModel) -> None:
        super().__init__()
        self.network = network
        self.channels = int(network.config["in_channels"])

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        label = (cond or {}).get("label")
        if label is None and self.network.config.num_class_embeds is not None:
            label = torch.full((len(x),), self.network.config.num_class_embeds - 1, device=x.device)  # "no class"
        if self.network.config.time_embedding_type == "learned":  # a vector for each whole timestep
            time = time.round().long()
        return self.network(x, time, class_labels=label, return_dict=False)[0]  # type: ignore[no-any-return]


def unet_class() -> type[UNet2DModel]:
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise MissingExtraError("diffusers", "pretrained") from error
    return UNet2DModel  # type: ignore[no-any-return]


def check_answers(build: Callable[[], UNet2DModel], size: tuple[int, int], where: str) -> None:
    """ModelError for a config that makes a network from which no picture comes: it is asked once, for shapes alone."""
    try:
        with torch.device("meta"), torch.inference_mode():
            network = UNet(build())
            answer = network(torch.empty(1, network.channels, *size), torch.zeros(1))
    except Exception as error:  # diffusers and torch raise many kinds for one cause: values that go together in no network
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"the config of {where!r} describes a network that does not work: {reason}. Use another copy.") from error
    if answer.shape[2:] != size:
        raise ModelError(f"the config of {where!r} describes a network that changes the size of pictures. Use another copy.")


def unet_config(size: str, size_px: int, channels: int, label_count: int, dropout: float) -> dict[str, Any]:
    """The arguments of UNet2DModel for one of our sizes."""
    widths, layers, attention = SIZES[size]
    down = ["AttnDownBlock2D" if level in attention else "DownBlock2D" for level in range(len(widths))]
    config: dict[str, Any] = {
        "sample_size": size_px,
        "in_channels": channels,
        "out_channels": channels,
        "layers_per_block": layers,
        "block_out_channels": widths,
        "down_block_types": tuple(down),
        "up_block_types": tuple(block.replace("Down", "Up") for block in reversed(down)),
        "dropout": dropout,
    }
    if label_count:
        config["num_class_embeds"] = label_count + 1  # the last one is "no class"
    return config
