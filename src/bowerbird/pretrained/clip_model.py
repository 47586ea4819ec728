"""A whole CLIP (Radford et al. 2021, arXiv:2103.00020): captions and pictures in one place, where what belongs together lies close.

A folder is what `save_pretrained` leaves of transformers' CLIPModel and CLIPProcessor: config.json, model.safetensors, the pixels'
scale in preprocessor_config.json (or processor_config.json), and a vocabulary, where it is not CLIP's usual one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bowerbird.errors import ModelError
from bowerbird.models.features import network_input
from bowerbird.pixels import Pixels
from bowerbird.pretrained.clip import MAX_TOKENS, clip_tokenizer
from bowerbird.pretrained.configs import checked_arguments, read_config, read_pixel_scale
from bowerbird.pretrained.loading import CLIP_ARGUMENTS, build_empty, fill, quiet_transformers, read_part
from bowerbird.progress import OnProgress, Progress, tell

_ARGUMENTS = {"text": CLIP_ARGUMENTS, "vision": (*CLIP_ARGUMENTS, "num_channels", "image_size", "patch_size")}
_MAX_SIDE_PX = 1024
_AT_ONCE = 32


@dataclass(frozen=True)
class Clip:
    """Both towers.  size_px: side of the squares it sees; mean, std: (3, 1, 1), of pixels in 0..1."""

    name: str
    size_px: int
    network: Any
    tokenizer: Any
    mean: Tensor
    std: Tensor

    @torch.inference_mode()
    def read(self, captions: Sequence[str]) -> Tensor:
        """Captions as unit vectors, (N, D); what is longer than 77 tokens is cut off, as CLIP was taught."""
        text, found = self.network.text_model, []
        for start in range(0, len(captions), _AT_ONCE):
            some = list(captions[start : start + _AT_ONCE])
            tokens = self.tokenizer(some, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            seen = text(**tokens.to(self._device)).pooler_output
            found.append(F.normalize(self.network.text_projection(seen), dim=1).cpu())
        return torch.cat(found)

    @torch.inference_mode()
    def look(self, pixels: Pixels, on_progress: OnProgress | None = None) -> Tensor:
        """Pictures (N, H, W, 3), 0..255, as unit vectors, (N, D)."""
        found = []
        for start in range(0, len(pixels), _AT_ONCE):
            tell(on_progress, Progress("CLIP", start, len(pixels)))
            x = network_input(pixels[start : start + _AT_ONCE], self.size_px) * 0.5 + 0.5
            seen = self.network.vision_model(((x - self.mean) / self.std).to(self._device)).pooler_output
            found.append(F.normalize(self.network.visual_projection(seen), dim=1).cpu())
        return torch.cat(found)

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.network.logit_scale.device
        return device


def open_clip(folder: Path, device: torch.device) -> Clip:
    """The CLIP in a folder, in float32; ModelError when there is none or it is damaged."""
    if not folder.is_dir():
        raise ModelError(f"there is no CLIP {str(folder)!r}: give a folder that transformers saved a CLIPModel to.")
    path = folder / "config.json"
    network = build_empty(lambda: _described(path), path)
    size_px, positions = network.config.vision_config.image_size, network.config.text_config.max_position_embeddings
    if type(size_px) is not int or not 16 <= size_px <= _MAX_SIDE_PX:
        raise ModelError(f"{str(path)!r} sees pictures of {str(size_px)[:40]} px; 16 to {_MAX_SIDE_PX} are possible. Use another copy.")
    if network.config.vision_config.num_channels != 3 or positions < MAX_TOKENS:
        raise ModelError(f"{str(path)!r} does not see three channels and read {MAX_TOKENS} tokens, as every CLIP does. Use another copy.")
    tokenizer = clip_tokenizer(folder, network.config.text_config.vocab_size)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in read_pixel_scale(folder))
    fill(network, read_part(folder), torch.float32, f"the CLIP in {str(folder)!r}")
    return Clip(folder.resolve().name, size_px, network.to(device), tokenizer, mean, std)


def _described(path: Path) -> Any:
    """The CLIPModel that a config describes.  What an old one keeps in `text_config_dict` comes first, as for transformers."""
    transformers = quiet_transformers()
    config = read_config(path)
    if config.get("architectures") != ["CLIPModel"]:
        raise ModelError(f"{str(path)!r} asks for {str(config.get('architectures'))[:80]} where CLIPModel is expected; it is refused.")
    towers: dict[str, dict[str, Any]] = {}
    for name, known in _ARGUMENTS.items():
        said = [config.get(f"{name}_config{old}") or {} for old in ("", "_dict")]
        if not all(isinstance(part, dict) for part in said):
            raise ModelError(f"the {name}_config of {str(path)!r} is no table of settings. Use another copy.")
        towers[f"{name}_config"] = checked_arguments(said[0] | said[1], known, path)
    return transformers.CLIPModel(transformers.CLIPConfig(**towers, **checked_arguments(config, ("projection_dim",), path)))
