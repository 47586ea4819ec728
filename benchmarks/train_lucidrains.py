"""denoising-diffusion-pytorch's own `Trainer` for a given time.

    pip install --no-deps denoising-diffusion-pytorch==2.3.4 einops ema-pytorch
    python -m benchmarks.train_lucidrains FOLDER OUT --minutes 20 --seed 0 --variant medium

Its defaults: Unet with multipliers 1 2 4 8, v prediction, sigmoid schedule, Adam 1e-4, batch 16, EMA 0.995, flips.  Sampling
and FID on the way, which its Trainer does by default, are off: they would only cost it time.
"""

from __future__ import annotations

from benchmarks.peer import CLOCK, STARTED, read_options  # isort: split

import contextlib
import json
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from bowerbird import weights

VARIANTS = {"small": 16, "medium": 32, "large": 64}  # `dim`; 64 is its readme's
TIMESTEPS = 1000


class TimeIsUp(Exception):  # noqa: N818 - the way out of somebody else's loop
    pass


def diffusion(variant: str, size: int, sampling_steps: int = TIMESTEPS) -> Any:
    """Its GaussianDiffusion around its Unet."""
    _stand_in_for_torchvision()
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    return GaussianDiffusion(
        Unet(dim=VARIANTS[variant], dim_mults=(1, 2, 4, 8), flash_attn=False),
        image_size=size,
        timesteps=TIMESTEPS,
        sampling_timesteps=sampling_steps,
    )


def until(deadline: float, batches: Iterator[Any]) -> Iterator[Any]:
    for batch in batches:
        if CLOCK() > deadline:
            raise TimeIsUp
        yield batch


def main() -> None:
    options = read_options(__doc__, VARIANTS)
    torch.manual_seed(options.seed)
    size = Image.open(next(options.folder.glob("*.png"))).width
    model = diffusion(options.variant, size)
    from denoising_diffusion_pytorch import Trainer

    options.out.mkdir(parents=True, exist_ok=True)
    never = 10**9
    trainer = Trainer(
        model, str(options.folder), train_num_steps=never, save_and_sample_every=never, calculate_fid=False, results_folder=str(options.out)
    )
    trainer.dl = until(STARTED + 60 * options.minutes, trainer.dl)
    with contextlib.suppress(TimeIsUp):
        trainer.train()
    (options.out / "model.safetensors").write_bytes(weights.to_bytes(trainer.ema.ema_model.state_dict()))
    told = {"pictures_seen": trainer.step * trainer.batch_size, "parameters": sum(p.numel() for p in model.model.parameters())}
    (options.out / "training.json").write_text(json.dumps(told | {"variant": options.variant, "size": size}))


def _stand_in_for_torchvision() -> None:
    """The handful of transforms it uses, where no torchvision is built for this torch."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        module, transforms, utils = ModuleType("torchvision"), ModuleType("torchvision.transforms"), ModuleType("torchvision.utils")
        for each in (Compose, Lambda, Resize, RandomHorizontalFlip, CenterCrop, ToTensor):
            setattr(transforms, each.__name__, each)
        module.transforms, module.utils = transforms, utils  # type: ignore[attr-defined]
        sys.modules |= {"torchvision": module, "torchvision.transforms": transforms, "torchvision.utils": utils}


class Compose:
    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms

    def __call__(self, picture: Any) -> Any:
        for transform in self.transforms:
            picture = transform(picture)
        return picture


class Lambda:
    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, picture: Any) -> Any:
        return self.function(picture)


class Resize:
    """The pictures have their size already."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, picture: Image.Image) -> Image.Image:
        assert picture.size == self.size
        return picture


class CenterCrop(Resize):
    pass


class RandomHorizontalFlip:
    def __call__(self, picture: Image.Image) -> Image.Image:
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(1) < 0.5 else picture


class ToTensor:
    def __call__(self, picture: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


if __name__ == "__main__":
    main()
