"""Networks of transformers that put a picture into words: BLIP, GIT, and a ViT before a GPT-2.

A folder is what `save_pretrained` leaves: config.json, model.safetensors, tokenizer.json, preprocessor_config.json.  As with all
models of other people, configs are data whose class names are compared with a table, weights come from safetensors alone, and
of the tokenizer only its vocabulary is used, to turn numbers back into words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bowerbird.errors import ModelError
from bowerbird.pretrained.configs import checked_arguments, read_config, read_pixel_scale
from bowerbird.pretrained.hub import Ask
from bowerbird.pretrained.loading import quiet_transformers, read_part

NAMES = {"blip": "Salesforce/blip-image-captioning-base"}  # short names for the hub's
MAX_NEW_TOKENS = 40
BEAMS = 3  # sentences followed at once: what the published captions of these networks were made with
_MAX_SIDE_PX, _MAX_TOKENIZER_BYTES = 1024, 64 * 2**20


class _Family(NamedTuple):
    """A class of transformers, its config's class, and those of the configs within it, with the model types they must name."""

    config: str
    parts: Mapping[str, tuple[str, str]]
    sees: str  # the part that says how large a picture is


_FAMILIES = {
    "BlipForConditionalGeneration": _Family(
        "BlipConfig",
        {"text_config": ("BlipTextConfig", "blip_text_model"), "vision_config": ("BlipVisionConfig", "blip_vision_model")},
        "vision_config",
    ),
    "GitForCausalLM": _Family("GitConfig", {"vision_config": ("GitVisionConfig", "git_vision_model")}, "vision_config"),
    "VisionEncoderDecoderModel": _Family(
        "VisionEncoderDecoderConfig", {"encoder": ("ViTConfig", "vit"), "decoder": ("GPT2Config", "gpt2")}, "encoder"
    ),
}
_TOKENS = ("decoder_start_token_id", "eos_token_id", "pad_token_id")  # a sentence's marks; a table of two models keeps them outside


@dataclass(frozen=True)
class PretrainedCaptioner:
    """Call it with pictures (n, size, size, 3), 0..255, and it answers with a sentence for each."""

    name: str
    size: int
    network: Any
    tokenizer: Any
    mean: Tensor  # (3, 1, 1), of pixels in 0..1
    std: Tensor
    marks: Mapping[str, int]

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8]) -> list[str]:
        x = torch.from_numpy(np.ascontiguousarray(pixels)).movedim(-1, 1).float() / 255
        weight = next(self.network.parameters())
        x = ((x - self.mean) / self.std).to(weight.device, weight.dtype)
        tokens = self.network.generate(
            pixel_values=x, max_new_tokens=MAX_NEW_TOKENS, num_beams=BEAMS, do_sample=False, max_length=None, **self.marks
        )
        return [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens.tolist()]


def open_captioner(where: str, device: torch.device, offline: bool = False, ask: Ask | None = None) -> PretrainedCaptioner:
    """The captioner in a folder, or of a hub name, or `blip`; ModelError when it is none of the table or damaged."""
    from bowerbird.pretrained import fetched

    folder = fetched(where if Path(where).exists() else NAMES.get(where, where), offline, ask)
    if not folder.is_dir():
        raise ModelError(f"there is no captioner {where!r}: give a folder that transformers saved, a hub name, or {', '.join(NAMES)}.")
    path = folder / "config.json"
    config = read_config(path)
    named = config.get("architectures")
    name = str(named[0]) if isinstance(named, list) and len(named) == 1 else ""
    family = _FAMILIES.get(name)
    if family is None:
        raise ModelError(f"{str(path)!r} asks for {str(named)[:80]}, which is no captioner Bowerbird knows. Known: {', '.join(_FAMILIES)}.")
    parts = {part: _part_of(config, part, *expected, path) for part, expected in family.parts.items()}
    size = parts[family.sees].get("image_size", 224)
    if not isinstance(size, int) or not 16 <= size <= _MAX_SIDE_PX:
        raise ModelError(f"{str(path)!r} sees pictures of {str(size)[:40]} px; 16 to {_MAX_SIDE_PX} are possible. Use another copy.")
    network = _network(name, family, config, parts, folder)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in read_pixel_scale(folder))
    marks = {key: config[key] for key in _TOKENS if isinstance(config.get(key), int)} if "decoder" in parts else {}
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    return PretrainedCaptioner(where, size, network.to(device, dtype), _tokenizer(folder), mean, std, marks)


def _part_of(config: Mapping[str, Any], name: str, cls: str, model_type: str, path: Path) -> dict[str, Any]:
    """The checked settings of a config within the config."""
    inner = config.get(name, {})
    if not isinstance(inner, dict) or inner.get("model_type", model_type) != model_type:
        kind = inner.get("model_type") if isinstance(inner, dict) else inner
        raise ModelError(f"{str(path)!r} has {str(kind)[:60]!r} as its {name}, where {model_type!r} is expected; it is refused.")
    return checked_arguments(inner, _own_settings(cls), path) | {"model_type": model_type}


def _own_settings(cls: str) -> set[str]:
    """What a config's class takes beyond what all of them take, and plain in kind."""
    import inspect

    transformers = quiet_transformers()
    common = inspect.signature(transformers.PreTrainedConfig).parameters
    own = set(inspect.signature(getattr(transformers, cls)).parameters) - set(common)
    return own - {"text_config", "vision_config", "encoder", "decoder"}


def _network(name: str, family: _Family, config: Mapping[str, Any], parts: Mapping[str, Any], folder: Path) -> nn.Module:
    transformers, path = quiet_transformers(), folder / "config.json"
    settings = checked_arguments(config, _own_settings(family.config), path)
    if parts.get("decoder", {}).get("n_layer", 0) > 64:
        raise ModelError(f"{str(path)!r} sets n_layer = {parts['decoder']['n_layer']}, beyond any known model; it is refused.")
    tensors = read_part(folder)
    try:  # given tensors instead of a folder, transformers only renames them as its versions did, and ties what is shared
        whole = getattr(transformers, family.config)(**settings, **parts)
        network, told = getattr(transformers, name).from_pretrained(None, config=whole, state_dict=tensors, output_loading_info=True)
    except Exception as error:  # transformers raises many kinds for one cause: values or shapes that fit no network
        reason = str(error).strip().partition("\n")[0][:200]
        raise ModelError(f"the captioner in {str(folder)!r} does not fit its config: {reason}. Use another copy.") from error
    if lacking := sorted(told["missing_keys"]):
        raise ModelError(f"the captioner in {str(folder)!r} lacks {len(lacking)} tensors, the first is {lacking[0]!r}. Use another copy.")
    loaded: nn.Module = network.eval()
    return loaded


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file() or path.stat().st_size > _MAX_TOKENIZER_BYTES:
        raise ModelError(f"there is no tokenizer.json of a usual size in {str(folder)!r}. Download the folder again.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library has one kind for everything
        raise ModelError(f"{str(path)!r} is damaged ({str(error)[:100]}). Download the folder again.") from error
